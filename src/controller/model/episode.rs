//! One run of the world: years of two processes, faults, people and other controllers. Tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_core::secret::SecretRef;
use sidescale_core::time::after;
use sidescale_rotation::demand::{Demands, KeyDemand, NamespaceDemand};
use sidescale_rotation::record::{KeySpec, Record};
use sidescale_rotation::retention::removal::{Removal, decide};
use sidescale_webhook::profile::Policy;

use super::doors::Door;
use super::process::{Process, installation};
use super::world::{SECRET, World};
use crate::metrics::Metrics;

const HOUR: Duration = Duration::from_secs(3_600);
const SERVICES: usize = 8;

/// The first services have a namespace each, the others share one: a small record is faster to read and write.
const ALONE: usize = 6;
/// Length of an episode; services are renewed about every hour.
const SPAN: Duration = Duration::from_secs(2 * 24 * 3_600);

/// Counts of an episode.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) rotations: u64,
    pub(super) created: u64,
    pub(super) in_secrets: u64,
    pub(super) expired: u64,
    pub(super) reported: u64,
    pub(super) restored_away: u64,
    pub(super) crashes: u64,
    pub(super) lost_answers: u64,
    pub(super) conflicts: u64,
    pub(super) written_by_hand: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.rotations += other.rotations;
        self.created += other.created;
        self.in_secrets += other.in_secrets;
        self.expired += other.expired;
        self.reported += other.reported;
        self.restored_away += other.restored_away;
        self.crashes += other.crashes;
        self.lost_answers += other.lost_answers;
        self.conflicts += other.conflicts;
        self.written_by_hand += other.written_by_hand;
    }
}

struct Episode {
    door: Door,
    policy: Arc<Policy>,
    metrics: Arc<Metrics>,
    services: Vec<KeyDemand>,
    demands: Demands,
    /// How often a Secret was written by others, as far as reported.
    changes: BTreeMap<SecretRef, u64>,
    /// Uids of the namespaces that were recreated with their Secrets.
    uids: BTreeMap<String, u128>,
    /// Whether disasters happen that no key manager could prevent.
    disasters: bool,
    processes: Vec<Process>,
    /// How often in a thousand calls a process crashes.
    crashing: u64,
    crashes: u64,
    /// When the next event happens.
    next: Timestamp,
    end: Timestamp,
}

/// Runs until everything is at rest, and balances the ledger.
pub(super) fn episode(seed: u64) -> Tally {
    let start = Timestamp::from_second(1_700_000_000).unwrap();
    let mut policy = Policy::for_login_server("https://headscale.example.org").unwrap();
    // An overlap protects readers only while no two clocks differ by more.
    let clocks_differ = seed.is_multiple_of(5);
    policy.rotation.overlap = if clocks_differ { HOUR * 3 } else { HOUR / 6 };
    let door = Door::new(World::new(seed, start, policy.rotation.overlap));
    if clocks_differ {
        door.world().skew = SignedDuration::from_hours(1);
    }
    let mut episode = Episode {
        door,
        policy: Arc::new(policy),
        metrics: Arc::new(Metrics::new().unwrap()),
        services: (0..SERVICES).map(service).collect(),
        demands: Demands::default(),
        changes: BTreeMap::new(),
        uids: BTreeMap::new(),
        disasters: seed.is_multiple_of(4),
        processes: Vec::new(),
        crashing: 0,
        crashes: 0,
        next: start,
        end: after(start, SPAN),
    };
    episode.ask();
    for _ in 0..2 {
        episode.processes.push(episode.process());
    }
    episode.world().mishaps = [0, 10, 40][usize::try_from(seed % 3).unwrap()];
    episode.crashing = [0, 5, 15][usize::try_from(seed / 3 % 3).unwrap()];
    while episode.world().now < episode.end {
        if episode.world().now >= episode.next {
            let wait = episode.world().random.below(1_200);
            let now = episode.world().now;
            episode.next = after(now, Duration::from_secs(wait));
            episode.something_happens();
        }
        episode.work();
        episode.wait();
    }
    episode.rest()
}

fn namespace(number: usize) -> String {
    format!("n{}", number.min(ALONE))
}

