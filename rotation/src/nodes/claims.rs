//! Which namespace a hostname in the tailnet belongs to, if pods of several namespaces ask for it. Pure.
//!
//! A hostname belongs to the namespace that asked for it first, as long as one of its services has a pod or a node that asks for
//! it, and for seven days after. The first is remembered; if several were first seen together, the service with the oldest user
//! counts as first. A reserved hostname belongs to the service that the operator names. Within a namespace, any service may use it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::time::after;
use sidescale_webhook::hostnames::{self, Hashed};
use sidescale_webhook::profile::HostnameOwner;

use super::tailnet::Tailnet;
use crate::demand::Demands;
use crate::owner::ServiceOwner;

/// How long a hostname belongs to its namespace after nothing there asks for it any more.
pub const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The operator's rules for hostnames.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The only service that may have a hostname, by hostname.
    pub reserved: &'a BTreeMap<String, HostnameOwner>,
    /// Maximum number of hostnames remembered for one namespace.
    pub most_of_namespace: usize,
    /// Maximum number of hostnames remembered for all namespaces.
    pub most: usize,
}

/// The hostnames of one control plane that belong to a namespace, as many as there is room for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<Hashed, ClaimRow>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ClaimRow {
    namespace: Hashed,
    idle_since: Option<Timestamp>,
}

/// A service with pods, and the Secret of its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Party {
    /// The service.
    pub owner: ServiceOwner,
    /// Secret of its key.
    pub secret: String,
}

/// A service whose pods ask for a hostname that belongs to another service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The label that both want.
    pub hostname: String,
    /// The service that asks for it.
    pub by: Party,
    /// The services with pods that the hostname belongs to; empty if none has pods.
    pub holders: Vec<Party>,
    /// Whether the operator reserved it.
    pub reserved: bool,
}

/// The result of one check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostnameReport {
    /// Hostnames that services ask for which may not have them.
    pub conflicts: Vec<Conflict>,
    /// Namespaces with a hostname that is not remembered for lack of room, and the limit that was reached.
    pub no_room: BTreeMap<String, Bound>,
}

/// Limits of what is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The limit of one namespace.
    Namespace,
    /// The limit of all namespaces.
    All,
}

/// A service that asks for a hostname. Oldest first: a service with an unknown user counts as the youngest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ask<'a> {
    created: Timestamp,
    owner: ServiceOwner,
    /// Secret of the key of its pods; none if only a node asks.
    secret: Option<&'a str>,
}

impl Claims {
    /// Parses the output of [`Self::text`].
    #[must_use]
    pub fn read(text: &str) -> Self {
        let rows = hostnames::rows(text).map(|row| {
            let idle = row.idle_since.map(Timestamp::from_second);
            let kept = ClaimRow {
                namespace: row.namespace,
                idle_since: idle.and_then(Result::ok),
            };
            (row.hostname, kept)
        });
        Self(rows.collect())
    }

    /// Returns one line for each hostname.
    #[must_use]
    pub fn text(&self) -> String {
        let lines = self.0.iter().map(|(hostname, row)| {
            let row = hostnames::HostnameRow {
                hostname: *hostname,
                namespace: row.namespace,
                idle_since: row.idle_since.map(Timestamp::as_second),
            };
            format!("{row}\n")
        });
        lines.collect()
    }

    /// Decides about all hostnames that pods and nodes of `plane` ask for, and remembers the decision.
    pub fn look(
        &mut self,
        now: Timestamp,
        plane: &str,
        demands: &Demands,
        tailnet: &Tailnet,
        rules: &Rules<'_>,
    ) -> HostnameReport {
        let asked = asks(plane, demands, tailnet);
        self.idle(now, &asked);
        let (mut room, mut look) = (NameRoom::of(self), HostnameReport::default());
        // Oldest first: services that find no room are younger than those that have some.
        let mut asked: Vec<_> = asked.into_iter().collect();
        asked.sort_by(|(_, one), (_, other)| one.first().cmp(&other.first()));
        for (hostname, asks) in asked {
            if let Some(holder) = rules.reserved.get(hostname) {
                let holds = |owner: &ServiceOwner| {
                    let HostnameOwner { namespace, service } = holder;
                    owner.namespace == *namespace && owner.service == *service
                };
                look.add(hostname, true, &asks, holds);
                continue;
            }
            let key = Hashed::of(hostname);
            let namespace = match (self.0.get(&key), asks.first()) {
                (Some(row), _) => row.namespace,
                (None, None) => continue,
                (None, Some(oldest)) => {
                    let namespace = Hashed::of(&oldest.owner.namespace);
                    if let Err(bound) = room.remember(self, key, namespace, rules) {
                        look.no_room.insert(oldest.owner.namespace.clone(), bound);
                    }
                    namespace
                }
            };
            let holds = |owner: &ServiceOwner| Hashed::of(&owner.namespace) == namespace;
            look.add(hostname, false, &asks, holds);
        }
        look
    }

