//! What `status` shows, from what was read: a row for each key, and what is wrong with it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use sidescale_webhook::profile::Policy;

use crate::commands::inventory::{Inventory, Note};
use crate::control_plane::{KeyId, Node, PreAuthKey, User};
use crate::rotation::demand::{KeyDemand, SecretRef};
use crate::rotation::ownership;
use crate::rotation::plan::{Issued, Ownership, Plan, Process, Step, View, plan};
use crate::rotation::plane::Trouble;
use crate::rotation::record::{self, DATA_KEY, KeyRecord, Record, same_fingerprint};
use crate::rotation::request::Requests;
use crate::rotation::state::State;

/// A warning of rotation counts this long.
const FRESH: SignedDuration = SignedDuration::from_hours(1);

/// A renewal that is this late is a problem.
const LATE: SignedDuration = SignedDuration::from_hours(1);

/// A service that is younger than this may still wait for its first key.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// What is known of a control plane.
#[derive(Clone, Debug)]
pub(crate) enum PlaneView {
    /// What it holds.
    Held(Held),
    /// Why it could not be asked.
    Trouble(Trouble),
}

/// What a control plane holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) users: Vec<User>,
    pub(crate) keys: Vec<PreAuthKey>,
    pub(crate) nodes: Vec<Node>,
}

/// Everything that is shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// The keys, by namespace, service and control plane.
    pub(crate) keys: Vec<Row>,
}

/// A key.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) control_plane: String,
    pub(crate) secret: String,
    pub(crate) data_key: String,
    pub(crate) user: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) key_id: Option<KeyId>,
    pub(crate) created: Option<Timestamp>,
    pub(crate) expires: Option<Timestamp>,
    /// When it is renewed; none where nothing renews it.
    pub(crate) next_rotation: Option<Timestamp>,
    /// Why another key is being made now.
    pub(crate) pending: Option<&'static str>,
    /// The keys before it that are still valid.
    pub(crate) ending: Vec<KeyId>,
    pub(crate) state: String,
    pub(crate) owners: BTreeSet<String>,
    pub(crate) pods: usize,
    /// Nodes online with a key of this service; none where nobody was asked.
    pub(crate) nodes_online: Option<usize>,
    /// Whether the control plane holds the key as it should be; none where nobody was asked.
    pub(crate) verified: Option<bool>,
    pub(crate) problems: Vec<Problem>,
    /// Whether it lacks a usable key and nothing says why.
    #[serde(skip)]
    pub(crate) unexplained: bool,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// What it is; where it comes from rotation itself, it says what to do as well.
    pub(crate) text: String,
    /// What mends it.
    pub(crate) fix: Option<String>,
}

/// One Secret, while its rows are made.
struct Keys<'a> {
    now: Timestamp,
    name: &'a SecretRef,
    inventory: &'a Inventory,
    policy: &'a Policy,
    planes: &'a BTreeMap<String, PlaneView>,
    trouble: Option<String>,
    paused: bool,
    record: Record,
    demand: BTreeMap<String, KeyDemand>,
    plan: Plan,
}

impl Report {
    /// Looks at every Secret as rotation itself would.
    pub(crate) fn new(
        now: Timestamp,
        inventory: &Inventory,
        policy: &Policy,
        planes: &BTreeMap<String, PlaneView>,
        logs: &str,
    ) -> Self {
        let secrets = inventory.all_secrets();
        let mut keys: Vec<Row> = secrets
            .iter()
            .flat_map(|name| Keys::new(now, name, inventory, policy, planes).rows(logs))
            .collect();
        keys.sort_by(|one, other| one.order().cmp(&other.order()));
        Self { keys }
    }

    /// How many keys were verified and are not as they should be.
    pub(crate) fn unverified(&self) -> usize {
        let wrong = |key: &&Row| key.verified == Some(false);
        self.keys.iter().filter(wrong).count()
    }
}

