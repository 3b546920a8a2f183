//! Rotation replaces an absent manager of the API key.

use sidescale_control_plane::{Client, Endpoint};
use sidescale_core::key_value::KeyValue;

use super::*;

const NAME: &str = "headscale-api-key";
const CHECKED_AT: &str = "sidescale.io/api-key-checked-at";
const CHECKED_BY: &str = "sidescale.io/api-key-checked-by";

impl World {
    async fn api_key(&self) -> Option<String> {
        let secret = self.api_key_secret().await?;
        let value = secret.data.get("api-key")?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    async fn api_key_secret(&self) -> Option<StoredSecret> {
        self.store.read("headscale", NAME).await.unwrap()
    }

    async fn works(&self, api_key: &str) -> bool {
        let endpoint = Endpoint {
            name: "test".into(),
            api_url: self.policy.control_planes["default"].api_url.clone(),
            api_key: KeyValue::new(api_key.to_owned()),
            ca_bundle: None,
            allow_insecure: true,
        };
        let control_plane = Client::new(endpoint).unwrap();
        control_plane.list_users().await.is_ok()
    }

    /// Returns a world with a key of 90 days that a manager created and checked just now.
    async fn managed() -> (Self, String) {
        let world = Self::without_api_key().await;
        let api_key = world.headscale.create_api_key(DAY * 90).expose().to_owned();
        world.give_api_key(&api_key).await;
        world.check_in().await;
        (world, api_key)
    }

    async fn check_in(&self) {
        let mut secret = self.api_key_secret().await.unwrap();
        let now = self.clock.now().to_string();
        secret.annotations.insert(CHECKED_AT.into(), now);
        secret
            .annotations
            .insert(CHECKED_BY.into(), "headscale-0".into());
        self.store.write(&secret).await.unwrap();
    }

    /// Advances by half hours until rotation has checked the API key several more times.
    async fn looks(&self, meanwhile: impl AsyncFn()) {
        let before = self.headscale.calls(Call::ListApiKeys);
        until("some looks at the API key", async || {
            self.clock.advance(Duration::from_secs(1_800));
            meanwhile().await;
            (self.headscale.calls(Call::ListApiKeys) > before + 3).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_api_key_whose_manager_is_away_is_renewed_and_rotation_goes_on() {
    let (world, old) = World::managed().await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    world.key("api").await;
    // Due, and the manager checks it now and then: rotation leaves it to the manager.
    world.clock.advance(DAY * 80);
    world.check_in().await;
    world.looks(async || world.check_in().await).await;
    assert_eq!(world.api_key().await.as_deref(), Some(old.as_str()));
    // The manager stops, and has two hours to come back.
    let gone = world.clock.now();
    let new = until("another API key", async || {
        world.clock.advance(Duration::from_secs(600));
        world.api_key().await.filter(|key| *key != old)
    })
    .await;
    let away = world.clock.now().duration_since(gone);
    assert!(away.as_hours() >= 2, "renewed after {away}");
    assert!(world.works(&new).await);
    until("the old one is refused", async || {
        (!world.works(&old).await).then_some(())
    })
    .await;
    // Keys are now created with the new one.
    world.demand(&["api", "web"], |_| {});
    until("a key of the new service", async || {
        // A call that failed when the old key expired is retried soon.
        world.clock.advance(Duration::from_millis(100));
        let value = world.value("web").await?;
        world.headscale.accepts(&value).then_some(())
    })
    .await;
    let secret = world.api_key_secret().await.unwrap();
    let time = |name: &str| {
        let text = &secret.annotations[&format!("api-key.headscale.infrado.cloud/{name}")];
        text.parse::<Timestamp>().unwrap()
    };
    let life = time("expiration").duration_since(time("created-at"));
    assert!((life.as_secs() - 2_160 * 3_600).abs() < 7_200, "{life}");
    assert!(secret.annotations[CHECKED_BY].starts_with("rotation/"));
}

#[tokio::test]
async fn an_api_key_of_somebody_else_is_never_renewed() {
    let (world, old) = World::managed().await;
    let mut secret = world.api_key_secret().await.unwrap();
    secret.labels.clear();
    let written = world.store.write(&secret).await.unwrap();
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    world.key("api").await;
    world.clock.advance(DAY * 85);
    world.looks(async || {}).await;
    assert_eq!(world.api_key().await, Some(old));
    let after = world.api_key_secret().await.unwrap();
    assert_eq!(after.revision, written.revision);
}

#[tokio::test]
async fn an_api_key_of_another_place_and_data_key_is_asked_for_used_and_renewed() {
    let mut world = World::without_api_key().await;
    let plane = world.policy.control_planes.get_mut("default").unwrap();
    plane.api_key_namespace = "coder".into();
    plane.api_key_secret = "coder-admin-api-token".into();
    plane.api_key_data_key = "token".into();
    let read = async || world.store.read("coder", "coder-admin-api-token").await;
    let _process = world.start("a");
    world.demand(&["api"], |_| {});
    let mut secret = until("the placeholder", async || read().await.unwrap()).await;
    let paste = &secret.annotations["sidescale.io/next-step"];
    let want = "kubectl create secret generic coder-admin-api-token -n coder --from-file=token=/dev/stdin ";
    assert!(paste.contains(want), "{paste}");
    let old = world.headscale.create_api_key(DAY * 90);
    let old = old.expose().as_bytes().to_vec();
    secret.data.insert("token".into(), old.clone().into());
    world.store.write(&secret).await.unwrap();
    until("a key made with it", async || {
        world.clock.advance(Duration::from_secs(5));
        world.value("api").await
    })
    .await;
    world.clock.advance(DAY * 80);
    let secret = until("another API key", async || {
        world.clock.advance(Duration::from_secs(600));
        let secret = read().await.unwrap()?;
        (*secret.data["token"] != old).then_some(secret)
    })
    .await;
    assert_eq!(secret.data.keys().collect::<Vec<_>>(), ["token"]);
    let new = String::from_utf8(secret.data["token"].to_vec()).unwrap();
    assert!(world.works(&new).await);
}
