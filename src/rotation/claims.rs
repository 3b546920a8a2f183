//! Which namespace a name in the tailnet belongs to, where pods of several ask for it. Pure.
//!
//! A name belongs to the namespace that asked for it first, for as long as one of its services has a pod or a node that asks for
//! it, and for seven days after. Who was first is remembered; of those that were never seen apart, the service whose user is the
//! oldest was. What the operator reserves belongs to that service, whichever was first. Within a namespace a name is free.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use sidescale_webhook::hostnames::{self, Hashed};
use sidescale_webhook::profile::HostnameOwner;

use super::demand::Demands;
use super::owner::ServiceOwner;
use super::tailnet::Tailnet;
use crate::clock::after;

/// A name belongs to its namespace for this long after nothing there asks for it any more.
pub const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What the operator says of names.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Who alone may have a name, by that name.
    pub reserved: &'a BTreeMap<String, HostnameOwner>,
    /// Names of one namespace that are remembered.
    pub most_of_namespace: usize,
    /// Names that are remembered of all namespaces.
    pub most: usize,
}

/// The names of one control plane that belong to a namespace, as far as there is room to remember them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<Hashed, ClaimRow>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ClaimRow {
    namespace: Hashed,
    idle_since: Option<Timestamp>,
}

/// A service with pods, and where its key is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Party {
    /// The service.
    pub owner: ServiceOwner,
    /// Secret of its key.
    pub secret: String,
}

/// Pods ask for a name that belongs to another service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The name.
    pub hostname: String,
    /// Who asks for it.
    pub by: Party,
    /// The services with pods that the name belongs to; none while they have none.
    pub holders: Vec<Party>,
    /// Whether the operator reserved it.
    pub reserved: bool,
}

/// What came of one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostnameReport {
    /// Names that more ask for than may have them.
    pub conflicts: Vec<Conflict>,
    /// Namespaces with a name that is not remembered for want of room, and the bound that was met.
    pub no_room: BTreeMap<String, Bound>,
}

/// Bounds of what is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// That of one namespace.
    Namespace,
    /// That of all namespaces.
    All,
}

/// Something asks for a name. The oldest comes first: a service whose user is not known yet is younger than all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ask<'a> {
    created: Timestamp,
    owner: ServiceOwner,
    /// Secret of the key of its pods; none where only a node asks.
    secret: Option<&'a str>,
}

impl Claims {
    /// Reads what [`Self::text`] wrote.
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

    /// One line for each name.
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

    /// Decides for all names that pods and nodes of `plane` ask for, and remembers that.
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
        // The oldest first: what finds no room is younger than what has some.
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

    /// Notes which names their namespace does not ask for, and forgets those that it has not for long.
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

/// How many names each namespace has, and which of them it does not ask for, the longest first.
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

    /// Remembers a name; a namespace that has as many as it may forgets the one that it has not asked for longest.
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
    /// Adds the conflicts about one name.
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

/// Who asks for which name, the oldest first: pods by what they are to be called, nodes by what their host is called.
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
