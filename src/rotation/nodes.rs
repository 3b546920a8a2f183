//! Injected pods beside the node list: who joined, who is late, who was lost, and who came uninvited. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use note::{Note, Notes};

use super::demand::Demands;
use super::fleet::{Fleet, Member};
use super::tailnet::{Joined, Tailnet};
use crate::clock::after;
use crate::control_plane::NodeId;

mod note;

/// A pod without a node is late after this long.
pub(super) const LATE_AFTER: Duration = Duration::from_secs(120);

/// More nodes than pods are a matter of a rollout for this long.
const UNINVITED_AFTER: Duration = Duration::from_secs(120);

/// The clocks of Headscale and the API server may be this far apart.
const SKEW: Duration = Duration::from_secs(60);

/// A node has to be missing at so many looks: one list may have come in the middle of its return.
const LOOKS: u32 = 2;

/// The same is told again after this long, as long as it lasts.
const TELL_EVERY: Duration = Duration::from_secs(3_600);

/// How a pod does in the tailnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// It has a node.
    Joined,
    /// It is two minutes old and has none.
    Late,
    /// It had one, and that is gone or expired.
    Lost,
    /// A node that joined with a key of ours and belongs to no pod.
    Uninvited,
}

/// How many pods, or nodes, are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods with a node.
    pub joined: usize,
    /// Pods that are late.
    pub late: usize,
    /// Pods that lost their node.
    pub lost: usize,
    /// Nodes without a pod.
    pub uninvited: usize,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub state: NodeState,
    /// Headscale user.
    pub user: String,
    /// Where its pods are; empty if it has none.
    pub place: Option<Place>,
    /// How many pods, or nodes, it is about.
    pub count: usize,
    /// Of how many.
    pub of: usize,
    /// The pods that it may be about, the oldest first. Replicas share key and hostname: with `count` of more nobody
    /// can tell which.
    pub pods: Vec<Member>,
    /// The nodes that it may be about.
    pub nodes: Vec<NodeId>,
    /// Whether a pod of the fleet is still expected to join.
    pub expecting: bool,
    /// Whether people are to be told now.
    pub tell: bool,
}

/// Where the pods of a finding are, and where their key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Their namespace.
    pub namespace: String,
    /// The identity.
    pub service: String,
    /// Secret of their key.
    pub secret: String,
    /// Data key of their key.
    pub data_key: String,
}

/// What came of one look at one control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Totals.
    pub counts: Counts,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// What earlier looks at one control plane have shown. It holds no more than the pods that are there.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// What the process before this one noted.
    before: Option<Note>,
    /// How far what is known reaches: the youngest pod of which all that are older have been seen.
    as_of: Option<Timestamp>,
    groups: BTreeMap<(String, Option<String>), Memory>,
    uninvited: BTreeMap<String, Extra>,
}

#[derive(Clone, Debug, Default)]
struct Memory {
    joined: BTreeSet<u128>,
    /// Pods of which it is certain.
    lost: BTreeSet<u128>,
    /// Those that never had one, as far as is known, and when they were made.
    waiting: Vec<(u128, Timestamp)>,
    missing_for: u32,
    told: BTreeMap<NodeState, Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Extra {
    since: Timestamp,
    told: Option<Timestamp>,
}

/// The pods of a group, the oldest first, and how many of which have no node.
struct Compared {
    /// All of these.
    lost: Vec<Member>,
    /// So many of `joined`, and nobody can tell which.
    of_joined: usize,
    joined: Vec<Member>,
    /// Never had one yet.
    waiting: Vec<Member>,
}

/// Pods that share user and hostname; keys of single pods have a fleet each.
#[derive(Default)]
struct Group<'a> {
    namespace: &'a str,
    fleets: Vec<&'a Fleet>,
}

impl NodeState {
    /// Every state, for metrics that show all of them.
    pub const ALL: [Self; 4] = [Self::Joined, Self::Late, Self::Lost, Self::Uninvited];

    /// Its name in metrics and Events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "Joined",
            Self::Late => "Late",
            Self::Lost => "Lost",
            Self::Uninvited => "Uninvited",
        }
    }
}

impl Counts {
    /// How many are in a state.
    #[must_use]
    pub fn of(&self, state: NodeState) -> usize {
        match state {
            NodeState::Joined => self.joined,
            NodeState::Late => self.late,
            NodeState::Lost => self.lost,
            NodeState::Uninvited => self.uninvited,
        }
    }

    /// Adds those of another control plane.
    pub fn add(&mut self, other: &Self) {
        let Self {
            joined,
            late,
            lost,
            uninvited,
        } = other;
        self.joined += joined;
        self.late += late;
        self.lost += lost;
        self.uninvited += uninvited;
    }
}

