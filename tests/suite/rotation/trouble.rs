//! Rotation with problems in its way: it keeps the old key and says what to do.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use sidescale_core::secret::StoredSecret;
use sidescale_simulator::{Call, Fault};
use sidescale_webhook::profile::UserPolicy;

use super::{DAY, SECRET, World, owner_tag, until};

/// Lets the process do what it can, without moving the clock.
pub(super) async fn settle() {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

/// Advances the clock until that many more calls failed, and their effects are visible.
async fn until_called(world: &World, times: u64) {
    let before = world.headscale.all_calls();
    until("calls", async || {
        world.clock.advance(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
        (world.headscale.all_calls() >= before + times).then_some(())
    })
    .await;
    settle().await;
}

/// Advances the clock until there is a new key: pending retries are made.
async fn recovered(world: &World, old: &str) -> String {
    until("a new key", async || {
        world.clock.advance(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.value("api").await.filter(|value| value != old)
    })
    .await
}

/// Pastes a command into a shell whose `kubectl` acts like the real one, as far as it is used here; `e2e paste::` tries it with
/// the real one.
async fn paste(world: &World, command: &str) {
    const KUBECTL: &str = r#"#!/bin/sh
case "$*" in
'exec -n headscale deploy/headscale -c headscale -- headscale apikeys create -e 90d') echo "$API_KEY" ;;
'create secret generic headscale-api-key -n headscale --from-file=api-key=/dev/stdin --dry-run=client -o yaml')
  cat ;;
'apply --server-side --force-conflicts -f -') cat >"$APPLIED" ;;
*) echo "unexpected: $*" >&2; exit 1 ;;
esac
"#;
    let bin = tempfile::tempdir().unwrap();
    let (kubectl, applied) = (bin.path().join("kubectl"), bin.path().join("applied"));
    std::fs::write(&kubectl, KUBECTL).unwrap();
    std::fs::set_permissions(&kubectl, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        bin.path().display(),
        std::env::var("PATH").unwrap()
    );
    let api_key = world.headscale.create_api_key(DAY * 90);
    let shell = Command::new("sh")
        .args(["-c", command])
        .env("PATH", path)
        .env("API_KEY", api_key.expose())
        .env("APPLIED", &applied)
        .output()
        .unwrap();
    assert!(shell.status.success(), "{shell:?}");
    let value = std::fs::read_to_string(applied).unwrap();
    world.give_api_key(&value).await;
}

