//! The pod's name in the tailnet, and conflicts between names of the tailnet and of the cluster. Pure.

use sidescale_webhook::sidecar::Injected;

use super::super::dns::{Dns, Lies, TailnetNames, USUAL, lies};
use super::super::facts::{CheckFinding, Facts, Observed};
use super::{injection, node};

const CHECK: &str = "names";

const HOSTNAME: &str = "hostname";

/// Maximum number of replica names that are shown.
const SHOWN: usize = 3;

pub(super) fn judge(facts: &Facts, reference: &Injected<'_>) -> Option<CheckFinding> {
    let names = match &facts.names {
        Observed::NotAsked => return None,
        Observed::Blind(why) => return Some(CheckFinding::blind(CHECK, why)),
        Observed::Saw(names) => names,
    };
    let nodes = node::names(facts, reference);
    Some(match names {
        TailnetNames::Unseen(why) => {
            let text = format!(
                "Headscale's settings are not visible from here: {why}; tailscale status in the container shows the names"
            );
            CheckFinding::ok(CHECK, text)
        }
        TailnetNames::Set(dns) => clash(facts, dns)
            .or_else(|| missed(facts, dns))
            .unwrap_or_else(|| CheckFinding::ok(CHECK, named(dns, &nodes))),
    })
}

/// Reports that the pod's name belongs to another service.
pub(super) fn anothers(facts: &Facts, reference: &Injected<'_>) -> Option<CheckFinding> {
    let hostname = node::hostname(facts)?;
    let (namespace, service) = (facts.namespace_name(), &*reference.service);
    let policy = facts.policy.seen();
    let reserved = policy.and_then(|policy| policy.reserved_hostnames.get(&hostname));
    let whose = match reserved {
        Some(owner) if owner.namespace == namespace && owner.service == service => return None,
        Some(_) => "is reserved for another service by reservedHostnames of the configuration",
        None if facts
            .hostnames
            .is_anothers(&reference.control_plane, &hostname, namespace) =>
        {
            "belongs to a service of another namespace"
        }
        None => return None,
    };
    let text =
        format!("{hostname:?} {whose}: Sidescale does not give it to nodes of service {service:?}");
    let next = injection::annotate(facts, "hostname", "{service}-{namespace}");
    Some(CheckFinding::warn(HOSTNAME, text).then(next))
}

/// Returns the pod's name.
fn named(dns: &Dns, nodes: &[String]) -> String {
    let Dns {
        magic, base_domain, ..
    } = dns;
    if !magic {
        return "Headscale provides no names (dns.magic_dns is false): nodes are reached by their addresses"
            .to_owned();
    }
    let whole = nodes.iter().map(|node| format!("{node}.{base_domain}"));
    let mut shown: Vec<String> = whole.take(SHOWN).collect();
    if nodes.len() > SHOWN {
        shown.push(format!("{} more", nodes.len() - SHOWN));
    }
    match shown.as_slice() {
        [] => format!("its node will have a name below {base_domain}"),
        [name] => format!("{name} in the tailnet"),
        some => format!("{} in the tailnet", some.join(", ")),
    }
}

/// Reports that the domains of tailnet and cluster overlap.
fn clash(facts: &Facts, dns: &Dns) -> Option<CheckFinding> {
    let cluster = facts.cluster_domain.as_deref();
    let how = match lies(&dns.base_domain, cluster.unwrap_or(USUAL)) {
        Lies::Apart => return None,
        Lies::Same => "is",
        Lies::Within => "is within",
        Lies::Around => "contains",
    };
    let known = match cluster {
        Some(domain) => format!("the cluster's domain {domain}"),
        None => format!("{USUAL}, the domain of most clusters (CoreDNS's own could not be read)"),
    };
    let text = format!(
        "the tailnet's domain {} {how} {known}: with accept-dns, nodes ask the tailnet for the names of Services",
        dns.base_domain
    );
    let next = format!(
        "set dns.base_domain in {} to a separate domain, such as tailnet.internal, and restart Headscale",
        dns.place
    );
    Some(CheckFinding::warn(CHECK, text).then(next))
}

/// Reports that the pod wants names, and there are none.
fn missed(facts: &Facts, dns: &Dns) -> Option<CheckFinding> {
    let wants = match facts.variable("TS_ACCEPT_DNS") {
        Some("true") => "accept-dns is",
        _ if facts.variable("TS_SOCKS5_SERVER").is_some() => "proxy is",
        _ => return None,
    };
    if dns.magic {
        return None;
    }
    let text =
        format!("Headscale provides no names (dns.magic_dns is false), but the pod's {wants} on");
    let next = format!(
        "set dns.magic_dns: true in {} and restart Headscale",
        dns.place
    );
    Some(CheckFinding::warn(CHECK, text).then(next))
}
