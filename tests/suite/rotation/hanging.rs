//! A control plane that hangs beside one that answers: the nodes of the other one are still listed.

use super::*;

/// A call to the one that hangs ends by its own deadline, which is longer.
const WITHIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_control_plane_that_hangs_delays_no_look_at_another() {
    let mut world = World::new().await;
    let (lab, url, _server) = new_headscale(&world.clock).await;
    let mut plane = world.policy.control_planes["default"].clone();
    plane.api_url = url;
    plane.api_key_secret = "lab-api-key".into();
    world.policy.control_planes.insert("lab".into(), plane);
    let mut secret = StoredSecret::absent("headscale", "lab-api-key");
    let value = lab.create_api_key(DAY * 3_650).expose().as_bytes().to_vec();
    secret.data.insert("api-key".into(), value.into());
    world.store.write(&secret).await.unwrap();
    let _process = world.start("a");

    let looks = |headscale: &Embedded| headscale.calls(Call::ListNodes);
    until("a look at both", async || {
        (looks(&lab) > 0 && looks(&world.headscale) > 0).then_some(())
    })
    .await;
    lab.break_calls(Some(Call::ListNodes), Fault::Slow(DAY));
    let hanging = looks(&lab);
    until("a look that hangs", async || {
        world.clock.advance(Duration::from_secs(16));
        tokio::time::sleep(Duration::from_millis(20)).await;
        (looks(&lab) > hanging).then_some(())
    })
    .await;
    let (began, before) = (Instant::now(), looks(&world.headscale));
    until("three more looks at the other one", async || {
        world.clock.advance(Duration::from_secs(16));
        tokio::time::sleep(Duration::from_millis(50)).await;
        (looks(&world.headscale) >= before + 3).then_some(())
    })
    .await;
    let took = began.elapsed();
    println!(
        "three looks in {} ms beside one that hangs",
        took.as_millis()
    );
    assert!(took < WITHIN, "{took:?}");
    assert_eq!(
        looks(&lab),
        hanging + 1,
        "one look of a control plane at a time"
    );
}
