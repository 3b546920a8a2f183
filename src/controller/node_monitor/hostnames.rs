//! Reports hostnames that more than one namespace asks for, to both sides. I/O around pure texts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sidescale_core::notice::{About, Notice, Topic};
use sidescale_rotation::nodes::claims::{Bound, HostnameReport, Party};
use sidescale_webhook::hostnames::MOST;
use tracing::{error, info, warn};

use super::shared::NodeMonitor;

/// How often the same conflict is reported while it lasts.
const REPORT_EVERY: Duration = Duration::from_secs(3_600);

/// Maximum number of hostnames in one text.
const SHOWN: usize = 3;

/// The service asks for a hostname that belongs to another.
const TAKEN: &str = "HostnameTaken";

/// Another service asks for a hostname of this one.
const WANTED: &str = "HostnameWanted";

/// There is no room to remember the owner of a hostname.
const FULL: &str = "HostnamesFull";

impl NodeMonitor {
    /// Reports conflicts to the services that ask and to those that own the hostnames. Returns all topics, reported before or not.
    pub(super) fn report_hostnames(
        &self,
        control_plane: &str,
        look: &HostnameReport,
    ) -> BTreeSet<Topic> {
        let mut open = BTreeSet::new();
        for (party, notice) in taken(look) {
            let topic = Topic::new(
                &notice.namespace,
                &notice.about,
                &party.owner.service,
                TAKEN,
            );
            if self.context.events.claim(REPORT_EVERY, &topic) {
                self.context.events.send(&topic, &notice);
            }
            open.insert(topic);
        }
        for notice in wanted(look) {
            self.context.events.publish_every(REPORT_EVERY, &notice);
            open.insert(Topic::of(&notice));
        }
        self.log(control_plane, look);
        open
    }

    /// Logs the conflicts: the log is for the operator, so it names both sides.
    fn log(&self, control_plane: &str, look: &HostnameReport) {
        for conflict in &look.conflicts {
            let (hostname, owner) = (&conflict.hostname, &conflict.by.owner);
            let topic = Topic::new(
                &owner.namespace,
                &About::secret(&conflict.by.secret),
                &format!("{control_plane}/{hostname}/{}", owner.service),
                TAKEN,
            );
            if !self.context.events.may_log(REPORT_EVERY, &topic) {
                continue;
            }
            let holder = conflict
                .holders
                .first()
                .map(|holder| holder.owner.to_string());
            warn!(
                control_plane,
                namespace = owner.namespace,
                service = owner.service,
                hostname,
                holder,
                reserved = conflict.reserved,
                "Service requested a hostname that it does not own"
            );
        }
        for (namespace, bound) in &look.no_room {
            let topic = match bound {
                Bound::Namespace => Topic::new(namespace, &About::secret(""), control_plane, FULL),
                Bound::All => Topic::other(control_plane, FULL),
            };
            if !self.context.events.may_log(REPORT_EVERY, &topic) {
                continue;
            }
            match bound {
                Bound::Namespace => info!(
                    control_plane,
                    namespace,
                    "Namespace exceeds rotation.maxServicesPerNamespace: its further hostnames are not recorded"
                ),
                Bound::All => error!(
                    control_plane,
                    namespace,
                    most = MOST,
                    "Hostname limit reached: new hostnames are not kept for their namespace once its pods and nodes are gone; reserve important ones with reservedHostnames"
                ),
            }
        }
    }
}

/// Returns Events for the services that ask for hostnames of others.
fn taken(look: &HostnameReport) -> Vec<(&Party, Notice)> {
    let mut names: BTreeMap<(&Party, bool), Vec<&str>> = BTreeMap::new();
    for conflict in &look.conflicts {
        let names = names.entry((&conflict.by, conflict.reserved)).or_default();
        names.push(&conflict.hostname);
    }
    let notices = names.into_iter().map(|((party, reserved), names)| {
        let whose = if reserved {
            "which the operator reserved for another service"
        } else {
            "which belongs to a service of another namespace"
        };
        let note = format!(
            "service {} requests hostname {}, {whose}: Sidescale does not give it to nodes of this service. Set annotation \
             sidescale.io/hostname to another name, such as {{service}}-{{namespace}}",
            party.owner.service,
            listed(&names)
        );
        (party, notice(party, true, TAKEN, note))
    });
    notices.collect()
}

