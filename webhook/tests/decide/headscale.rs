//! Annotations of Headscale's own pods. Pure.

use super::*;

#[test]
fn reads_what_the_manager_of_the_api_key_is_to_do() {
    asking("apikey-manager", &[], None, |injection| {
        assert!(injection.tailscale.is_none() && injection.remarks.is_empty());
        let want = ApikeyManager {
            container: None,
            socket_path: "/var/run/headscale/headscale.sock",
            secret: "headscale-api-key",
            expiration: Duration::from_secs(2160 * 3600),
            buffer: Duration::from_secs(240 * 3600),
            image: concat!("sidescale:", env!("CARGO_PKG_VERSION")),
            resources: injection.apikey_manager.as_ref().unwrap().resources.clone(),
        };
        assert_eq!(injection.apikey_manager.as_ref(), Some(&want));
    });
    for (life, seconds) in [
        ("1h30m", 5400),
        ("90m", 5400),
        ("5400s", 5400),
        ("1.5h", 5400),
        ("720h", 720 * 3600),
        ("8760h", 8760 * 3600),
        ("90d", 2160 * 3600),
    ] {
        let pairs = [
            ("headscale-container", "hs"),
            ("socket-path", "/run/hs/hs.sock"),
            ("api-key-secret", "key.v2"),
            ("api-key-expiration", life),
            ("api-key-rotation-buffer", "30m"),
        ];
        asking(" apikey-manager ,tailscale", &pairs, None, |injection| {
            assert!(injection.tailscale.is_some());
            let manager = injection.apikey_manager.as_ref().unwrap();
            assert_eq!(
                (manager.container, manager.socket_path, manager.secret),
                (Some("hs"), "/run/hs/hs.sock", "key.v2")
            );
            assert_eq!(manager.expiration, Duration::from_secs(seconds), "{life}");
            assert_eq!(manager.buffer, Duration::from_secs(1800));
        });
    }
}

#[test]
fn remarks_on_a_secret_that_no_control_plane_reads() {
    let remarks = |name: &str, policy: &Policy| {
        let annotations = ours(&[("inject", "apikey-manager"), ("api-key-secret", name)]);
        let subject = Subject {
            namespace: "shop",
            name: "headscale-0",
            annotations: &annotations,
            labels: &Pairs(Vec::new()),
            owner: None,
            namespace_metadata: None,
            namespace_opted_in: false,
            profile: None,
            caller: Caller::Verified,
            request: "",
        };
        match decide(&subject, policy) {
            Decision::Inject(injection) => injection.remarks,
            other => panic!("{other:?}"),
        }
    };
    let here = policy();
    assert!(remarks("headscale-api-key", &here).is_empty());
    let said = remarks("hs-key", &here);
    assert!(
        said[0].starts_with("no control plane reads Secret 'shop/hs-key'"),
        "{said:?}"
    );
    // The right name in a namespace other than the pod's is another Secret.
    let elsewhere = Policy::for_login_server("https://hs.example.com").unwrap();
    assert_eq!(remarks("headscale-api-key", &elsewhere).len(), 1);
    // Any of the control planes may be the one.
    let mut two = policy();
    let mut second = two.control_planes["default"].clone();
    "hs-key".clone_into(&mut second.api_key_secret);
    two.control_planes.insert("second".to_owned(), second);
    for name in ["headscale-api-key", "hs-key"] {
        assert!(remarks(name, &two).is_empty(), "{name}");
    }
}

#[test]
fn names_each_mistake_of_a_headscale_pod() {
    let table = [
        (
            ("socket-path", "headscale.sock"),
            "want an absolute path inside a directory, of letters, digits, dots, dashes and underscores, at most 107 characters, such as /var/run/headscale/headscale.sock",
        ),
        (
            ("api-key-secret", "My Key"),
            "want the name of a Secret, such as headscale-api-key",
        ),
        (
            ("headscale-container", "Head Scale"),
            "want the name of one of the pod's containers, such as headscale",
        ),
        (
            ("server-keys-secret", "My Keys"),
            "want the name of a Secret, such as headscale-keys",
        ),
        (
            ("server-keys-files", "noise_private.key,"),
            "want at most 16 different file names, which are also data keys of the Secret, such as noise_private.key,derp_server_private.key",
        ),
        (
            ("server-keys-files", "a,../b"),
            "want at most 16 different file names, which are also data keys of the Secret, such as noise_private.key,derp_server_private.key",
        ),
        (
            ("server-keys-files", "a, a"),
            "want at most 16 different file names, which are also data keys of the Secret, such as noise_private.key,derp_server_private.key",
        ),
        (
            ("server-keys-path", "/"),
            "want an absolute path of letters, digits, dots, dashes and underscores, such as /var/lib/headscale",
        ),
        (
            ("api-key-expiration", "90 days"),
            "want a duration such as 90m, 12h or 30d",
        ),
        (
            ("api-key-rotation-buffer", "2160h"),
            "want at most 2159h59m59s: a key with an expiration of 2160h is renewed no sooner than 1s after its creation",
        ),
    ];
    for ((key, value), want) in table {
        let message = format!("annotation \"sidescale.io/{key}\" is {value:?}: {want}");
        api(
            &[("inject", "apikey-manager,server-keys"), (key, value)],
            None,
            |decision| {
                let refusal = Refusal {
                    reason: DenyReason::BadValue,
                    message,
                };
                assert_eq!(decision, Decision::Deny(refusal));
            },
        );
    }
}

#[test]
fn reads_which_keys_headscale_gets() {
    asking("server-keys", &[], None, |injection| {
        assert!(injection.tailscale.is_none() && injection.apikey_manager.is_none());
        let want = ServerKeys {
            container: None,
            secret: "headscale-keys",
            files: vec!["noise_private.key", "derp_server_private.key"],
            path: "/var/lib/headscale",
        };
        assert_eq!(injection.server_keys.as_ref(), Some(&want));
    });
    let pairs = [
        ("server-keys-secret", "hs-keys"),
        ("server-keys-files", "noise.key, private.key"),
        ("server-keys-path", "/data/"),
        ("headscale-container", "hs"),
    ];
    asking("tailscale,server-keys", &pairs, None, |injection| {
        let want = ServerKeys {
            container: Some("hs"),
            secret: "hs-keys",
            files: vec!["noise.key", "private.key"],
            path: "/data",
        };
        assert_eq!(injection.server_keys.as_ref(), Some(&want));
    });
}