    /// Records which hostnames their namespace does not ask for, and forgets those unused for long.
    fn idle(&mut self, now: Timestamp, asked: &BTreeMap<&str, BTreeSet<Ask<'_>>>) {
        let asking: BTreeSet<(Hashed, Hashed)> = asked
            .iter()
            .flat_map(|(hostname, asks)| {
                let key = Hashed::of(hostname);
                let namespaces: BTreeSet<_> = asks.iter().map(|ask| &ask.owner.namespace).collect();
                let namespaces = namespaces.into_iter();
                namespaces.map(move |namespace| (key, Hashed::of(namespace)))
            })
            .collect();
        for (hostname, row) in &mut self.0 {
            row.idle_since = if asking.contains(&(*hostname, row.namespace)) {
                None
            } else {
                Some(row.idle_since.unwrap_or(now))
            };
        }
        let lasts = |row: &ClaimRow| {
            row.idle_since
                .is_none_or(|since| now < after(since, KEPT_FOR))
        };
        self.0.retain(|_, row| lasts(row));
    }
}

/// How many hostnames each namespace has, and which of them it does not ask for, longest first.
#[derive(Default)]
struct NameRoom {
    used: usize,
    namespaces: BTreeMap<Hashed, (usize, BTreeSet<(Timestamp, Hashed)>)>,
}

impl NameRoom {
    fn of(claims: &Claims) -> Self {
        let mut room = Self::default();
        for (hostname, row) in &claims.0 {
            room.used += 1;
            let (count, idle) = room.namespaces.entry(row.namespace).or_default();
            *count += 1;
            idle.extend(row.idle_since.map(|since| (since, *hostname)));
        }
        room
    }

    /// Remembers a hostname; a namespace at its limit forgets the one that it has not asked for longest.
    ///
    /// # Errors
    /// There is no room.
    fn remember(
        &mut self,
        claims: &mut Claims,
        hostname: Hashed,
        namespace: Hashed,
        rules: &Rules<'_>,
    ) -> Result<(), Bound> {
        let (count, idle) = self.namespaces.entry(namespace).or_default();
        let bound = if self.used >= rules.most {
            Some(Bound::All)
        } else {
            (*count >= rules.most_of_namespace).then_some(Bound::Namespace)
        };
        if let Some(bound) = bound {
            let (_, longest) = idle.pop_first().ok_or(bound)?;
            claims.0.remove(&longest);
        } else {
            *count += 1;
            self.used += 1;
        }
        let row = ClaimRow {
            namespace,
            idle_since: None,
        };
        claims.0.insert(hostname, row);
        Ok(())
    }
}

impl HostnameReport {
    /// Adds the conflicts about one hostname.
    fn add(
        &mut self,
        hostname: &str,
        reserved: bool,
        asks: &BTreeSet<Ask<'_>>,
        holds: impl Fn(&ServiceOwner) -> bool,
    ) {
        let parties: BTreeSet<Party> = asks
            .iter()
            .filter_map(|ask| {
                Some(Party {
                    owner: ask.owner.clone(),
                    secret: ask.secret?.to_owned(),
                })
            })
            .collect();
        let (holders, others): (Vec<_>, Vec<_>) =
            parties.into_iter().partition(|party| holds(&party.owner));
        self.conflicts.extend(others.into_iter().map(|by| Conflict {
            hostname: hostname.to_owned(),
            by,
            holders: holders.clone(),
            reserved,
        }));
    }
}

/// Returns who asks for which hostname, oldest first: pods by the hostname they request, nodes by the hostname they report.
fn asks<'a>(
    plane: &str,
    demands: &'a Demands,
    tailnet: &'a Tailnet,
) -> BTreeMap<&'a str, BTreeSet<Ask<'a>>> {
    let mut asks: BTreeMap<&str, BTreeSet<Ask<'_>>> = BTreeMap::new();
    let ask = |owner: &ServiceOwner, secret| Ask {
        created: tailnet.created(owner).unwrap_or(Timestamp::MAX),
        owner: owner.clone(),
        secret,
    };
    for (namespace, demand) in &demands.namespaces {
        for fleet in &demand.replica_groups {
            let here = fleet.control_plane == plane && !fleet.pods.is_empty();
            if let Some(hostname) = fleet.hostname.as_deref().filter(|_| here) {
                let owner = ServiceOwner::new(namespace, &fleet.service);
                let asks = asks.entry(hostname).or_default();
                asks.insert(ask(&owner, Some(&fleet.secret)));
            }
        }
    }
    for (owner, _, nodes) in tailnet.services() {
        let names: BTreeSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        for name in names {
            asks.entry(name).or_default().insert(ask(owner, None));
        }
    }
    asks
}

#[cfg(test)]
mod tests;
