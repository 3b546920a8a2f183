//! The rows of one Secret, judged as rotation itself would. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use sidescale_core::key_form::may_be_a_key;
use sidescale_core::key_state::KeyState;
use sidescale_core::secret::SecretRef;
use sidescale_rotation::demand::KeyDemand;
use sidescale_rotation::owner::ServiceOwner;
use sidescale_rotation::ownership::ownership;
use sidescale_rotation::plan::{Ownership, Plan, Process, SecretView, Step, plan};
use sidescale_rotation::record::{DATA_KEY, KeyRecord, Record};
use sidescale_rotation::request::Requests;
use sidescale_rotation::value::StoredValue;
use sidescale_webhook::identity::POD_SECRET;
use sidescale_webhook::profile::Policy;

use super::row::{Hints, RowProblem, StatusRow};
use crate::commands::view::held::PlaneView;
use crate::commands::view::inventory::{Inventory, RotationWarning};
use crate::commands::view::span::span;

/// Age up to which a warning of rotation counts.
const FRESH: SignedDuration = SignedDuration::from_hours(1);

/// Delay from which a late renewal is a problem.
const LATE: SignedDuration = SignedDuration::from_hours(1);

/// A service that is younger than this may still wait for its first key.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// One Secret, while its rows are built.
pub(super) struct SecretRows<'a> {
    now: Timestamp,
    name: &'a SecretRef,
    inventory: &'a Inventory,
    policy: &'a Policy,
    planes: &'a BTreeMap<String, PlaneView>,
    problem: Option<String>,
    paused: bool,
    record: Record,
    demand: BTreeMap<String, KeyDemand>,
    plan: Plan,
}

impl<'a> SecretRows<'a> {
    pub(super) fn new(
        now: Timestamp,
        name: &'a SecretRef,
        inventory: &'a Inventory,
        policy: &'a Policy,
        planes: &'a BTreeMap<String, PlaneView>,
    ) -> Self {
        let demand = inventory.demand(name);
        let secret = inventory.secrets.get(name);
        let (owned, record, problem) =
            secret.map_or_else(|| (Ownership::Ours, Record::default(), None), ownership);
        let filled = secret.into_iter().flat_map(|secret| &secret.data);
        let filled: BTreeSet<String> = filled
            .filter(|(data_key, value)| *data_key != DATA_KEY && may_be_a_key(value))
            .map(|(data_key, _)| data_key.clone())
            .collect();
        let requests = secret
            .and_then(|secret| Requests::parse(&secret.annotations).ok())
            .unwrap_or_default();
        let issued = planes.iter().filter_map(|(plane, view)| match view {
            PlaneView::Held(held) => Some((plane.clone(), held.issued(now))),
            PlaneView::Trouble(_) => None,
        });
        let quota = inventory.quota(name, policy.rotation.max_services_per_namespace);
        let view = SecretView {
            namespace: &name.namespace,
            ownership: owned,
            record: &record,
            recreated: false,
            bytes: secret.map_or(0, |secret| secret.size()),
            filled: &filled,
            values: &secret
                .map(|secret| StoredValue::all(&secret.data, &demand))
                .unwrap_or_default(),
            requests: &requests,
            demand: &demand,
            of_pods: name.name == POD_SECRET,
            held: &inventory.held(name),
            over_quota: &quota.over,
            excess: quota.excess,
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
            problem: problem.map(|problem| problem.message),
            paused: owned == Ownership::Paused,
            record,
            demand,
            plan,
        }
    }

    pub(super) fn rows(&self, hints: &Hints) -> Vec<StatusRow> {
        let data_keys: BTreeSet<_> = self.record.keys.keys().chain(self.demand.keys()).collect();
        if let (true, Some(problem)) = (data_keys.is_empty(), &self.problem) {
            // A foreign Secret that no pod needs does not concern Sidescale, but a damaged one does.
            let ours = self
                .inventory
                .secrets
                .get(self.name)
                .is_some_and(|secret| secret.data.contains_key(DATA_KEY));
            return Vec::from_iter(ours.then(|| self.damaged(problem)));
        }
        data_keys
            .into_iter()
            .map(|data_key| self.row(data_key, hints))
            .collect()
    }

    fn row(&self, data_key: &str, hints: &Hints) -> StatusRow {
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
        // A pod that has joined with its own key needs it no longer: it may expire.
        let lasting = current.filter(|_| key.is_some_and(|key| key.joined_with.is_none()));
        let next = lasting
            .zip(buffer)
            .and_then(|(current, buffer)| current.expires.checked_sub(buffer).ok());
        let owners = self
            .inventory
            .owners
            .get(&(self.name.clone(), data_key.to_owned()));
        let mut row = StatusRow {
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
            keys: 1,
            created: current.map(|current| current.created),
            expires: lasting.map(|current| current.expires),
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
            last_seen: None,
            nodes: None,
            verified: None,
            problems: Vec::new(),
            unexplained: false,
            control_plane,
        };
        self.judge(&mut row, demand, hints);
        self.compare(&mut row, key, hints);
        let waits = demand.map(|demand| self.now.duration_since(demand.since));
        let waits = waits.is_some_and(|waits| waits > PATIENCE);
        if row.state == KeyState::Degraded.as_str() && row.problems.is_empty() && waits {
            row.unexplained = true;
            row.problems.push(RowProblem {
                text: "it has no usable key, and no Event says why".to_owned(),
                fix: Some(hints.logs.clone()),
            });
        }
        row
    }

