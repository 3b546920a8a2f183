//! Keys of a service, at Headscale and in its Secret.

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use sidescale_core::id::KeyId;
use sidescale_core::objects::{PreAuthKey, User};
use sidescale_rotation::request::ANNOTATION;

use super::People;
use crate::support::product::KEYS;
use crate::world::until;

impl People<'_> {
    /// Requests another key, or a first one if there is none, and waits until it is the only one alive.
    pub(super) async fn rotated(&self, service: &str) -> Result<KeyId> {
        let before = self.current(service).await;
        let after = self.replaced(service).await?;
        if before.is_some() {
            self.at_rest(service, before).await?;
        }
        Ok(after)
    }

    /// Requests another key, or a first one if there is none, and waits for it.
    pub(super) async fn replaced(&self, service: &str) -> Result<KeyId> {
        let Some(before) = self.current(service).await else {
            self.world.make_pod(&self.apps, service).await?;
            return until("a first key", async || self.current(service).await).await;
        };
        let secrets: Api<Secret> = Api::namespaced(self.world.admin.clone(), &self.apps);
        let request = json!({format!("{service}-authkey"): {"replaces": before.0}});
        let patch = json!({"metadata": {"annotations": {ANNOTATION: request.to_string()}}});
        secrets
            .patch(KEYS, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        until("another key", async || {
            self.current(service).await.filter(|id| *id != before)
        })
        .await
    }

    /// Waits until the service has one live key, which is the current one and not `not`.
    pub(super) async fn at_rest(&self, service: &str, not: Option<KeyId>) -> Result<KeyId> {
        let found = until("one key is alive, the one in force", async || {
            let current = self.current(service).await?;
            let live = self.live(service).await.ok()?;
            (live == [current] && Some(current) != not).then_some(current)
        });
        let found = found.await;
        match found {
            Ok(current) => Ok(current),
            Err(error) => {
                let (current, live) = (self.current(service).await, self.live(service).await);
                Err(error.context(format!(
                    "{service}: {live:?} live, {current:?} in force, not {not:?}"
                )))
            }
        }
    }

    /// Returns the services whose pods share a key.
    pub(super) async fn services(&self) -> Vec<String> {
        let record = self.world.record(&self.apps).await;
        let keys = record.into_iter().flat_map(|record| record.keys);
        let needed = keys.filter(|(_, key)| key.unused_since.is_none());
        needed.map(|(_, key)| key.service).collect()
    }

    pub(super) async fn current(&self, service: &str) -> Option<KeyId> {
        let record = self.world.record(&self.apps).await?;
        let key = record.keys.get(&format!("{service}-authkey"))?;
        Some(key.current.as_ref()?.id)
    }

    /// Returns the live keys of all users that were created for the service.
    pub(super) async fn live(&self, service: &str) -> Result<Vec<KeyId>> {
        let owner = format!(" {}/{service}", self.apps);
        self.live_where(|user| user.display_name.ends_with(&owner))
            .await
    }

    pub(super) async fn live_of(&self, name: &str) -> Result<Vec<KeyId>> {
        self.live_where(|user| user.name == name).await
    }

    pub(super) async fn live_where(&self, is: impl Fn(&User) -> bool) -> Result<Vec<KeyId>> {
        let users = self.plane.list_users().await?;
        let users: Vec<_> = users
            .iter()
            .filter(|user| is(user))
            .map(|user| user.id)
            .collect();
        let now = Timestamp::now();
        let live = |key: &PreAuthKey| {
            key.expiration.is_some_and(|end| now < end)
                && key.user.is_some_and(|user| users.contains(&user))
        };
        let keys = self.plane.list_pre_auth_keys().await?.into_iter();
        Ok(keys.filter(live).map(|key| key.id).collect())
    }

    pub(super) async fn is_live(&self, id: KeyId) -> Option<bool> {
        let keys = self.plane.list_pre_auth_keys().await.ok()?;
        let now = Timestamp::now();
        let key = keys.iter().find(|key| key.id == id);
        Some(key.is_some_and(|key| key.expiration.is_some_and(|end| now < end)))
    }

    pub(super) async fn user(&self, name: &str) -> Result<Option<User>> {
        let users = self.plane.list_users().await?;
        Ok(users.into_iter().find(|user| user.name == name))
    }
}