pub(super) fn service(number: usize) -> KeyDemand {
    KeyDemand {
        service: format!("s{number}"),
        control_plane: "default".into(),
        asked: KeySpec {
            user: format!("shop.s{number}"),
            tags: Vec::new(),
            reusable: true,
            ephemeral: true,
        },
        expiration: HOUR * 4 + HOUR / 12 * (6 + u32::try_from(number).unwrap()),
        buffer: HOUR * 4,
        pods: 1,
        differing: 0,
        since: Timestamp::UNIX_EPOCH,
        hostname: None,
    }
}

/// The services' keys, in the order of their numbers, as the watch of pods reports them.
pub(super) fn demands<'a>(services: impl IntoIterator<Item = &'a KeyDemand>) -> Demands {
    let mut namespaces: BTreeMap<String, BTreeMap<String, KeyDemand>> = BTreeMap::new();
    for (number, key) in services.into_iter().enumerate() {
        let keys = namespaces.entry(namespace(number)).or_default();
        keys.insert(format!("{}-authkey", key.service), key.clone());
    }
    let namespaces = namespaces.into_iter().map(|(namespace, keys)| {
        let demand = NamespaceDemand {
            secrets: [(SECRET.to_owned(), keys)].into(),
            ..NamespaceDemand::default()
        };
        (namespace.into(), Arc::new(demand))
    });
    Demands {
        synced: true,
        namespaces: namespaces.collect(),
        ..Demands::default()
    }
}

