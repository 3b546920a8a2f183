//! `sidescale cleanup`, typed while rotation is down: lists, deletes, and leaves the rest.

use sidescale::commands::cleanup::clean;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

impl World {
    /// Returns the output of the command, and whether it succeeded.
    async fn cleanup(&self, dry_run: bool) -> (String, Result<(), String>) {
        self.cleanup_beside(dry_run, || {}).await
    }

    /// Does the same, while something happens after each time that the pods were read.
    async fn cleanup_beside(
        &self,
        dry_run: bool,
        happens: impl Fn(),
    ) -> (String, Result<(), String>) {
        let mut out = Vec::new();
        let demands = async || {
            let demands = self.demands.borrow().clone();
            happens();
            Ok(demands)
        };
        let context = self.context("typed");
        let done = clean(&context, demands, dry_run, &|_| {}, &mut out).await;
        let said = String::from_utf8(out).unwrap();
        (said, done.map_err(|error| format!("{error:#}")))
    }

    fn values(&self) -> Vec<String> {
        let alive = self.alive().into_iter();
        alive.map(|key| key.value.expose().to_owned()).collect()
    }
}

#[tokio::test]
async fn cleanup_shows_and_then_ends_what_no_secret_knows_and_nothing_else() {
    let world = World::new().await;
    let process = world.start("a");
    world.demand(&["api"], |_| {});
    let orphan = world.key("api").await;
    drop(process);
    world.delete_namespace();
    let release = owner_tag("web").replace("test", "staging");
    let others = [
        world.key_of_another("shop.web", &release).await,
        world.key_of_another("prod.api", "somebody").await,
    ];
    let (young, done) = world.cleanup(false).await;
    assert_eq!((young.as_str(), done), ("nothing to remove\n", Ok(())));
    world.clock.advance(11 * MINUTE);

    let (shown, done) = world.cleanup(true).await;
    let want = "would expire key 1 of user shop.api at control plane default: it is still valid, and no Secret of namespace \
                shop records it\n1 to remove; run without --dry-run to remove them\n";
    assert_eq!((shown.as_str(), done), (want, Ok(())));
    assert!(world.headscale.accepts(&orphan), "it was only shown");

    let (said, done) = world.cleanup(false).await;
    let want = "expired key 1 of user shop.api at control plane default\n";
    assert_eq!((said.as_str(), done), (want, Ok(())));
    assert_eq!(world.values(), others, "what others made stays");
    let (again, _) = world.cleanup(false).await;
    assert_eq!(again, "nothing to remove\n");
    for value in [&orphan, &others[0], &others[1]] {
        assert!(!shown.contains(value) && !said.contains(value));
    }
}

#[tokio::test]
async fn cleanup_removes_rows_and_users_whose_time_has_come() {
    let world = World::new().await;
    let process = world.start("a");
    world.demand(&["api"], |_| {});
    let old = world.key("api").await;
    world.demand(&["api"], |demand| demand.asked.tags = vec!["tag:a".into()]);
    world.key_other_than("api", &old).await;
    drop(process);
    world.delete_namespace();
    world.clock.advance(DAY);
    let (said, _) = world.cleanup(false).await;
    assert_eq!(said.matches("expired key").count(), 2, "{said}");
    world.clock.advance(DAY * 8);
    let (said, _) = world.cleanup(false).await;
    let want = "deleted the row of key 1 at control plane default\n";
    assert_eq!(
        said, want,
        "the last row says since when nobody needs the user"
    );
    world.clock.advance(DAY * 23);
    // A pod needs it again while the command is running, and exists before the next one.
    let (said, _) = world
        .cleanup_beside(false, || world.demand(&["api"], |_| {}))
        .await;
    assert!(
        said.starts_with("skipped, because it is needed by now: delete user shop.api"),
        "{said}"
    );
    let (said, _) = world.cleanup(false).await;
    assert_eq!(said, "nothing to remove\n");
    world.demand(&[], |_| {});
    let (said, _) = world.cleanup(false).await;
    let want = "deleted user shop.api (id 1) at control plane default\n";
    assert_eq!(said, want);
    assert!(world.headscale.user_names().is_empty() && world.headscale.issued().is_empty());
}

