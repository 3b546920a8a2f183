//! A model of keepers on one Secret and one Headscale: all orders of their calls, lost answers, crashes, clock jumps.

mod dice;
mod world;

use world::{Weather, World};

/// Runs one and two keepers, with and without faults; prints their counts.
#[test]
fn whatever_goes_wrong_one_live_key_is_left_and_it_is_in_the_secret() {
    let (mut created, mut stored, mut expired) = (0, 0, 0);
    for seed in 0..120 {
        let weather = Weather {
            actors: 1 + usize::from(seed % 2 == 1),
            faults: seed % 4 >= 2,
            meddling: false,
            jumps: false,
        };
        let mut world = World::new(seed, weather);
        for _ in 0..1_500 {
            world.turn();
            if let Some(id) = world.in_secret() {
                assert!(world.is_live(id), "seed {seed}: a dead key in the Secret");
            }
        }
        world.settle();
        let current = world
            .in_secret()
            .unwrap_or_else(|| panic!("seed {seed}: no key"));
        assert_eq!(world.live_of_ours(), [current], "seed {seed}");
        let natural = world
            .keys
            .values()
            .filter(|key| key.expires <= world.now)
            .count() as u64;
        assert_eq!(world.created, 1 + natural, "seed {seed}: the ledger");
        created += world.created;
        stored += world.stored;
        expired += world.expired;
        if !weather.faults && weather.actors == 1 {
            assert_eq!(
                world.created, world.stored,
                "seed {seed}: keys were made for nothing"
            );
        }
    }
    assert!(stored > 1_500, "only {stored} rotations");
    println!("{created} keys created, {stored} written, {expired} expired by us");
}

#[test]
fn whoever_meddles_there_is_a_live_key_in_the_end() {
    let mut created = 0;
    for seed in 1_000..1_120 {
        let weather = Weather {
            actors: 1 + usize::from(seed % 2 == 1),
            faults: seed % 4 >= 2,
            meddling: true,
            jumps: seed % 8 >= 4,
        };
        let mut world = World::new(seed, weather);
        for _ in 0..1_500 {
            world.turn();
        }
        world.settle();
        let current = world
            .in_secret()
            .unwrap_or_else(|| panic!("seed {seed}: no key"));
        assert!(world.is_live(current), "seed {seed}: a dead key");
        created += world.created;
    }
    println!("{created} keys created");
}