impl Row {
    fn order(&self) -> (&str, &str, &str, &str) {
        (
            &self.namespace,
            &self.service,
            &self.control_plane,
            &self.data_key,
        )
    }
}

impl<'a> Keys<'a> {
    fn new(
        now: Timestamp,
        name: &'a SecretRef,
        inventory: &'a Inventory,
        policy: &'a Policy,
        planes: &'a BTreeMap<String, PlaneView>,
    ) -> Self {
        let demand = inventory.demand(name);
        let secret = inventory.secrets.get(name);
        let (owned, record, trouble) =
            secret.map_or_else(|| (Ownership::Ours, Record::default(), None), ownership);
        let filled = secret.into_iter().flat_map(|secret| &secret.data);
        let filled: BTreeSet<String> = filled
            .filter(|(data_key, value)| *data_key != DATA_KEY && !value.is_empty())
            .map(|(data_key, _)| data_key.clone())
            .collect();
        let requests = secret
            .and_then(|secret| Requests::parse(&secret.annotations).ok())
            .unwrap_or_default();
        let issued = planes.iter().filter_map(|(plane, view)| match view {
            PlaneView::Held(held) => Some((plane.clone(), held.issued())),
            PlaneView::Trouble(_) => None,
        });
        let view = View {
            ownership: owned,
            record: &record,
            filled: &filled,
            requests: &requests,
            demand: &demand,
            synced: true,
            issued: &issued.collect(),
            process: &Process::default(),
        };
        let plan = plan(now, &view, &policy.rotation);
        Self {
            now,
            name,
            inventory,
            policy,
            planes,
            trouble: trouble.map(|trouble| trouble.message),
            paused: owned == Ownership::Paused,
            record,
            demand,
            plan,
        }
    }

    fn rows(&self, logs: &str) -> Vec<Row> {
        let data_keys: BTreeSet<_> = self.record.keys.keys().chain(self.demand.keys()).collect();
        if let (true, Some(trouble)) = (data_keys.is_empty(), &self.trouble) {
            // A Secret of somebody else that no pod needs is none of our business, but one that is damaged is.
            let ours = self
                .inventory
                .secrets
                .get(self.name)
                .is_some_and(|secret| secret.data.contains_key(DATA_KEY));
            return Vec::from_iter(ours.then(|| self.damaged(trouble)));
        }
        data_keys
            .into_iter()
            .map(|data_key| self.row(data_key, logs))
            .collect()
    }

    fn row(&self, data_key: &str, logs: &str) -> Row {
        let key = self.record.keys.get(data_key);
        let demand = self.demand.get(data_key);
        let current = key.and_then(|key| key.current.as_ref());
        let control_plane = demand
            .map(|demand| &demand.control_plane)
            .or(key.map(|key| &key.control_plane))
            .cloned()
            .unwrap_or_default();
        let asked = demand
            .map(|demand| &demand.asked)
            .or(current.map(|current| &current.asked));
        let buffer = demand.and_then(|demand| SignedDuration::try_from(demand.buffer).ok());
        let next = current
            .zip(buffer)
            .and_then(|(current, buffer)| current.expires.checked_sub(buffer).ok());
        let owners = self
            .inventory
            .owners
            .get(&(self.name.clone(), data_key.to_owned()));
        let mut row = Row {
            namespace: self.name.namespace.clone(),
            service: demand
                .map(|demand| &demand.service)
                .or(key.map(|key| &key.service))
                .cloned()
                .unwrap_or_default(),
            secret: self.name.name.clone(),
            data_key: data_key.to_owned(),
            user: asked.map(|asked| asked.user.clone()),
            tags: asked.map(|asked| asked.tags.clone()).unwrap_or_default(),
            key_id: current.map(|current| current.id),
            created: current.map(|current| current.created),
            expires: current.map(|current| current.expires),
            next_rotation: next,
            pending: self.pending(data_key),
            ending: key
                .into_iter()
                .flat_map(|key| &key.previous)
                .map(|previous| previous.id)
                .collect(),
            state: self.state(data_key),
            owners: owners.cloned().unwrap_or_default(),
            pods: demand.map_or(0, |demand| demand.pods),
            nodes_online: None,
            verified: None,
            problems: Vec::new(),
            unexplained: false,
            control_plane,
        };
        self.judge(&mut row, demand, logs);
        self.compare(&mut row, key);
        let waits = demand.map(|demand| self.now.duration_since(demand.since));
        let waits = waits.is_some_and(|waits| waits > PATIENCE);
        if row.state == State::Degraded.as_str() && row.problems.is_empty() && waits {
            row.unexplained = true;
            row.problems.push(Problem {
                text: "it has no usable key, and no Event says why".to_owned(),
                fix: Some(logs.to_owned()),
            });
        }
        row
    }