    fn damaged(&self, problem: &str) -> StatusRow {
        StatusRow {
            namespace: self.name.namespace.clone(),
            service: String::new(),
            control_plane: String::new(),
            secret: self.name.name.clone(),
            data_key: String::new(),
            user: None,
            tags: Vec::new(),
            key_id: None,
            keys: 0,
            created: None,
            expires: None,
            next_rotation: None,
            pending: None,
            ending: Vec::new(),
            state: KeyState::SecretNotOurs.as_str().to_owned(),
            owners: BTreeSet::new(),
            pods: 0,
            nodes_online: None,
            last_seen: None,
            nodes: None,
            verified: None,
            problems: vec![RowProblem {
                text: problem.to_owned(),
                fix: None,
            }],
            unexplained: false,
        }
    }

    /// Returns why a new key is being created now.
    fn pending(&self, data_key: &str) -> Option<&'static str> {
        self.plan.steps.iter().find_map(|step| match step {
            Step::Intend { data_key: of, why }
            | Step::Create {
                data_key: of, why, ..
            } if of == data_key => Some(why.as_str()),
            _ => None,
        })
    }

    fn state(&self, data_key: &str) -> String {
        let Some(state) = self.plan.states.get(data_key) else {
            return "Unused".to_owned();
        };
        if *state == KeyState::Degraded
            && let Some(note) = self.notes().next()
        {
            return note.reason.clone();
        }
        state.as_str().to_owned()
    }

    /// Returns the warnings of rotation in the last hour.
    fn notes(&self) -> impl Iterator<Item = &RotationWarning> {
        let notes = self.inventory.notes.get(self.name).into_iter().flatten();
        notes.filter(|note| self.now.duration_since(note.at) < FRESH)
    }

    /// Finds problems that the cluster alone shows.
    fn judge(&self, row: &mut StatusRow, demand: Option<&KeyDemand>, hints: &Hints) {
        let mut say =
            |text: String, fix: Option<String>| row.problems.push(RowProblem { text, fix });
        let SecretRef { namespace, name } = self.name;
        if let Some(problem) = &self.problem {
            say(problem.clone(), None);
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
        } else if row.state == KeyState::QuotaExceeded.as_str() && name == POD_SECRET {
            say(
                "the namespace has more pods with per-pod keys than a Secret has room for"
                    .to_owned(),
                Some("run fewer of them there, or set sidescale.io/key-mode to shared".to_owned()),
            );
        } else if row.state == KeyState::QuotaExceeded.as_str() {
            say(
                "the namespace has more services than are allowed".to_owned(),
                Some("remove some, or raise rotation.maxServicesPerNamespace".to_owned()),
            );
        } else if demand.is_some() && (row.pending.is_some() || row.key_id.is_none()) {
            if let Some(note) = self.notes().next() {
                say(note.text.clone(), None);
            }
            let late = row.next_rotation.map(|due| self.now.duration_since(due));
            if let Some(late) = late.filter(|late| *late > LATE) {
                let text = format!("its renewal was due {} ago", span(late));
                say(text, Some(hints.logs.clone()));
            }
        }
        if let Some(demand) = demand.filter(|demand| demand.differing > 0) {
            say(
                format!(
                    "{} of {} pods request another key than the newest pod, which takes precedence",
                    demand.differing, demand.pods
                ),
                Some("finish or undo the rollout of its workload".to_owned()),
            );
        }
    }

    /// Finds problems of the key that the control plane shows.
    fn compare(&self, row: &mut StatusRow, key: Option<&KeyRecord>, hints: &Hints) {
        let held = match self.planes.get(&row.control_plane) {
            None => return,
            Some(PlaneView::Trouble(problem)) => {
                row.verified = Some(false);
                if row.problems.iter().all(|row| row.text != problem.message) {
                    row.problems.push(RowProblem {
                        text: problem.message.clone(),
                        fix: None,
                    });
                }
                return;
            }
            Some(PlaneView::Held(held)) => held,
        };
        let nodes = held.nodes_of(row.user.as_deref(), key);
        row.nodes_online = Some(nodes.iter().filter(|node| node.online).count());
        row.last_seen = nodes.iter().filter_map(|node| node.last_seen).max();
        row.nodes = Some(nodes);
        let Some(current) = key.and_then(|key| key.current.as_ref()) else {
            return;
        };
        let plane = &row.control_plane;
        let joined = key.is_some_and(|key| key.joined_with.is_some());
        let owner = ServiceOwner::new(&row.namespace, &row.service);
        let wrong = held
            .difference(self.now, &owner, current)
            .filter(|_| !joined);
        row.verified = Some(wrong.is_none());
        if let Some(wrong) = wrong {
            row.problems.push(RowProblem {
                text: format!("control plane {plane:?}: key {} {wrong}", current.id.0),
                fix: Some(if row.secret == POD_SECRET {
                    "none needed: Sidescale creates a new key within the hour, unless the pod has joined".to_owned()
                } else {
                    format!(
                        "sidescale rotate --now {}/{}{} (Sidescale detects it by itself within the hour)",
                        row.namespace, row.service, hints.flags
                    )
                }),
            });
        }
    }
}
