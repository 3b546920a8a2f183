//! Headscale with an older database, or an empty one.

use std::time::Duration;

use anyhow::{Result, ensure};
use sidescale_core::key_state::KeyState;
use sidescale_core::key_value::KeyValue;
use sidescale_webhook::profile::Policy;

use super::{People, usual};
use crate::support::headscale::Headscale;

/// The backup has live keys that may be missing in the records, and a test cannot wait ten minutes.
fn soon(policy: &mut Policy) {
    usual(policy);
    policy.rotation.orphaned_keys_after = Duration::ZERO;
}

impl People<'_> {
    /// A backup of Headscale's database is restored: later changes are gone, and a person's key gets the id
    /// of one that Sidescale created.
    pub(super) async fn database_restored(&self, headscale: &mut Headscale) -> Result<()> {
        headscale.kill();
        headscale.back_up()?;
        headscale.start_again()?;
        let running = self.world.start(usual).await?;
        let ours = self.rotated("again").await?;
        running.stop().await?;
        headscale.kill();
        headscale.restore()?;
        headscale.start_again()?;
        let name = format!("{}.alice", self.apps);
        let user = headscale.create_user(&name)?;
        for _ in 0..5 {
            headscale.create_key(&user)?;
            if self.live_of(&name).await?.contains(&ours) {
                break;
            }
        }
        let hers = self.live_of(&name).await?;
        ensure!(hers.contains(&ours), "no id is given twice: {hers:?}");
        let running = self.world.start(soon).await?;
        self.at_rest("again", Some(ours)).await?;
        for service in ["web", "tagged", "hand"] {
            self.at_rest(service, None).await?;
        }
        ensure!(self.live_of(&name).await? == hers, "hers live on");
        running.stop().await
    }

    /// Headscale loses its database under running pods, and an administrator gives another API key.
    pub(super) async fn database_lost(self, headscale: &mut Headscale, pods: usize) -> Result<()> {
        let running = self.world.start(usual).await?;
        let mut services = self.services().await;
        ensure!(services.len() >= 4, "{services:?}");
        headscale.kill();
        headscale.forget()?;
        headscale.start_again()?;
        let api_key = headscale.create_api_key()?;
        self.world.give_api_key("headscale-api-key", &api_key)?;
        // A call shows at once that Headscale is another; without one, the next node list does.
        self.world.make_pod(&self.apps, "fresh").await?;
        services.push("fresh".to_owned());
        let plane = self
            .world
            .control_plane_at(headscale.url(), KeyValue::new(api_key))?;
        let after = Self { plane, ..self };
        for service in &services {
            after.at_rest(service, None).await?;
        }
        after.job_at_rest(pods).await?;
        ensure!(running.keys(KeyState::Throttled) == 0, "throttled");
        running.stop().await
    }
}
