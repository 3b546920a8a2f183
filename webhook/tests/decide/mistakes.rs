//! Refused annotations, and the message of each. Pure.

use super::*;

/// A pattern matches images of one repository, or those below one path, and none with a longer name.
#[test]
fn a_pattern_of_images_is_met_by_no_longer_name() {
    let table = [
        ("registry.example.com/ts:v2", true),
        ("registry.example.com/team/ts:v2", true),
        ("registry.example.com/team/a/b", true),
        ("ts@sha256:0f", true),
        ("registry.example.com/ts:5000/evil", false),
        ("registry.example.com/ts-evil:v2", false),
        ("registry.example.com.evil.org/ts:v2", false),
        ("registry.example.com/team-evil/ts", false),
        ("ts@x/evil", false),
    ];
    for (image, allowed) in table {
        let pairs = [("inject", "tailscale"), ("image", image)];
        api(&pairs, None, |decision| match decision {
            Decision::Inject(injection) => {
                assert!(allowed, "{image}");
                assert_eq!(injection.tailscale.unwrap().image, image);
            }
            Decision::Deny(refusal) => {
                assert!(!allowed, "{image}: {}", refusal.message);
                assert_eq!(refusal.reason, DenyReason::NotAllowed);
            }
            other => panic!("{other:?}"),
        });
    }
}

