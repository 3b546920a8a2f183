//! A Headscale and Secrets in memory, the faults of calls, and the invariants. Tests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_core::secret::StoredSecret;
use sidescale_core::time::after;
use sidescale_rotation::record::Record;
use sidescale_rotation::retention::removal::Records;
use sidescale_simulator::ServerState;

mod by_hand;
mod headscale;
mod ledger;
mod random;

pub(super) use random::Random;

pub(super) const SECRET: &str = "headscale-auth-keys";

/// A fault of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mishap {
    /// The call was not executed.
    Refused,
    /// The call was executed, but its answer was lost.
    AnswerLost,
    /// The call was executed, and the answer is that of a retry.
    AskedTwice,
}

/// The history of a key, in addition to what Headscale and the Secrets show.
#[derive(Clone, Copy, Debug)]
struct Made {
    at: Timestamp,
    /// When a pod could last read it.
    readable: Option<Timestamp>,
    /// Whether Headscale forgot it because a person or its own cleanup deleted long expired keys.
    swept: bool,
    /// Whether a person took it out of its Secret.
    taken: bool,
    /// Whether a person created it.
    hers: bool,
}

pub(super) struct World {
    pub(super) random: Random,
    /// The true time, which Headscale uses as well.
    pub(super) now: Timestamp,
    /// How often in a thousand a call fails.
    pub(super) mishaps: u64,
    /// Until when Headscale is unavailable.
    pub(super) away_until: Timestamp,
    pub(super) overlap: Duration,
    /// Maximum difference between the processes' clocks and the true time.
    pub(super) skew: SignedDuration,
    /// When a person or another controller did something that makes Sidescale forget keys.
    pub(super) forgetting: Vec<Timestamp>,
    /// Whether a process's own clock was days ahead: it expires old keys too soon and cannot notice.
    pub(super) mad_clock: bool,
    pub(super) answers_lost: u64,
    pub(super) conflicts: u64,
    pub(super) rotations: u64,
    pub(super) written_by_hand: u64,
    /// A namespace whose tenant writes anything into its Secret: its contents prove nothing.
    pub(super) hostile: Option<String>,
    server: ServerState,
    backup: Option<ServerState>,
    secrets: BTreeMap<(String, String), StoredSecret>,
    old: Vec<StoredSecret>,
    revision: u64,
    made: BTreeMap<u64, Made>,
    excused: BTreeMap<String, &'static str>,
    trace: VecDeque<String>,
}