impl Finding {
    /// Whether it is certain which pods it is about.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.count == self.pods.len()
    }
}

impl Truth {
    /// Goes on from what an earlier process has noted.
    #[must_use]
    pub fn after(before: Option<Note>) -> Self {
        Self {
            as_of: before.as_ref().map(|before| before.as_of),
            before,
            ..Self::default()
        }
    }

    /// What the next process should know; nothing before there was a pod.
    #[must_use]
    pub fn note(&self) -> Option<Note> {
        let waiting = self.groups.values().flat_map(|memory| &memory.waiting);
        Some(Note::new(self.as_of?, waiting))
    }

    /// Holds the pods that want to be nodes of `plane` against the nodes that it just listed.
    pub fn look(
        &mut self,
        now: Timestamp,
        plane: &str,
        demands: &Demands,
        tailnet: &Tailnet,
    ) -> Look {
        let mut groups: BTreeMap<(&str, Option<&str>), Group<'_>> = BTreeMap::new();
        let mut guests: BTreeMap<&str, usize> = BTreeMap::new();
        for (namespace, demand) in &demands.namespaces {
            for fleet in &demand.fleets {
                if fleet.control_plane == plane {
                    let group = groups.entry((&fleet.user, fleet.hostname.as_deref()));
                    let group = group.or_default();
                    group.namespace = namespace;
                    group.fleets.push(fleet);
                }
            }
            for ((control_plane, user), pods) in &demand.guests {
                if control_plane == plane {
                    *guests.entry(user).or_default() += pods;
                }
            }
        }
        let pods = groups.values().flat_map(Group::pods);
        let settled = pods
            .map(|pod| pod.created)
            .filter(|created| note::is_settled(now, *created));
        self.as_of = settled.max().max(self.as_of);
        let mut look = Look::default();
        let mut known = std::mem::take(&mut self.groups);
        for ((user, hostname), group) in &groups {
            let key = ((*user).to_owned(), hostname.map(str::to_owned));
            let mut memory = known.remove(&key).unwrap_or_default();
            memory.recall(self.before.as_ref(), group);
            memory.look(now, user, *hostname, group, tailnet, &mut look);
            self.groups.insert(key, memory);
        }
        let mut known = std::mem::take(&mut self.uninvited);
        for (user, nodes) in tailnet.users().filter(|(user, _)| tailnet.is_ours(user)) {
            let mut places = groups.range((user, None)..);
            let place = places
                .next()
                .filter(|((of, _), _)| *of == user)
                .and_then(|(_, group)| group.place());
            let expected = guests.get(user).copied().unwrap_or_default();
            let extra = known.remove(user);
            if let Some(extra) = uninvited(now, user, nodes, expected, place, extra, &mut look) {
                self.uninvited.insert(user.to_owned(), extra);
            }
        }
        look
    }
}

impl Group<'_> {
    fn pods(&self) -> impl Iterator<Item = &Member> {
        self.fleets.iter().flat_map(|fleet| &fleet.pods)
    }

    fn place(&self) -> Option<Place> {
        let fleet = self.fleets.first()?;
        Some(Place {
            namespace: self.namespace.to_owned(),
            service: fleet.service.clone(),
            secret: fleet.secret.clone(),
            data_key: fleet.data_key.clone(),
        })
    }
}

impl Memory {
    /// Takes those for joined that had joined before this process began.
    fn recall(&mut self, before: Option<&Note>, group: &Group<'_>) {
        let Some(before) = before else {
            return;
        };
        let had = group.pods().filter(|pod| before.has_joined(pod));
        let had = had
            .map(|pod| pod.uid)
            .filter(|uid| !self.lost.contains(uid));
        self.joined.extend(had);
    }