#[tokio::test]
async fn cleanup_leaves_to_rotation_what_stands_in_a_secret() {
    let world = World::new().await;
    let process = world.start("a");
    world.demand(&["api"], |_| {});
    let value = world.key("api").await;
    world.demand(&[], |_| {});
    until("a note", async || {
        let record = world.record().await;
        record.keys["api-authkey"].unused_since.map(drop)
    })
    .await;
    drop(process);
    world.clock.advance(DAY);
    let (said, done) = world.cleanup(false).await;
    let want = "left to Sidescale: no pod needs key 1 of service api in Secret shop/headscale-auth-keys; it is removed and \
                expired after 2023-11-21T22:13:20Z\nnothing to remove\n";
    assert_eq!((said.as_str(), done), (want, Ok(())));
    assert!(world.headscale.accepts(&value));
}

#[tokio::test]
async fn cleanup_touches_nothing_where_something_cannot_be_read() {
    let world = World::new().await;
    let process = world.start("a");
    world.demand(&["api"], |_| {});
    let value = world.key("api").await;
    drop(process);
    world.clock.advance(DAY);
    let mut secret = world.secret().await.unwrap();
    secret.data.insert(DATA_KEY.into(), b"{".to_vec().into());
    world.store.write(&secret).await.unwrap();
    let (said, done) = world.cleanup(false).await;
    assert!(
        said.starts_with(
            "skipped, with everything else of its namespace: Secret shop/headscale-auth-keys: data key \"sidescale.json\" \
             cannot be read"
        ),
        "{said}"
    );
    assert!(done.unwrap_err().starts_with("the cleanup is incomplete"));
    world.headscale.break_calls(None, Fault::Status(503));
    let mut secret = world.secret().await.unwrap();
    secret.data.remove(DATA_KEY);
    world.store.write(&secret).await.unwrap();
    let (said, done) = world.cleanup(false).await;
    assert!(said.starts_with("not cleaned: ") && done.is_err(), "{said}");
    assert!(world.headscale.accepts(&value));
    world.headscale.mend();
    // No record contains it now.
    let (said, done) = world.cleanup(false).await;
    assert!(said.contains("expired key 1") && done.is_ok(), "{said}");
}

#[tokio::test]
async fn a_node_that_a_service_left_behind_is_removed_by_its_id() {
    let world = World::new().await;
    let process = world.start("a");
    world.demand(&["api", "web"], |demand| demand.asked.ephemeral = false);
    let keys = [world.key("api").await, world.key("web").await];
    let [gone, used] = keys.map(|key| world.headscale.join(&key, "host").unwrap());
    let stranger = world.key_of_another("prod.api", "somebody").await;
    let stranger = world.headscale.join(&stranger, "host").unwrap();
    for node in [gone, used, stranger] {
        world.headscale.set_online(node, false);
    }
    world.demand(&["web"], |demand| demand.asked.ephemeral = false);
    // The key of api is removed from its Secret after seven days.
    until("the end of api's key", async || {
        world.clock.advance(DAY);
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.value("api").await.is_none().then_some(())
    })
    .await;
    drop(process);
    let (said, _) = world.cleanup(true).await;
    assert!(!said.contains("node"), "thirty days are not over: {said}");
    world.clock.advance(DAY * 30);
    let (shown, _) = world.cleanup(true).await;
    let line = format!(
        "delete node host (id {}) of user shop.api at control plane default: no pod needs it, and it was last seen at ",
        gone.0
    );
    assert!(shown.contains(&line), "{shown}");
    assert_eq!(shown.matches("delete node").count(), 1, "{shown}");
    let (said, done) = world.cleanup(false).await;
    assert_eq!(done, Ok(()));
    assert!(
        said.contains(&line.replace("delete node", "deleted node")[..40]),
        "{said}"
    );
    let left: Vec<_> = world.headscale.given_names().into_keys().collect();
    assert_eq!(left, [used, stranger]);
}
