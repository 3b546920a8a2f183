//! Owner -> service -> user, hostname, data key: the only implementation, shared with rotation. Pure.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

mod own_key;

pub use own_key::{POD_SECRET, digits_of, pod_data_key};

use crate::forms::is_dns_subdomain;

/// Longest service name; a data key of a Secret holds 253, including the control plane's name and our suffix.
pub const LONGEST_SERVICE: usize = 200;

const LONGEST_HOSTNAME: usize = 63;

/// A pod's controller, from its ownerReference with `controller: true`.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadOwner<'a> {
    /// Kind of the controller, such as `ReplicaSet`.
    pub kind: &'a str,
    /// The owner's name.
    pub name: &'a str,
}

/// A hostname in the tailnet: at most 63 letters, digits and dashes, after the kubelet has expanded its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname<'a> {
    /// The hostname; contains `$(POD_NAME)` or `$(NODE_NAME)` if the flags below say so.
    pub text: Cow<'a, str>,
    /// Whether the kubelet has to insert the pod's name.
    pub needs_pod_name: bool,
    /// Whether the kubelet has to insert the node's name.
    pub needs_node_name: bool,
}

/// Values that a hostname template may name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TemplateNames<'a> {
    pub(crate) service: &'a str,
    pub(crate) namespace: &'a str,
    /// Empty if the API server has yet to generate it.
    pub(crate) pod: &'a str,
}

enum TemplatePiece<'a> {
    Text(&'a str),
    Service,
    Namespace,
    Pod,
    Node,
}

/// Derives the service from metadata alone; `hashes` are the values of `pod-template-hash` and `rollouts-pod-template-hash`.
#[must_use]
pub fn service<'a>(
    owner: Option<WorkloadOwner<'a>>,
    pod: &'a str,
    hashes: [Option<&str>; 2],
) -> Option<&'a str> {
    let Some(WorkloadOwner { kind, name }) = owner else {
        return (!pod.is_empty()).then_some(pod);
    };
    let stem = match kind {
        "ReplicaSet" => name
            .rsplit_once('-')
            .filter(|(_, end)| hashes.contains(&Some(end))),
        "Job" => name
            .rsplit_once('-')
            .filter(|(_, end)| end.len() >= 8 && end.bytes().all(|b| b.is_ascii_digit())),
        "StatefulSet" | "DaemonSet" => None,
        _ => return None,
    };
    Some(stem.map_or(name, |(stem, _)| stem)).filter(|service| !service.is_empty())
}

/// Returns whether `text` may be a service.
#[must_use]
pub fn is_service(text: &str) -> bool {
    is_dns_subdomain(text, LONGEST_SERVICE)
}

/// Suffix of every data key of a pre-auth key.
pub const KEY_SUFFIX: &str = "-authkey";

/// Returns the data key of a service's pre-auth key; no DNS name contains `_`, which keeps all pairs distinct.
#[must_use]
pub fn data_key(service: &str, control_plane: &str) -> String {
    match control_plane {
        "default" => [service, KEY_SUFFIX].concat(),
        other => [service, "_", other, KEY_SUFFIX].concat(),
    }
}

/// Returns the Headscale user of a service.
///
/// Headscale requires a letter first, and a namespace may begin with a digit. A namespace has no dot, and the dots of the
/// service are replaced: no service can take the user name of another namespace.
#[must_use]
pub fn user(template: &str, namespace: &str, service: &str) -> String {
    let mut user = String::with_capacity(template.len() + namespace.len() + service.len());
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        user.push_str(&rest[..start]);
        rest = &rest[start..];
        if let Some(after) = rest.strip_prefix("{namespace}") {
            user.push_str(namespace);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{service}") {
            user.extend(service.chars().map(|c| if c == '.' { '_' } else { c }));
            rest = after;
        } else {
            user.push('{');
            rest = &rest[1..];
        }
    }
    user.push_str(rest);
    if !user.starts_with(|c: char| c.is_ascii_alphabetic()) {
        user.insert_str(0, "n_");
    }
    user
}

