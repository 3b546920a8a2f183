//! Which names find room to be remembered.

use super::*;

#[test]
fn a_namespace_and_all_together_have_bounds_and_the_oldest_stay() {
    let names = ["n0", "n1", "n2", "n3"];
    let world = World {
        most_of_namespace: 2,
        most: 3,
        ..world()
    };
    let mut claims = Claims::default();
    let many = names.map(|name| ("old/a", name));
    let look = world.pods(&many).look(&mut claims, 0);
    let no_room = |namespace: &str, bound| BTreeMap::from([(namespace.to_owned(), bound)]);
    assert_eq!(
        (claims.0.len(), look.no_room),
        (2, no_room("old", Bound::Namespace))
    );
    // Another namespace has its own room, and none of the first one's names.
    let others = [
        ("old/a", "n0"),
        ("old/a", "n1"),
        ("young/b", "n0"),
        ("young/b", "x"),
    ];
    assert_eq!(world.pods(&others).refused(&mut claims, 1), ["young/b"]);
    assert!(claims.0.contains_key(&Hashed::of("x")));
    // All is full: later services are not remembered, and what is there stays.
    let more = [&others[..], &[("late/d", "y"), ("late/d", "n1")]].concat();
    let look = world.pods(&more).look(&mut claims, 2);
    assert_eq!(look.no_room, no_room("late", Bound::All));
    assert_eq!(claims.0.len(), 3);
    assert!(!claims.0.contains_key(&Hashed::of("y")));
    // For a new name, the namespace gives up the name that it has not asked for longest.
    world
        .pods(&[("old/a", "n1"), ("young/b", "x")])
        .look(&mut claims, 3);
    let look = world
        .pods(&[("old/a", "n2"), ("young/b", "x")])
        .look(&mut claims, 4);
    assert_eq!(look.no_room, BTreeMap::new());
    let kept = ["n1", "n2", "x"].map(Hashed::of);
    assert!(
        kept.iter().all(|name| claims.0.contains_key(name)),
        "{claims:?}"
    );
}

#[test]
fn of_too_many_new_names_the_oldest_service_gets_the_room() {
    let world = World { most: 1, ..world() };
    let mut claims = Claims::default();
    let pods = [("young/b", "a"), ("old/a", "z")];
    let look = world.pods(&pods).look(&mut claims, 0);
    assert_eq!(look.no_room, [("young".into(), Bound::All)].into());
    assert!(claims.0.contains_key(&Hashed::of("z")));
}