/// Returns Events for the services whose hostnames others ask for: one per Secret, so that a tenant cannot use up another's budget.
fn wanted(look: &HostnameReport) -> Vec<Notice> {
    let mut names: BTreeMap<(&str, &str), (&Party, BTreeSet<&str>)> = BTreeMap::new();
    for conflict in &look.conflicts {
        let others = conflict.holders.iter();
        for holder in others.filter(|holder| holder.owner.namespace != conflict.by.owner.namespace)
        {
            let place = (holder.owner.namespace.as_str(), holder.secret.as_str());
            let (_, names) = names
                .entry(place)
                .or_insert_with(|| (holder, BTreeSet::new()));
            names.insert(&conflict.hostname);
        }
    }
    let notices = names.into_values().map(|(party, names)| {
        let names: Vec<_> = names.into_iter().collect();
        let note = format!(
            "a service of another namespace requests hostname {}, which belongs to a service of this namespace: Sidescale \
             does not give it to that service's nodes. Headscale itself gives a name that no node has to the first node that \
             requests it: where that matters, keep a node online",
            listed(&names)
        );
        notice(party, false, WANTED, note)
    });
    notices.collect()
}

fn notice(party: &Party, warning: bool, reason: &'static str, note: String) -> Notice {
    Notice {
        namespace: party.owner.namespace.clone(),
        about: About::secret(&party.secret),
        warning,
        reason,
        note,
    }
}

fn listed(names: &[&str]) -> String {
    let shown: Vec<_> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("{name:?}"))
        .collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    shown.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use sidescale_rotation::nodes::claims::Conflict;
    use sidescale_rotation::owner::ServiceOwner;

    use super::*;

    fn party(namespace: &str, service: &str) -> Party {
        Party {
            owner: ServiceOwner::new(namespace, service),
            secret: "keys".into(),
        }
    }

    fn look(conflicts: &[(&str, Party, Option<Party>, bool)]) -> HostnameReport {
        let conflicts = conflicts
            .iter()
            .map(|(hostname, by, holder, reserved)| Conflict {
                hostname: (*hostname).into(),
                by: by.clone(),
                holders: holder.iter().cloned().collect(),
                reserved: *reserved,
            });
        HostnameReport {
            conflicts: conflicts.collect(),
            ..HostnameReport::default()
        }
    }

    #[test]
    fn both_sides_get_an_event_and_neither_names_the_other() {
        let (by, holder) = (party("thief", "web"), party("prod", "vault"));
        let look = look(&[("vault", by, Some(holder), false)]);
        let taken: Vec<_> = taken(&look).into_iter().map(|(_, notice)| notice).collect();
        let wanted = wanted(&look);
        let said = |notices: &[Notice]| -> Vec<(String, bool, &str)> {
            let said = notices
                .iter()
                .map(|one| (one.namespace.clone(), one.warning, one.reason));
            said.collect()
        };
        assert_eq!(said(&taken), [("thief".to_owned(), true, TAKEN)]);
        assert_eq!(said(&wanted), [("prod".to_owned(), false, WANTED)]);
        assert!(taken[0].note.starts_with(
            "service web requests hostname \"vault\", which belongs to a service of another namespace: "
        ));
        assert!(!taken[0].note.contains("prod") && !wanted[0].note.contains("thief"));
    }

    #[test]
    fn a_reserved_name_is_reported_to_the_service_that_asks_in_the_same_namespace_too() {
        let (by, holder) = (party("prod", "web"), party("prod", "vault"));
        let look = look(&[("vault", by, Some(holder), true)]);
        assert_eq!(wanted(&look), []);
        let taken = taken(&look);
        assert!(
            taken[0]
                .1
                .note
                .contains("which the operator reserved for another service")
        );
    }

    #[test]
    fn many_names_make_one_event_for_their_owner() {
        let names = ["a", "b", "c", "d"];
        let holder = || Some(party("prod", "vault"));
        let conflicts = names.map(|name| (name, party("thief", name), holder(), false));
        let look = look(&conflicts);
        assert_eq!(taken(&look).len(), 4, "each service is its own matter");
        let wanted = wanted(&look);
        assert_eq!(wanted.len(), 1);
        assert!(
            wanted[0]
                .note
                .contains("\"a\", \"b\", \"c\" and 1 more, which"),
            "{}",
            wanted[0].note
        );
    }
}