#[tokio::test]
async fn without_an_api_key_it_says_what_to_paste_and_goes_on_when_that_was_done() {
    let world = World::without_api_key().await;
    // A user that exists already makes no difference.
    world.headscale.add_user("shop.api", &owner_tag("api"), "");
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let detail = until("the detail", async || {
        let detail = world.detail();
        detail.contains("NoCredentials").then_some(detail)
    })
    .await;
    let (told, command) = detail.split_once("without one, run this once: ").unwrap();
    assert!(
        told.contains(
            "control plane \"default\" has no API key: Secret headscale/headscale-api-key"
        ),
        "{detail}"
    );
    assert_eq!(world.headscale.all_calls(), 0);
    assert!(world.secret().await.is_none());
    let placeholder = || world.store.read("headscale", "headscale-api-key");
    let placed = until("the placeholder", async || placeholder().await.unwrap()).await;
    assert!(placed.data.is_empty(), "no value is no key");
    assert_eq!(
        placed.annotations,
        [
            ("sidescale.io/created-at", "2023-11-14T22:13:20Z"),
            ("sidescale.io/next-step", command),
            ("sidescale.io/placeholder", "true"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    );
    paste(&world, command).await;
    world.clock.advance(Duration::from_secs(6));
    world.key("api").await;
    until("the end of the mark", async || {
        let secret = placeholder().await.unwrap()?;
        (!secret.annotations.contains_key("sidescale.io/placeholder")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_pasted_command_is_enough_for_a_year() {
    let world = World::without_api_key().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let command = until("the command", async || {
        let detail = world.detail();
        Some(
            detail
                .split_once("without one, run this once: ")?
                .1
                .to_owned(),
        )
    })
    .await;
    paste(&world, &command).await;
    world.clock.advance(Duration::from_secs(6));
    world.key("api").await;
    let pasted = sidescale_core::time::after(world.clock.now(), DAY * 90);
    for _ in 0..365 {
        world.clock.advance(DAY);
        let soon = sidescale_core::time::after(world.clock.now(), DAY * 8);
        // Each is renewed ten days before it expires, or two hours later in the manager's place.
        until("keys with eight days left", async || {
            // A call that failed when the old API key expired is retried soon.
            world.clock.advance(Duration::from_millis(100));
            let record = world.record().await;
            let key = record.keys.get("api-authkey")?.current.clone()?.expires;
            let secret = world.store.read("headscale", "headscale-api-key").await;
            let secret = secret.unwrap()?;
            let end = secret
                .annotations
                .get("api-key.headscale.infrado.cloud/expiration");
            let api_key = end.map_or(pasted, |end| end.parse().unwrap());
            (key >= soon && api_key >= soon).then_some(())
        })
        .await;
        assert!(world.headscale.accepts(&world.value("api").await.unwrap()));
    }
    assert_eq!(world.mints(), 1 + 365 / (90 - 10));
    assert!(world.headscale.calls(Call::ChangeApiKey) >= 4);
}

#[tokio::test]
async fn a_wrong_no_never_rotates() {
    let faults = [
        Fault::Html,
        Fault::Redirect,
        Fault::Unauthorized,
        Fault::Status(500),
        Fault::Status(502),
        Fault::Endless,
    ];
    for fault in faults {
        let world = World::new().await;
        world.headscale.break_calls(None, fault.clone());
        let process = world.start("a");
        world.demand(&["api"], |_| {});
        until_called(&world, 3).await;
        assert_eq!(world.mints(), 0, "{fault:?}");
        assert!(world.secret().await.is_none(), "{fault:?}");

        world.headscale.mend();
        let value = recovered(&world, "").await;
        drop(process);
        let mints = world.mints();
        world.headscale.break_calls(None, fault.clone());
        let _process = world.start("b");
        world.clock.advance(DAY * 81);
        until_called(&world, 3).await;
        assert_eq!(world.value("api").await.unwrap(), value, "{fault:?}");
        assert_eq!(world.mints(), mints, "{fault:?}");
        world.headscale.mend();
        recovered(&world, &value).await;
    }
}

#[tokio::test]
async fn a_refused_api_key_is_read_again_once_before_it_is_reported() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    world.key("api").await;
    let calls = world.headscale.all_calls();
    world.give_api_key("hskey-api-wrong").await;
    world.headscale.break_calls(None, Fault::Unauthorized);
    world.demand(&["api", "db"], |_| {});
    until("the state", async || {
        world.detail().contains("InvalidCredentials").then_some(())
    })
    .await;
    assert!(world.headscale.all_calls() > calls);
    world.headscale.mend();
    world
        .give_api_key(world.headscale.create_api_key(DAY).expose())
        .await;
    until("the key", async || {
        world.clock.advance(Duration::from_secs(6));
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.value("db").await
    })
    .await;
}

#[tokio::test]
async fn a_foreign_secret_is_read_and_never_written_until_it_is_handed_over() {
    let world = World::new().await;
    let mut foreign = StoredSecret::absent("shop", SECRET);
    foreign.labels.clear();
    foreign
        .data
        .insert("password".into(), b"hunter2".to_vec().into());
    let foreign = world.store.write(&foreign).await.unwrap();
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    until("the state", async || {
        world.detail().contains("1 SecretNotOurs").then_some(())
    })
    .await;
    assert_eq!(world.mints(), 0);
    assert_eq!(world.secret().await.unwrap().revision, foreign.revision);

    let mut handed_over = foreign;
    handed_over
        .annotations
        .insert("sidescale.io/adopt".into(), "true".into());
    world.store.write(&handed_over).await.unwrap();
    world.clock.advance(Duration::from_secs(31));
    world.key("api").await;
    assert!(world.secret().await.unwrap().data.contains_key("password"));
}

#[tokio::test]
async fn a_foreign_user_is_never_used_unless_adopted() {
    let mut world = World::new().await;
    world.headscale.add_user("shop.api", "Alice", "");
    let process = world.start("a");
    world.demand(&["api"], |_| {});
    until("the state", async || {
        world.detail().contains("1 UserNotOurs").then_some(())
    })
    .await;
    assert_eq!(world.mints(), 0);
    assert!(world.secret().await.is_none());
    drop(process);
    world
        .policy
        .control_planes
        .get_mut("default")
        .unwrap()
        .adopt_users = vec!["shop.api".into()];
    let _process = world.start("b");
    world.key("api").await;
}

#[tokio::test]
async fn users_that_people_make_are_waited_for_and_never_made_or_removed() {
    let mut world = World::new().await;
    world.policy.rotation.users = UserPolicy::Never;
    world.policy.rotation.unused_users_after = DAY;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    until("the state", async || {
        world.detail().contains("1 UserMissing").then_some(())
    })
    .await;
    assert_eq!(world.mints(), 0);
    assert!(world.secret().await.is_none());
    // As created by the command in the message; and another of ours that is not needed.
    world.headscale.add_user("shop.api", &owner_tag("api"), "");
    world
        .headscale
        .add_user("shop.gone", &owner_tag("gone"), "");
    until("the key", async || {
        world.clock.advance(Duration::from_secs(30));
        world.value("api").await
    })
    .await;
    // A sweep expires a key that no Secret contains: twice, so one sweep began two days after the users were seen.
    for name in ["shop.orphan", "shop.another"] {
        let (_, service) = name.split_once('.').unwrap();
        let orphan = world.key_of_another(name, &owner_tag(service)).await;
        world
            .eventually("a sweep", DAY / 48, || {
                (!world.headscale.accepts(&orphan)).then_some(())
            })
            .await;
        world.clock.advance(DAY * 2);
    }
    // Both of those were created here.
    assert_eq!(world.headscale.calls(Call::CreateUser), 2);
    assert_eq!(world.headscale.calls(Call::DeleteUser), 0);
}

#[tokio::test]
async fn an_identity_providers_user_of_the_same_name_is_left_alone() {
    let world = World::new().await;
    world.headscale.add_user("shop.api", "Alice", "oidc");
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    world.key("api").await;
    assert_eq!(world.headscale.calls(Call::CreateUser), 1);
}

#[tokio::test]
async fn an_answer_with_another_value_is_not_put_in_force() {
    let world = World::new().await;
    let fault = Fault::Field("/preAuthKey/reusable", Some(serde_json::Value::Bool(false)));
    world
        .headscale
        .break_calls(Some(Call::CreatePreAuthKey), fault);
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    until("the call", async || (world.mints() > 0).then_some(())).await;
    settle().await;
    assert_eq!(world.value("api").await, None);
    world.headscale.mend();
    let value = until("the key", async || {
        world.clock.advance(Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.value("api").await
    })
    .await;
    until("the end of the other", async || {
        world.clock.advance(Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
        (world.alive().len() == 1).then_some(())
    })
    .await;
    assert_eq!(world.alive()[0].value.expose(), value);
}

#[tokio::test]
async fn a_damaged_record_stops_the_work_on_its_secret() {
    let world = World::new().await;
    let mut secret = StoredSecret::absent("shop", SECRET);
    secret
        .data
        .insert("sidescale.json".into(), b"{".to_vec().into());
    let secret = world.store.write(&secret).await.unwrap();
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    until("the state", async || {
        world.detail().contains("1 SecretNotOurs").then_some(())
    })
    .await;
    assert_eq!(world.mints(), 0);
    assert_eq!(world.secret().await.unwrap().revision, secret.revision);
}

#[tokio::test]
async fn who_keeps_undoing_a_key_gets_one_an_hour() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    world.key("api").await;
    until("the state", async || {
        let mut secret = world.secret().await.unwrap();
        secret.data.clear();
        let _ = world.store.write(&secret).await;
        world.demand(&["api"], |demand| demand.pods = 2);
        settle().await;
        world.detail().contains("Contended").then_some(())
    })
    .await;
    let mints = world.mints();
    assert!(mints <= 7, "{mints} mints");
    for _ in 0..3 {
        world.demand(&["api"], |demand| demand.pods = 2);
        settle().await;
    }
    assert_eq!(world.mints(), mints, "no more within the hour");
}

#[tokio::test]
async fn a_clock_that_jumps_back_does_nothing_and_one_that_jumps_ahead_renews_once() {
    let world = World::new().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let first = world.key("api").await;
    let start = world.clock.now();
    world.clock.set(start - jiff::SignedDuration::from_hours(1));
    settle().await;
    assert_eq!(world.mints(), 1);
    world.clock.advance(DAY * 85);
    world.key_other_than("api", &first).await;
    settle().await;
    assert_eq!(world.mints(), 2);
}

#[tokio::test]
async fn a_server_with_a_new_database_gives_the_old_numbers_to_others() {
    let mut world = World::new().await;
    let process = world.start("a");
    world.demand(&["api", "web"], |_| {});
    let old = [world.key("api").await, world.key("web").await];
    drop(process);
    world.lose_database().await;
    let _process = world.start("b");
    let new = [
        world.key_other_than("api", &old[0]).await,
        world.key_other_than("web", &old[1]).await,
    ];
    for key in world.record().await.keys.values() {
        assert_eq!(key.previous, [], "its number is another key's now");
    }
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(3_601));
        settle().await;
    }
    assert!(new.iter().all(|key| world.headscale.accepts(key)));
}