    fn damaged(&self, trouble: &str) -> Row {
        Row {
            namespace: self.name.namespace.clone(),
            service: String::new(),
            control_plane: String::new(),
            secret: self.name.name.clone(),
            data_key: String::new(),
            user: None,
            tags: Vec::new(),
            key_id: None,
            created: None,
            expires: None,
            next_rotation: None,
            pending: None,
            ending: Vec::new(),
            state: State::SecretNotOurs.as_str().to_owned(),
            owners: BTreeSet::new(),
            pods: 0,
            nodes_online: None,
            verified: None,
            problems: vec![Problem {
                text: trouble.to_owned(),
                fix: None,
            }],
            unexplained: false,
        }
    }

    /// Why another key is being made now.
    fn pending(&self, data_key: &str) -> Option<&'static str> {
        self.plan.steps.iter().find_map(|step| match step {
            Step::Intend { data_key: of, why }
            | Step::Mint {
                data_key: of, why, ..
            } if of == data_key => Some(why.as_str()),
            _ => None,
        })
    }

    fn state(&self, data_key: &str) -> String {
        let Some(state) = self.plan.states.get(data_key) else {
            return "Unused".to_owned();
        };
        if *state == State::Degraded
            && let Some(note) = self.notes().next()
        {
            return note.reason.clone();
        }
        state.as_str().to_owned()
    }

    /// What rotation has warned of in the last hour.
    fn notes(&self) -> impl Iterator<Item = &Note> {
        let notes = self.inventory.notes.get(self.name).into_iter().flatten();
        notes.filter(|note| self.now.duration_since(note.at) < FRESH)
    }

    /// What is wrong as far as the cluster alone says.
    fn judge(&self, row: &mut Row, demand: Option<&KeyDemand>, logs: &str) {
        let mut say = |text: String, fix: Option<String>| row.problems.push(Problem { text, fix });
        let SecretRef { namespace, name } = self.name;
        if let Some(trouble) = &self.trouble {
            say(trouble.clone(), None);
        } else if self.policy.rotation.paused {
            say(
                "rotation is paused everywhere".to_owned(),
                Some("set rotation.paused to false in the configuration".to_owned()),
            );
        } else if self.paused {
            let fix = format!(
                "kubectl annotate secret {name} --namespace {namespace} sidescale.io/paused-"
            );
            say(format!("rotation of Secret {name} is paused"), Some(fix));
        } else if row.state == State::QuotaExceeded.as_str() {
            say(
                "the namespace has more services than it may".to_owned(),
                Some("remove some, or raise rotation.maxServicesPerNamespace".to_owned()),
            );
        } else if demand.is_some() && (row.pending.is_some() || row.key_id.is_none()) {
            if let Some(note) = self.notes().next() {
                say(note.text.clone(), None);
            }
            let late = row.next_rotation.map(|due| self.now.duration_since(due));
            if let Some(late) = late.filter(|late| *late > LATE) {
                let text = format!("its renewal was due {} ago", super::table::span(late));
                say(text, Some(logs.to_owned()));
            }
        }
        if let Some(demand) = demand.filter(|demand| demand.differing > 0) {
            say(
                format!(
                    "{} of {} pods ask for another key than the newest pod, which decides",
                    demand.differing, demand.pods
                ),
                Some("finish or undo the rollout of its workload".to_owned()),
            );
        }
    }

    /// What the control plane says of the key.
    fn compare(&self, row: &mut Row, key: Option<&KeyRecord>) {
        let held = match self.planes.get(&row.control_plane) {
            None => return,
            Some(PlaneView::Trouble(trouble)) => {
                row.verified = Some(false);
                if row
                    .problems
                    .iter()
                    .all(|problem| problem.text != trouble.message)
                {
                    row.problems.push(Problem {
                        text: trouble.message.clone(),
                        fix: None,
                    });
                }
                return;
            }
            Some(PlaneView::Held(held)) => held,
        };
        row.nodes_online = Some(held.nodes_of(row.user.as_deref(), key));
        let Some(current) = key.and_then(|key| key.current.as_ref()) else {
            return;
        };
        let plane = &row.control_plane;
        let wrong = held.difference(self.now, current);
        row.verified = Some(wrong.is_none());
        if let Some(wrong) = wrong {
            row.problems.push(Problem {
                text: format!("control plane {plane:?}: key {} {wrong}", current.id.0),
                fix: Some(format!(
                    "sidescale rotate --now {}/{} (rotation sees it by itself within the hour)",
                    row.namespace, row.service
                )),
            });
        }
    }
}