impl Episode {
    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.door.world()
    }

    fn process(&self) -> Process {
        let none = SignedDuration::ZERO;
        Process::start(&self.door, &self.policy, &self.metrics, &self.demands, none)
    }

    /// Publishes what pods need to all processes.
    fn ask(&mut self) {
        let mut demands = demands(&self.services);
        for (namespace, demand) in &mut demands.namespaces {
            Arc::make_mut(demand).uid = Some(self.uid(namespace));
        }
        self.demands = demands;
        self.demands.changes.clone_from(&self.changes);
        for process in &mut self.processes {
            process.take(&self.demands);
        }
    }

    fn uid(&self, namespace: &str) -> u128 {
        self.uids.get(namespace).copied().unwrap_or(1)
    }

    fn something_happens(&mut self) {
        let disasters = self.disasters;
        let mut world = self.door.world();
        let which = usize::try_from(world.random.below(SERVICES as u64)).unwrap();
        match world.random.below(if disasters { 40 } else { 30 }) {
            0 => world.touch_secret(&namespace(which)),
            1 => world.take_value_out(&namespace(which), &format!("s{which}-authkey")),
            // Shorter than a whole buffer.
            2 if world.now > after(world.away_until, HOUR * 3) => {
                world.away_until = after(world.now, HOUR);
            }
            7 | 12..=24 => {
                let tag = format!("tag:t{}", world.random.below(1_000));
                drop(world);
                for service in &mut self.services {
                    service.asked.tags = vec![tag.clone()];
                }
                self.ask();
            }
            8 => {
                drop(world);
                let life = &mut self.services[which].expiration;
                *life = if *life > HOUR * 6 { HOUR * 5 } else { HOUR * 8 };
                self.ask();
            }
            9 | 10 => {
                let mad = SignedDuration::from_hours(400 * 24);
                let skew = [SignedDuration::ZERO, world.skew, -world.skew, mad];
                let kinds = if disasters { 4 } else { 3 };
                let skew = skew[usize::try_from(world.random.below(kinds)).unwrap()];
                world.mad_clock |= skew == mad;
                let process = usize::try_from(world.random.below(2)).unwrap();
                world.note(format!("clock of {process} is off by {skew:?}"));
                drop(world);
                self.processes[process].skew = skew;
            }
            25 | 26 => {
                world.write_own_key(&namespace(which), &format!("s{which}-authkey"));
                drop(world);
                self.changed(which);
            }
            27 => {
                world.note(format!("{} is created again", namespace(which)));
                drop(world);
                *self.uids.entry(namespace(which)).or_insert(1) += 1;
                self.ask();
            }
            11 => {
                drop(world);
                let process = self.process();
                self.processes[which % 2] = process;
            }
            30 | 31 => world.back_up(),
            32 => world.restore_headscale(),
            33 | 34 => world.keep_old_secret(&namespace(which)),
            35 => world.restore_secret(),
            36 => {
                world.jump(HOUR * 24 * 400);
                self.end = after(self.end, HOUR * 24 * 400);
            }
            _ => {}
        }
    }

    /// Lets the processes do what is due, with their calls in any order.
    fn work(&mut self) {
        for _ in 0..5_000 {
            let now = self.world().now;
            let busy: Vec<usize> = (0..self.processes.len())
                .filter(|n| self.processes[*n].begin(now))
                .collect();
            if busy.is_empty() {
                return;
            }
            let (process, job, crash) = {
                let mut world = self.door.world();
                let process = world.random.below(busy.len() as u64);
                if world.random.chance(20) {
                    world.pass(Duration::from_millis(700));
                }
                let job = world.random.below(64);
                (process, job, world.random.chance(self.crashing))
            };
            let process = busy[usize::try_from(process).unwrap()];
            if crash {
                self.crashes += 1;
                self.world().note(format!("{process} dies"));
                self.processes[process] = self.process();
            } else {
                self.processes[process].go_on(job);
            }
        }
        self.world().wrong("the processes do not come to rest");
    }

    fn wait(&mut self) {
        let wakes = self.processes.iter().map(Process::wake).min();
        let mut world = self.door.world();
        let now = world.now;
        let longest = after(now, HOUR / 2);
        let until = wakes.unwrap_or(longest).clamp(now, longest);
        let by = Duration::try_from(until.duration_since(now)).unwrap_or_default();
        world.pass(by + Duration::from_millis(1));
    }

    fn go_on_for(&mut self, time: Duration) {
        let end = after(self.world().now, time);
        while self.world().now < end {
            self.work();
            self.wait();
        }
    }

    /// Reports to all processes that another writer has changed a Secret.
    fn changed(&mut self, which: usize) {
        let secret = SecretRef {
            namespace: namespace(which),
            name: SECRET.to_owned(),
        };
        *self.changes.entry(secret).or_default() += 1;
        self.ask();
    }

    /// Runs without further faults, so that everything recovers.
    fn rest(mut self) -> Tally {
        {
            let mut world = self.door.world();
            world.mishaps = 0;
            world.note("peace");
        }
        self.crashing = 0;
        for process in &mut self.processes {
            process.skew = SignedDuration::ZERO;
        }
        self.go_on_for(HOUR * 6);
        // The predecessor of a key that was just renewed has to expire: nothing is due for a while.
        for key in &mut self.services {
            key.expiration = HOUR * 24 * 90;
            key.asked.tags = vec!["tag:end".into()];
        }
        self.ask();
        self.go_on_for(HOUR * 5);
        if self.disasters {
            // A person restores a Secret of a day ago: the record forgets a long-lived key.
            let which = usize::try_from(self.world().random.below(SERVICES as u64)).unwrap();
            self.world().keep_old_secret(&namespace(which));
            for key in &mut self.services {
                key.asked.tags = vec!["tag:later".into()];
            }
            self.ask();
            self.go_on_for(HOUR * 24);
            self.world().restore_secret();
            self.changed(which);
            self.go_on_for(HOUR * 5);
        }
        let wanted: BTreeSet<_> = self
            .services
            .iter()
            .map(|key| format!("{}-authkey", key.service))
            .collect();
        let world = self.door.world();
        for (namespace, records) in world.records().read {
            let uid = Some(self.uid(&namespace));
            let earlier = |record: &Record| record.is_of_earlier_namespace(uid);
            assert!(
                !records.iter().any(earlier),
                "{namespace} is not taken over"
            );
        }
        let ledger = world.ledger(&wanted);
        let accounted = ledger.in_secrets + ledger.expired + ledger.reported + ledger.restored_away;
        assert_eq!(ledger.created, accounted);
        // The sweep would expire exactly the keys that no Secret knows, once all overlaps have passed.
        let survey = world.survey(&installation());
        let (now, records) = (world.now, world.records());
        let (demands, policy) = (&self.demands, &self.policy);
        let removals = decide(now, "default", &survey, Some(&records), demands, policy);
        let orphans = removals.iter().filter_map(|removal| match removal {
            Removal::Orphan { key, .. } => Some(key.id),
            Removal::Row { .. } | Removal::Node { .. } | Removal::User { .. } => None,
        });
        assert_eq!(orphans.collect::<BTreeSet<_>>(), ledger.unknown);
        Tally {
            rotations: world.rotations,
            created: ledger.created,
            in_secrets: ledger.in_secrets,
            expired: ledger.expired,
            reported: ledger.reported,
            restored_away: ledger.restored_away,
            crashes: self.crashes,
            lost_answers: world.answers_lost,
            conflicts: world.conflicts,
            written_by_hand: world.written_by_hand,
        }
    }
}