/// Returns whether `template` may be a hostname: lower-case letters, digits, dashes, dots and the four names in braces.
pub(crate) fn is_hostname_template(template: &str) -> bool {
    let end = |c: char| c == '-' || c == '.';
    // Its names may be expanded several times, so its own length is bounded too.
    if template.is_empty()
        || template.len() > 253
        || template.starts_with(end)
        || template.ends_with(end)
    {
        return false;
    }
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    pieces(template).all(|piece| match piece {
        Some(TemplatePiece::Text(text)) => text.bytes().all(fits),
        Some(
            TemplatePiece::Service
            | TemplatePiece::Namespace
            | TemplatePiece::Pod
            | TemplatePiece::Node,
        ) => true,
        None => false,
    })
}

/// Fills in a checked template.
pub(crate) fn hostname<'a>(template: &str, names: TemplateNames<'a>) -> Hostname<'a> {
    let whole = match template {
        "{service}" => names.service,
        "{pod}" => names.pod,
        _ => "",
    };
    if !whole.is_empty() && whole.len() <= LONGEST_HOSTNAME && !whole.contains('.') {
        return Hostname {
            text: Cow::Borrowed(whole),
            needs_pod_name: false,
            needs_node_name: false,
        };
    }
    let mut text = String::with_capacity(LONGEST_HOSTNAME);
    let (mut needs_pod_name, mut needs_node_name) = (false, false);
    for piece in pieces(template).flatten() {
        let part = match piece {
            TemplatePiece::Text(text) => text,
            TemplatePiece::Service => names.service,
            TemplatePiece::Namespace => names.namespace,
            TemplatePiece::Pod if names.pod.is_empty() => {
                needs_pod_name = true;
                "$(POD_NAME)"
            }
            TemplatePiece::Pod => names.pod,
            TemplatePiece::Node => {
                needs_node_name = true;
                "$(NODE_NAME)"
            }
        };
        text.extend(part.chars().map(|c| if c == '.' { '-' } else { c }));
    }
    // The length of what the kubelet inserts is unknown here; tailscaled cuts such a name itself.
    if !needs_pod_name && !needs_node_name {
        text = cut(text);
    }
    Hostname {
        text: Cow::Owned(text),
        needs_pod_name,
        needs_node_name,
    }
}