impl Held {
    fn issued(&self) -> Issued {
        let keys = self.keys.iter().map(|key| (key.id, key.clone()));
        let users = self.users.iter().map(|user| (user.name.clone(), user.id));
        Issued {
            keys: keys.collect(),
            users: users.collect(),
        }
    }

    /// How many nodes are online that came with a key of this user.
    fn nodes_of(&self, user: Option<&str>, key: Option<&KeyRecord>) -> usize {
        let user = self.users.iter().find(|known| Some(&*known.name) == user);
        let mut ids: BTreeSet<KeyId> = key
            .into_iter()
            .flat_map(|key| {
                let previous = key.previous.iter().map(|previous| previous.id);
                previous.chain(key.current.as_ref().map(|current| current.id))
            })
            .collect();
        if let Some(user) = user {
            let of_user = self.keys.iter().filter(|key| key.user == Some(user.id));
            ids.extend(of_user.map(|key| key.id));
        }
        let of_service = |node: &&Node| {
            node.pre_auth_key.is_some_and(|key| ids.contains(&key))
                || user.is_some_and(|user| node.user == Some(user.id))
        };
        let online = self.nodes.iter().filter(|node| node.online);
        online.filter(of_service).count()
    }

    /// How the key differs from what the record says, if it does.
    fn difference(&self, now: Timestamp, current: &record::Issued) -> Option<String> {
        let Some(key) = self.keys.iter().find(|key| key.id == current.id) else {
            return Some("is not there any more".to_owned());
        };
        let expires = key.expiration.unwrap_or(Timestamp::MIN);
        if expires <= now {
            return Some("has ended".to_owned());
        }
        if !same_fingerprint(expires, current.expires) {
            return Some(format!("ends at {expires}, want {}", current.expires));
        }
        let asked = &current.asked;
        if let Some(owner) = key.user {
            let name = self.users.iter().find(|user| user.id == owner);
            let name = name.map_or("nobody", |user| user.name.as_str());
            if name != asked.user {
                return Some(format!("belongs to user {name:?}, want {:?}", asked.user));
            }
        }
        let mut tags = key.tags.clone();
        tags.sort();
        if tags != asked.tags {
            return Some(format!("gives tags {tags:?}, want {:?}", asked.tags));
        }
        let properties = (key.reusable, key.ephemeral);
        (properties != (asked.reusable, asked.ephemeral))
            .then(|| "is not reusable or ephemeral as it was asked for".to_owned())
    }
}
