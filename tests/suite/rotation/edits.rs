//! An edit of the configuration restarts rotation, and nothing that it knew is lost or asked for again.

use super::*;

impl World {
    /// Runs rotation until a service has a key; then an edit ends the run.
    async fn until_edited(&self, memory: Memory, service: &str) -> Memory {
        self.demand(&[service], |_| {});
        let stop = CancellationToken::new();
        let context = Arc::new(self.context("a"));
        let demands = self.demands.subscribe();
        let run = tokio::spawn(controller::run(context, memory, demands, stop.clone()));
        self.key(service).await;
        stop.cancel();
        run.await.unwrap()
    }
}

#[tokio::test]
async fn an_edit_keeps_sessions_and_back_offs_of_planes_that_it_leaves_alone() {
    let mut world = World::new().await;
    let (other, url, _server) = new_headscale(&world.clock).await;
    other.break_calls(None, Fault::Status(502));
    let mut plane = Policy::for_login_server(&url).unwrap().control_planes["default"].clone();
    plane.allow_insecure = true;
    world.policy.control_planes.insert("other".into(), plane);

    let memory = world.until_edited(Memory::default(), "api").await;
    let (probes, tries) = (world.headscale.calls(Call::Version), other.all_calls());
    assert!(probes > 0 && tries > 0, "{probes} {tries}");

    world.policy.rotation.overlap += Duration::from_secs(60);
    let memory = world.until_edited(memory, "web").await;
    assert_eq!(
        world.headscale.calls(Call::Version),
        probes,
        "it connected again"
    );
    assert_eq!(other.all_calls(), tries, "the clock stands still");

    let other_plane = world.policy.control_planes.get_mut("other").unwrap();
    other_plane.user_template = "{service}-{namespace}".into();
    world.until_edited(memory, "db").await;
    assert_eq!(world.headscale.calls(Call::Version), probes);
    assert!(
        other.all_calls() > tries,
        "what was edited is tried at once"
    );
}