/// Cuts a name that is too long; a hash of the whole keeps cut names distinct.
fn cut(mut text: String) -> String {
    if text.len() > LONGEST_HOSTNAME {
        let hash = Sha256::digest(text.as_bytes());
        text.truncate(LONGEST_HOSTNAME - 7);
        text.truncate(text.trim_end_matches('-').len());
        text.push_str(&format!("-{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2]));
    }
    text
}

/// Splits a template; `None` stands for a brace that names nothing.
fn pieces(template: &str) -> impl Iterator<Item = Option<TemplatePiece<'_>>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let start = rest.find('{').unwrap_or(rest.len());
        if start > 0 {
            let (text, after) = rest.split_at(start);
            rest = after;
            return Some(Some(TemplatePiece::Text(text)));
        }
        let Some(end) = rest.find('}') else {
            rest = "";
            return Some(None);
        };
        let name = &rest[1..end];
        rest = &rest[end + 1..];
        Some(match name {
            "service" => Some(TemplatePiece::Service),
            "namespace" => Some(TemplatePiece::Namespace),
            "pod" => Some(TemplatePiece::Pod),
            "node" => Some(TemplatePiece::Node),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_service_of_every_kind_of_owner() {
        let deployment = [Some("7c9d8f6b5"), None];
        let rollout = [None, Some("84d5c")];
        let none = [None, None];
        let table = [
            (
                Some(("ReplicaSet", "api-7c9d8f6b5")),
                "",
                deployment,
                Some("api"),
            ),
            (Some(("ReplicaSet", "api-84d5c")), "", rollout, Some("api")),
            (
                Some(("ReplicaSet", "api-blue-7c9d8f6b5")),
                "",
                deployment,
                Some("api-blue"),
            ),
            (
                Some(("ReplicaSet", "api-7c9d8f6b5")),
                "",
                none,
                Some("api-7c9d8f6b5"),
            ),
            (
                Some(("ReplicaSet", "api-other")),
                "",
                deployment,
                Some("api-other"),
            ),
            (Some(("Job", "backup-28961234")), "", none, Some("backup")),
            (
                Some(("Job", "backup-1234567")),
                "",
                none,
                Some("backup-1234567"),
            ),
            (
                Some(("Job", "backup-2896123a")),
                "",
                none,
                Some("backup-2896123a"),
            ),
            (Some(("Job", "-28961234")), "", none, None),
            (Some(("StatefulSet", "db")), "db-0", none, Some("db")),
            (Some(("DaemonSet", "agent.v2")), "", none, Some("agent.v2")),
            (Some(("ReplicationController", "old")), "", none, None),
            (Some(("Workflow", "ci-x")), "ci-x-1", none, None),
            (None, "lone", none, Some("lone")),
            (None, "", none, None),
        ];
        for (owner, pod, hashes, want) in table {
            let owner = owner.map(|(kind, name)| WorkloadOwner { kind, name });
            assert_eq!(service(owner, pod, hashes), want, "{owner:?} {pod:?}");
        }
    }

    #[test]
    fn names_users_that_headscale_takes() {
        let default = "{namespace}.{service}";
        let table = [
            (default, "shop", "api", "shop.api"),
            (default, "shop", "api.v2", "shop.api_v2"),
            (default, "1shop", "api", "n_1shop.api"),
            ("k8s_{namespace}.{service}", "1shop", "api", "k8s_1shop.api"),
        ];
        for (template, namespace, service, want) in table {
            assert_eq!(user(template, namespace, service), want);
        }
    }

    #[test]
    fn names_hosts() {
        let long = "a".repeat(70);
        let names = TemplateNames {
            service: "api.v2",
            namespace: "shop",
            pod: "",
        };
        assert_eq!(hostname("{service}", names).text, "api-v2");
        assert_eq!(
            hostname("x-{service}-{namespace}", names).text,
            "x-api-v2-shop"
        );
        let on_node = hostname("{pod}-{node}", names);
        assert_eq!(on_node.text, "$(POD_NAME)-$(NODE_NAME)");
        assert!(on_node.needs_pod_name && on_node.needs_node_name);
        assert_eq!(
            hostname(
                "{pod}",
                TemplateNames {
                    pod: "db-0",
                    ..names
                }
            )
            .text,
            "db-0"
        );
        let cut = hostname(
            "{service}",
            TemplateNames {
                service: &long,
                ..names
            },
        )
        .text;
        assert_eq!(cut.len(), 63);
        assert!(
            cut.starts_with("aaa") && cut.as_bytes()[56] == b'-',
            "{cut}"
        );
    }

    #[test]
    fn knows_hostname_templates() {
        for good in ["{service}", "web", "a.b", "{pod}-{node}", "x-{namespace}"] {
            assert!(is_hostname_template(good), "{good:?}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "{service",
            "{cluster}",
            "A",
            "a b",
            "$(X)",
            "a}",
            "{}",
        ] {
            assert!(!is_hostname_template(bad), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn two_namespaces_never_share_a_user(
            a in "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", b in "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?",
            s in "[a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?", t in "[a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?",
        ) {
            proptest::prop_assume!(a != b);
            proptest::prop_assert_ne!(user("{namespace}.{service}", &a, &s), user("{namespace}.{service}", &b, &t));
        }

        #[test]
        fn hostnames_fit_in_a_label(service in "[a-z0-9]([a-z0-9.-]{0,150}[a-z0-9])?", pod in "[a-z0-9.-]{0,80}") {
            let names = TemplateNames { service: &service, namespace: "shop", pod: &pod };
            let host = hostname("{service}-{namespace}", names).text;
            proptest::prop_assert!(host.len() <= 63 && !host.contains('.') && !host.ends_with('-'), "{}", host);
        }
    }
}