impl World {
    pub(super) fn new(seed: u64, now: Timestamp, overlap: Duration) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            now,
            mishaps: 0,
            away_until: now,
            overlap,
            skew: SignedDuration::ZERO,
            forgetting: Vec::new(),
            mad_clock: false,
            answers_lost: 0,
            conflicts: 0,
            rotations: 0,
            written_by_hand: 0,
            hostile: None,
            server: ServerState::default(),
            backup: None,
            secrets: BTreeMap::new(),
            old: Vec::new(),
            revision: 0,
            made: BTreeMap::new(),
            excused: BTreeMap::new(),
            trace: VecDeque::new(),
        };
        let mut api_key = StoredSecret::absent("headscale", "headscale-api-key");
        // A person created it: no manager looks after it.
        api_key.labels.clear();
        let value = b"hskey-api-model".to_vec();
        api_key.data.insert("api-key".into(), value.into());
        world.write(&api_key);
        world
    }

    pub(super) fn note(&mut self, what: impl Into<String>) {
        if self.trace.len() == 200 {
            self.trace.pop_front();
        }
        self.trace
            .push_back(format!("{} {}", self.now, what.into()));
    }

    #[track_caller]
    pub(super) fn wrong(&self, what: &str) -> ! {
        let trace: Vec<_> = self.trace.iter().map(String::as_str).collect();
        panic!("{what}\n{}", trace.join("\n"));
    }

    pub(super) fn store_mishap(&mut self, write: bool) -> Option<Mishap> {
        let mishaps = self.mishaps;
        if !self.random.chance(mishaps) {
            return None;
        }
        let mishap = match self.random.below(3) {
            1 if write => Mishap::AnswerLost,
            2 if write => Mishap::AskedTwice,
            _ => Mishap::Refused,
        };
        self.note(format!("store: {mishap:?}"));
        self.answers_lost += u64::from(mishap == Mishap::AnswerLost);
        Some(mishap)
    }

    pub(super) fn headscale_mishap(&mut self) -> Option<Mishap> {
        if self.now < self.away_until {
            return Some(Mishap::Refused);
        }
        let mishaps = self.mishaps;
        if !self.random.chance(mishaps) {
            return None;
        }
        let mishap = match self.random.below(2) {
            1 => Mishap::AnswerLost,
            _ => Mishap::Refused,
        };
        self.note(format!("headscale: {mishap:?}"));
        self.answers_lost += u64::from(mishap == Mishap::AnswerLost);
        Some(mishap)
    }

    pub(super) fn read(&self, namespace: &str, name: &str) -> Option<StoredSecret> {
        let found = self.secrets.get(&(namespace.to_owned(), name.to_owned()));
        found.cloned()
    }

    pub(super) fn list(&self, name: &str) -> Vec<StoredSecret> {
        let named = |secret: &&StoredSecret| secret.name == name;
        self.secrets.values().filter(named).cloned().collect()
    }

    /// Compares and swaps; none if another writer came first.
    pub(super) fn write(&mut self, secret: &StoredSecret) -> Option<StoredSecret> {
        let there = self.read(&secret.namespace, &secret.name);
        if there.as_ref().and_then(|there| there.revision.clone()) != secret.revision {
            self.conflicts += 1;
            return None;
        }
        if secret.name == SECRET {
            let before: BTreeSet<_> = there.iter().flat_map(serials).collect();
            let fresh = serials(secret)
                .into_iter()
                .filter(|(_, serial)| {
                    let seen = self.made.get(serial).and_then(|made| made.readable);
                    seen.is_none()
                })
                .collect::<Vec<_>>();
            self.rotations += fresh.len() as u64;
            for (_, serial) in &before {
                self.was_readable(*serial);
            }
            self.note(format!("written: {fresh:?}"));
        }
        let mut secret = secret.clone();
        secret.writer = None;
        Some(self.put(secret))
    }

    pub(super) fn put(&mut self, mut secret: StoredSecret) -> StoredSecret {
        self.revision += 1;
        secret.revision = Some(self.revision.to_string());
        for (_, serial) in serials(&secret) {
            self.was_readable(serial);
        }
        let name = (secret.namespace.clone(), secret.name.clone());
        self.secrets.insert(name, secret.clone());
        self.check();
        secret
    }

    fn was_readable(&mut self, serial: u64) {
        let now = self.now;
        if let Some(made) = self.made.get_mut(&serial) {
            made.readable = Some(made.readable.map_or(now, |known| known.max(now)));
        }
    }

    /// Lets time pass, during which pods read the Secrets.
    pub(super) fn pass(&mut self, by: Duration) {
        self.now = after(self.now, by);
        self.sweep();
        for serial in self.in_secrets() {
            self.was_readable(serial);
        }
        self.check();
    }

    /// All clocks jump, and keys expire that could not be renewed: excused.
    pub(super) fn jump(&mut self, by: Duration) {
        self.note(format!("jump by {by:?}"));
        self.excuse("the clock jumped past every key's end");
        self.now = after(self.now, by);
    }

    pub(super) fn keep_old_secret(&mut self, namespace: &str) {
        self.old = self.read(namespace, SECRET).into_iter().collect();
    }

    /// A person restores a Secret of yesterday. Excused until it is noticed: its keys may have expired.
    pub(super) fn restore_secret(&mut self) {
        let Some(mut old) = self.old.pop() else {
            return;
        };
        self.note("secret restored");
        let why = "a Secret of yesterday was put back";
        self.excuse(why);
        // Including keys that are not in the Secret at the moment.
        let held = serials(&old).into_iter();
        self.excused.extend(held.map(|(key, _)| (key, why)));
        self.forgetting.push(self.now);
        let there = self.read(&old.namespace, &old.name);
        for (_, serial) in there.iter().flat_map(serials) {
            if let Some(made) = self.made.get_mut(&serial) {
                made.taken = true;
            }
        }
        old.revision = None;
        self.put(old);
    }

    /// Another controller removes a value.
    pub(super) fn take_value_out(&mut self, namespace: &str, data_key: &str) {
        if let Some(mut secret) = self.read(namespace, SECRET) {
            for (_, serial) in serials(&secret) {
                self.was_readable(serial);
            }
            if secret.data.remove(data_key).is_some() {
                self.note(format!("{data_key} taken out"));
                self.put(secret);
            }
        }
    }

    /// Another controller restores an older state.
    pub(super) fn put_back(&mut self, old: &StoredSecret, writer: &str) {
        let there = self.read(&old.namespace, SECRET);
        if there.is_some_and(|there| there.data == old.data) {
            return;
        }
        self.note("put back");
        let mut old = old.clone();
        old.writer = Some(writer.to_owned());
        self.put(old);
    }

    /// Another controller removes the Secret.
    pub(super) fn remove(&mut self, namespace: &str) {
        let name = (namespace.to_owned(), SECRET.to_owned());
        self.secrets.remove(&name);
    }

    /// Returns how many keys were created.
    pub(super) fn created(&self) -> usize {
        self.made.len()
    }

    /// Another controller annotates the Secret.
    pub(super) fn touch_secret(&mut self, namespace: &str) {
        if let Some(mut secret) = self.read(namespace, SECRET) {
            let revision = self.revision.to_string();
            secret.annotations.insert("touched".into(), revision);
            self.put(secret);
        }
    }

    fn excuse(&mut self, why: &'static str) {
        let keys: Vec<_> = self.named().into_keys().collect();
        self.excused.extend(keys.into_iter().map(|key| (key, why)));
    }

    /// Returns the keys in the Secrets, by data key: no two Secrets share one.
    fn named(&self) -> BTreeMap<String, u64> {
        let secrets = self.secrets.values();
        let honest =
            secrets.filter(|secret| self.hostile.as_deref() != Some(secret.namespace.as_str()));
        honest.flat_map(serials).collect()
    }

    fn in_secrets(&self) -> BTreeSet<u64> {
        self.named().into_values().collect()
    }

    /// Checks that a pod can never read an invalid key.
    fn check(&mut self) {
        let named = self.named();
        let live = self.live();
        for (data_key, serial) in named {
            if live.contains(&serial) {
                self.excused.remove(&data_key);
            } else if !self.excused.contains_key(&data_key) {
                self.wrong(&format!("{data_key} holds the dead key {serial}"));
            }
        }
    }

    /// Returns the records of all Secrets.
    pub(super) fn records(&self) -> Records {
        let mut records = Records::default();
        for secret in self.secrets.values() {
            let record = Record::of(secret).unwrap();
            let namespace = records.read.entry(secret.namespace.clone());
            namespace.or_default().push(record);
        }
        records
    }
}

fn value(serial: u64) -> String {
    format!("hskey-auth-{serial:012}-{}", "x".repeat(64))
}

/// Returns the serial of a key's value, if it is one of this world.
fn serial_of(value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value).ok()?;
    value.strip_prefix("hskey-auth-")?.get(..12)?.parse().ok()
}

/// Returns the keys in a Secret, by data key.
fn serials(secret: &StoredSecret) -> Vec<(String, u64)> {
    let values = secret.data.iter();
    values
        .filter_map(|(key, value)| Some((key.clone(), serial_of(value)?)))
        .collect()
}