    fn look(
        &mut self,
        now: Timestamp,
        user: &str,
        hostname: Option<&str>,
        group: &Group<'_>,
        tailnet: &Tailnet,
        look: &mut Look,
    ) {
        let pods: BTreeSet<&Member> = group.pods().collect();
        let Some(oldest) = pods.first().map(|pod| pod.created) else {
            return;
        };
        let own = tailnet.of_user(user).iter();
        let strays = hostname.map_or(&[][..], |name| tailnet.nobodys(name));
        let nodes = own
            .chain(strays)
            .filter(|node| hostname.is_none_or(|name| node.name == name) && may_be(node, oldest));
        let missing = pods.len().saturating_sub(nodes.count());
        look.counts.joined += pods.len() - missing;
        let Compared {
            lost,
            of_joined,
            joined,
            waiting,
        } = self.compare(&pods, missing);
        self.waiting = waiting.iter().map(|pod| (pod.uid, pod.created)).collect();
        let late: Vec<_> = waiting
            .iter()
            .filter(|pod| now >= after(pod.created, LATE_AFTER))
            .cloned()
            .collect();
        let late_count = late.len().min(missing - lost.len());
        let found = [
            (NodeState::Late, late_count, late),
            (NodeState::Lost, lost.len(), lost),
            (NodeState::Lost, of_joined, joined),
        ];
        let found: Vec<_> = found
            .into_iter()
            .filter(|(_, count, _)| *count > 0)
            .collect();
        self.told
            .retain(|known, _| found.iter().any(|(state, ..)| state == known));
        for (state, count, suspects) in found {
            match state {
                NodeState::Late => look.counts.late += count,
                NodeState::Lost => look.counts.lost += count,
                NodeState::Joined | NodeState::Uninvited => {}
            }
            let tell = is_due(now, self.told.get(&state).copied());
            if tell {
                self.told.insert(state, now);
            }
            look.findings.push(Finding {
                state,
                user: user.to_owned(),
                place: group.place(),
                count,
                of: pods.len(),
                pods: suspects,
                nodes: Vec::new(),
                expecting: !waiting.is_empty(),
                tell,
            });
        }
    }

    /// Says of which pods the missing nodes are, as far as earlier looks tell.
    fn compare(&mut self, pods: &BTreeSet<&Member>, missing: usize) -> Compared {
        let uids: BTreeSet<u128> = pods.iter().map(|pod| pod.uid).collect();
        self.joined.retain(|uid| uids.contains(uid));
        self.lost.retain(|uid| uids.contains(uid));
        if missing < self.lost.len() {
            // Somebody came back, and nobody can tell who.
            self.joined.append(&mut self.lost);
        }
        if missing == self.lost.len() {
            let rest = uids.iter().filter(|uid| !self.lost.contains(uid));
            self.joined.extend(rest);
        }
        self.joined.retain(|uid| !self.lost.contains(uid));
        let of = |uids: &BTreeSet<u128>| {
            let pods = pods.iter().filter(|pod| uids.contains(&pod.uid));
            pods.map(|pod| Member::clone(pod)).collect::<Vec<_>>()
        };
        let mut joined = of(&self.joined);
        let waiting: BTreeSet<u128> = uids
            .into_iter()
            .filter(|uid| !self.joined.contains(uid) && !self.lost.contains(uid))
            .collect();
        let mut gone = (missing - self.lost.len()).saturating_sub(waiting.len());
        self.missing_for = if gone > 0 { self.missing_for + 1 } else { 0 };
        if self.missing_for < LOOKS {
            gone = 0;
        }
        if gone > 0 && gone == joined.len() {
            // All that had joined are gone: then it is certain.
            self.lost.append(&mut self.joined);
            self.missing_for = 0;
            (gone, joined) = (0, Vec::new());
        }
        Compared {
            lost: of(&self.lost),
            of_joined: gone,
            joined,
            waiting: of(&waiting),
        }
    }
}

/// Whether it may be the node of a pod that is not older than `oldest`: an ephemeral one is made anew for each pod.
fn may_be(node: &Joined, oldest: Timestamp) -> bool {
    let skew = SignedDuration::try_from(SKEW).unwrap_or_default();
    let from = oldest.checked_sub(skew).unwrap_or(Timestamp::MIN);
    !node.ephemeral || node.created.is_none_or(|created| created >= from)
}

/// Counts the online nodes of a user of ours that are more than its pods.
fn uninvited(
    now: Timestamp,
    user: &str,
    nodes: &[Joined],
    pods: usize,
    place: Option<Place>,
    extra: Option<Extra>,
    look: &mut Look,
) -> Option<Extra> {
    let online = nodes
        .iter()
        .filter(|node| node.online && node.key.is_some());
    let mut online: Vec<_> = online.map(|node| node.id).collect();
    let count = online.len().saturating_sub(pods);
    if count == 0 {
        return None;
    }
    let mut extra = extra.unwrap_or(Extra {
        since: now,
        told: None,
    });
    if now < after(extra.since, UNINVITED_AFTER) {
        return Some(extra);
    }
    online.sort();
    let tell = is_due(now, extra.told);
    if tell {
        extra.told = Some(now);
    }
    look.counts.uninvited += count;
    look.findings.push(Finding {
        state: NodeState::Uninvited,
        user: user.to_owned(),
        place,
        count,
        of: online.len(),
        pods: Vec::new(),
        nodes: online,
        expecting: false,
        tell,
    });
    Some(extra)
}

fn is_due(now: Timestamp, told: Option<Timestamp>) -> bool {
    told.is_none_or(|told| now >= after(told, TELL_EVERY))
}

#[cfg(test)]
mod tests;
