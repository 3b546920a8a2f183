//! Another writer that undoes what rotation writes, each second for ten minutes and for hours after. Tests.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_core::key_state::KeyState;
use sidescale_core::secret::{SecretRef, StoredSecret};
use sidescale_rotation::demand::Demands;
use sidescale_rotation::record::DATA_KEY as RECORD;
use sidescale_webhook::profile::Policy;

use super::doors::Door;
use super::episode::{demands, service};
use super::process::Process;
use super::world::{SECRET, World};
use crate::metrics::Metrics;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: u32 = 3_600;
const DATA_KEY: &str = "s0-authkey";

/// How many keys may be created before it counts as contention.
const AT_FIRST: usize = 5;

struct Fight {
    door: Door,
    process: Process,
    demands: Demands,
    secret: SecretRef,
    /// What the other writer puts back.
    old: Option<StoredSecret>,
    undo: fn(&mut World, &StoredSecret),
}

impl Fight {
    /// A service whose key is about to be renewed, after two hours of its six.
    fn new(undo: fn(&mut World, &StoredSecret)) -> Self {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let mut policy = Policy::for_login_server("https://headscale.example.org").unwrap();
        policy.rotation.overlap = SECOND * HOUR;
        let door = Door::new(World::new(1, start, policy.rotation.overlap));
        let mut key = service(0);
        key.expiration = SECOND * HOUR * 6;
        let demands = demands([&key]);
        let metrics = Arc::new(Metrics::new().unwrap());
        let policy = Arc::new(policy);
        let none = SignedDuration::ZERO;
        let process = Process::start(&door, &policy, &metrics, &demands, none);
        let mut fight = Self {
            door,
            process,
            demands,
            secret: SecretRef::new("n0", SECRET),
            old: None,
            undo,
        };
        fight.work(false);
        fight.old = fight.door.world().read("n0", SECRET);
        assert_eq!(fight.created(), 1);
        fight
    }

    /// Lets the process do what is due; the other writer may act between any two calls.
    fn work(&mut self, racing: bool) {
        for _ in 0..10_000 {
            let now = self.door.world().now;
            if !self.process.begin(now) {
                return;
            }
            self.process.go_on(0);
            if racing {
                self.undo();
            }
        }
        panic!("the process does not come to rest");
    }

    fn undo(&mut self) {
        let Some(old) = &self.old else { return };
        let mut world = self.door.world();
        let stands = |secret: Option<StoredSecret>| secret.map(|secret| secret.data);
        let before = stands(world.read("n0", SECRET));
        (self.undo)(&mut world, old);
        if before != stands(world.read("n0", SECRET)) {
            drop(world);
            *self.demands.changes.entry(self.secret.clone()).or_default() += 1;
            self.process.take(&self.demands);
        }
    }

    /// Overwrites once every `step` for so many seconds.
    fn fight(&mut self, seconds: u32, step: u32, racing: bool) {
        for _ in 0..seconds / step {
            self.door.world().pass(SECOND * step);
            self.undo();
            self.work(racing);
        }
    }

    fn created(&self) -> usize {
        self.door.world().created()
    }

    fn state(&self) -> Option<KeyState> {
        self.process.state(&self.secret, DATA_KEY)
    }
}

fn put_back(world: &mut World, old: &StoredSecret) {
    world.put_back(old, "gitops");
}

fn put_back_value_alone(world: &mut World, old: &StoredSecret) {
    let mut old = old.clone();
    old.data.remove(RECORD);
    world.put_back(&old, "gitops");
}

fn take_out(world: &mut World, old: &StoredSecret) {
    world.take_value_out(&old.namespace, DATA_KEY);
}

fn remove(world: &mut World, old: &StoredSecret) {
    world.remove(&old.namespace);
}

#[test]
fn a_co_writer_that_undoes_each_key_for_hours_gets_one_an_hour() {
    for (undo, due, named) in [
        (put_back as fn(&mut World, &StoredSecret), 2 * HOUR, true),
        (take_out, 0, false),
        (remove, 0, false),
    ] {
        for racing in [false, true] {
            let mut fight = Fight::new(undo);
            fight.door.world().pass(SECOND * due);
            fight.fight(600, 1, racing);
            let made = fight.created();
            // One more that was rightly created, and one that it takes to see the fifth one overwritten.
            assert!(
                (4..=AT_FIRST + 2).contains(&made),
                "{made} in ten minutes, racing: {racing}"
            );
            assert_eq!(fight.state(), Some(KeyState::Contended), "racing: {racing}");
            let note = fight.process.notes(&fight.secret).concat();
            assert_eq!(
                note.contains("field manager \"gitops\" keeps restoring"),
                named,
                "{note}"
            );
            assert!(note.contains("--show-managed-fields"), "{note}");
            if !racing {
                let last = fight.door.world().last_live().expect("it is not ended");
                assert!(fight.process.keeps(last), "or a sweep would end it");
            }
            fight.fight(2 * HOUR, 5, racing);
            let later = fight.created() - made;
            assert!(
                (1..=2).contains(&later),
                "{later} in two hours, racing: {racing}"
            );
            // The contention is over: the next key stays.
            fight.old = None;
            for _ in 0..=HOUR {
                fight.door.world().pass(SECOND);
                fight.work(false);
            }
            assert_eq!(fight.created() - made, later + 1);
            assert_eq!(fight.state(), Some(KeyState::Ready));
        }
    }
}

#[test]
fn a_co_writer_whose_key_is_good_has_its_way_until_that_is_due() {
    let mut fight = Fight::new(put_back_value_alone);
    // Our key is due after two hours of six, theirs after four.
    fight.door.world().pass(SECOND * 2 * HOUR);
    fight.fight(600, 1, false);
    assert_eq!(fight.created(), 1);
    assert_eq!(fight.state(), Some(KeyState::Ready));
    fight.fight(5 * HOUR / 2, 5, false);
    let made = fight.created();
    assert!((4..=AT_FIRST + 3).contains(&made), "{made}");
    assert_eq!(fight.state(), Some(KeyState::Contended));
}