#[test]
fn no_message_shows_a_key_or_all_of_a_megabyte() {
    let key = format!("hskey-auth-gcA5aTk6X1vK-{}", "s3".repeat(32));
    let key = &*key;
    let tables = [
        &[("auth-key-secret", key)][..],
        &[("service", key)],
        &[("tags", key)],
        &[("extra-args", key)],
        &[("image", key), ("profile", key)],
        &[("hostname", key)],
        &[("exit-node", key)],
        &[("auth-key-expiration", key)],
    ];
    for pairs in tables {
        let mut pairs = pairs.to_vec();
        pairs.push(("inject", "tailscale"));
        api(&pairs, None, |decision| match decision {
            Decision::Deny(refusal) => {
                let message = refusal.message;
                assert!(message.contains("hskey-<redacted>"), "{pairs:?}: {message}");
                assert!(!message.contains("s3s3"), "{pairs:?}: {message}");
            }
            other => panic!("{pairs:?}: {other:?}"),
        });
    }
    let (long, nothing) = ("\u{1b}[31mx".repeat(1 << 17), Pairs(Vec::new()));
    for owner in [
        Some(WorkloadOwner {
            kind: &long,
            name: "api",
        }),
        Some(WorkloadOwner {
            kind: "CloneSet",
            name: &long,
        }),
        None,
    ] {
        let (annotations, policy) = (ours(&[("inject", "tailscale")]), policy());
        let subject = Subject {
            namespace: "shop",
            name: &long,
            annotations: &annotations,
            labels: &nothing,
            owner,
            namespace_metadata: None,
            namespace_opted_in: false,
            profile: None,
            caller: Caller::Verified,
            request: "705ab4f5-6393-11e8-b7cc-42010a800002",
        };
        match decide(&subject, &policy) {
            Decision::Deny(refusal) => {
                assert_eq!(refusal.reason, DenyReason::NoService);
                assert!(
                    refusal.message.len() < 1024,
                    "{} bytes",
                    refusal.message.len()
                );
                assert!(!refusal.message.contains('\u{1b}'), "{}", refusal.message);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn names_annotation_value_and_accepted_form_of_each_mistake() {
    use DenyReason::{BadValue, NotAllowed, NotSupported};
    let table = [
        (
            ("inject", "tailscal"),
            BadValue,
            "want tailscale, apikey-manager, server-keys, several of these separated by commas, true or false",
        ),
        (
            ("inject", "tailscale,false"),
            BadValue,
            "want tailscale, apikey-manager, server-keys, several of these separated by commas, true or false",
        ),
        (
            ("service", "My API"),
            BadValue,
            "want a name of lower-case letters, digits, dashes and dots, at most 200 characters, such as api",
        ),
        (
            ("hostname", "{cluster}"),
            BadValue,
            "want lower-case letters, digits, dashes, dots, {service}, {namespace}, {pod} and {node}, such as {service}-{namespace}",
        ),
        (
            ("control-plane", "https://evil"),
            NotAllowed,
            "want one of the control planes that are open to namespace \"shop\": default",
        ),
        (
            ("tags", "web"),
            BadValue,
            "want tags such as tag:web,tag:prod, in lower case",
        ),
        (
            ("tags", "tag:admin"),
            NotAllowed,
            "tag:admin is not allowed; the profile allows tag:web, tag:db: use one of these, or ask the operator to add it to profiles.default.allowedTags",
        ),
        (("reusable", "yes"), BadValue, "want true or false"),
        (
            ("auth-key-expiration", "5 weeks"),
            BadValue,
            "want a duration such as 90m, 12h or 30d",
        ),
        (("auth-key-expiration", "59m"), BadValue, "want at least 1h"),
        (
            ("auth-key-expiration", "366d"),
            BadValue,
            "want at most 8760h, or ask the operator to raise profiles.default.maxAuthKeyExpiration",
        ),
        (
            ("auth-key-expiration", "24h"),
            BadValue,
            "too short for the rotation buffer of 240h: set \"sidescale.io/auth-key-rotation-buffer\" to at most 23h",
        ),
        (
            ("auth-key-rotation-buffer", "100d"),
            BadValue,
            "want at most 2159h: a key with an expiration of 2160h is renewed no sooner than 1h after its creation",
        ),
        (
            ("auth-key-rotation-buffer", "2159h1s"),
            BadValue,
            "want at most 2159h: a key with an expiration of 2160h is renewed no sooner than 1h after its creation",
        ),
        (("auth-key-delivery", "argv"), BadValue, "want env or file"),
        (
            ("auth-key-secret", "mine"),
            BadValue,
            "want <Secret name>/<data key>, such as my-keys/authkey",
        ),
        (
            ("state", "disk"),
            BadValue,
            "want emptydir, memory or volume:<name of one of the pod's volumes>",
        ),
        (
            ("state", "volume:"),
            BadValue,
            "want emptydir, memory or volume:<name of one of the pod's volumes>",
        ),
        (
            ("state", "volume:My_Data"),
            BadValue,
            "want emptydir, memory or volume:<name of one of the pod's volumes>",
        ),
        (
            ("state", "volume:data"),
            BadValue,
            "only pods of a StatefulSet keep their name, and with it their state: want emptydir or memory",
        ),
        (
            ("ephemeral", "false"),
            BadValue,
            "without stored state, every pod would leave a node behind: want true, or state volume:<name> in a StatefulSet",
        ),
        (("ephemeral", "no"), BadValue, "want true or false"),
        (
            ("userspace", "false"),
            NotSupported,
            "not supported yet, want true",
        ),
        (("native-sidecar", "no"), BadValue, "want true or false"),
        (("accept-dns", "yes"), BadValue, "want true or false"),
        (("accept-routes", "1"), BadValue, "want true or false"),
        (
            ("proxy", "true"),
            BadValue,
            "want a port from 1024 to 65535, such as 1055, or false",
        ),
        (
            ("proxy", "+1055"),
            BadValue,
            "want a port from 1024 to 65535, such as 1055, or false",
        ),
        (
            ("proxy", "443"),
            BadValue,
            "want a port from 1024 to 65535, such as 1055, or false",
        ),
        (
            ("proxy-env", "true"),
            BadValue,
            "there is no proxy: want false, or set sidescale.io/proxy to a port such as 1055",
        ),
        (
            ("image", "my image"),
            BadValue,
            "want an image such as docker.io/tailscale/tailscale:v1.102.3",
        ),
        (
            ("image", "evil/tailscale"),
            NotAllowed,
            "the profile allows registry.example.com/ts:*, registry.example.com/team/*, ts@*, or ask the operator to add it to profiles.default.allowedImages",
        ),
        (("wait", "1"), BadValue, "want true or false"),
        (
            ("cpu-request", "fast"),
            BadValue,
            "want a Kubernetes quantity such as 50m or 0.2",
        ),
        (
            ("cpu-request", "1"),
            BadValue,
            "want no more than the limit, which is 200m",
        ),
        (
            ("memory-limit", "0"),
            BadValue,
            "want a Kubernetes quantity such as 128Mi or 1Gi",
        ),
        (
            ("memory-limit", "1Mi"),
            BadValue,
            "want no less than the request, which is 128Mi",
        ),
        (
            ("exit-node", "true"),
            NotSupported,
            "not supported yet, remove it",
        ),
        (
            ("serve-config", "web"),
            NotSupported,
            "not supported yet, remove it",
        ),
        (("key-mode", "own"), BadValue, "want shared or per-pod"),
        (
            ("profile", "other"),
            NotAllowed,
            "want one of the profiles that are open to namespace \"shop\": default",
        ),
    ];
    for ((key, value), reason, want) in table {
        let message = format!("annotation \"sidescale.io/{key}\" is {value:?}: {want}");
        let refusal = |text: String| Refusal {
            reason,
            message: text,
        };
        let pairs = if key == "inject" {
            vec![(key, value)]
        } else {
            vec![("inject", "true"), (key, value)]
        };
        api(&pairs, None, |decision| {
            assert_eq!(decision, Decision::Deny(refusal(message.clone())))
        });
        if key != "inject" {
            let namespace = metadata(None, &[(key, value)]);
            let message = message.replace("\" is", "\" of namespace \"shop\" is");
            api(&[("inject", "true")], Some(&namespace), |decision| {
                assert_eq!(decision, Decision::Deny(refusal(message)));
            });
        }
    }
}

#[test]
fn refuses_properties_of_a_key_that_is_not_ours() {
    api(
        &[
            ("inject", "true"),
            ("auth-key-secret", "mine/key"),
            ("tags", "tag:web"),
        ],
        None,
        |decision| {
            let message = "annotation \"sidescale.io/tags\" is \"tag:web\": this applies to keys that Sidescale creates, and \"sidescale.io/auth-key-secret\" names your own: remove one of the two";
            assert_eq!(
                decision,
                Decision::Deny(Refusal {
                    reason: DenyReason::BadValue,
                    message: message.to_owned()
                })
            );
        },
    );
}

#[test]
fn lets_through_allowed_arguments_alone_however_they_are_spelt() {
    for good in [
        "",
        " ",
        "--ssh",
        "-ssh",
        "--ssh=true",
        "--operator me",
        "-operator=me",
        "  --shields-up   --operator  me --ssh ",
    ] {
        injected(&[("extra-args", good)], None, |sidecar| {
            assert_eq!(sidecar.extra_args, good);
        });
    }
    let other = "want arguments of tailscale up, separated by spaces, without quotes, backslashes or $, such as --shields-up";
    let ours = |name: &str, instead: &str| {
        format!("--{name} would override what Sidescale sets: {instead}")
    };
    let unknown = |name: &str| {
        format!(
            "--{name} is not allowed; the profile allows --ssh, --shields-up, --operator, or ask the operator to add it to profiles.default.allowedExtraArgs"
        )
    };
    let plane = ours("login-server", "set sidescale.io/control-plane");
    let key = |name: &str| ours(name, "the key comes from a Secret, so remove it");
    let no_argument =
        |word: &str| format!("{word:?} is not an argument: want arguments such as --shields-up");
    let stray = |word: &str| {
        format!("{word:?} belongs to no argument: want arguments such as --shields-up")
    };
    let table = [
        ("--login-server=https://evil", plane.clone()),
        ("-login-server=https://evil", plane.clone()),
        ("--login-server https://evil", plane.clone()),
        ("-login-server https://evil", plane.clone()),
        ("--ssh --login-server=https://evil", plane.clone()),
        ("--operator --login-server=https://evil", plane.clone()),
        ("--operator=me -login-server https://evil", plane),
        ("--authkey=x", key("authkey")),
        ("-auth-key x", key("auth-key")),
        ("--client-secret=x", key("client-secret")),
        (
            "--advertise-tags=tag:web",
            ours("advertise-tags", "set sidescale.io/tags"),
        ),
        (
            "--hostname=x",
            ours("hostname", "set sidescale.io/hostname"),
        ),
        (
            "-accept-routes",
            ours("accept-routes", "set sidescale.io/accept-routes"),
        ),
        (
            "--exit-node=x",
            ours(
                "exit-node",
                "routes and exit nodes are not supported yet, so remove it",
            ),
        ),
        ("--reset", ours("reset", "remove it")),
        ("--force-reauth", unknown("force-reauth")),
        ("--ssh --unknown", unknown("unknown")),
        ("---ssh", no_argument("---ssh")),
        ("--", no_argument("--")),
        ("-", no_argument("-")),
        ("--=x", no_argument("--=x")),
        ("--Ssh", no_argument("--Ssh")),
        ("ssh", stray("ssh")),
        ("--operator me you", stray("you")),
        ("--ssh=true me", stray("me")),
        (
            "--ssh false",
            "--ssh takes no separate value: want --ssh or --ssh=false".to_owned(),
        ),
        ("--operator=$(TS_AUTHKEY)", other.to_owned()),
        ("--operator='me'", other.to_owned()),
        ("--ssh\n--login-server=https://evil", other.to_owned()),
        ("--ssh\u{a0}--login-server=https://evil", other.to_owned()),
    ];
    for (value, want) in table {
        let message = format!("annotation \"sidescale.io/extra-args\" is {value:?}: {want}");
        api(
            &[("inject", "true"), ("extra-args", value)],
            None,
            |decision| match decision {
                Decision::Deny(refusal) => assert_eq!(refusal.message, message),
                other => panic!("{value:?}: {other:?}"),
            },
        );
    }
}
