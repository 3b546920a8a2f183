//! Users and keys created by a person.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::{People, usual};
use crate::support::headscale::Headscale;
use crate::support::product::KEYS;
use crate::world::until;

impl People<'_> {
    /// A user created by a person, with her own key, is adopted: our keys are created and expired, hers stays.
    pub(super) async fn adopted(&self, headscale: &Headscale) -> Result<()> {
        let name = format!("{}.lent", self.apps);
        let user = headscale.create_user(&name)?;
        headscale.create_key(&user)?;
        let hers = self.live_of(&name).await?;
        ensure!(hers.len() == 1, "{hers:?}");
        let running = self
            .world
            .start(|policy| {
                usual(policy);
                if let Some(plane) = policy.control_planes.get_mut("default") {
                    plane.adopt_users = vec![name.clone()];
                }
            })
            .await?;
        self.replaced("lent").await?;
        let after = self.replaced("lent").await?;
        until("ours alone come and go", async || {
            let live = self.live_of(&name).await.ok()?;
            let [one, other] = live[..] else { return None };
            let ours = live.contains(&after);
            (ours && live.contains(&hers[0]) && one != other).then_some(())
        })
        .await?;
        running.stop().await?;
        // Without the adoption Sidescale may not use its user.
        let pods: Api<Pod> = Api::namespaced(self.world.admin.clone(), &self.apps);
        let now = DeleteParams::default().grace_period(0);
        pods.delete("lent", &now).await?;
        Ok(())
    }

    /// A person puts her own key into the Secret: it is used until another is requested, and stays valid after that.
    pub(super) async fn put_by_hand(&self, headscale: &Headscale) -> Result<()> {
        let running = self.world.start(usual).await?;
        let ours = self.rotated("hand").await?;
        running.stop().await?;
        let name = format!("{}.carol", self.apps);
        let value = headscale.create_key(&headscale.create_user(&name)?)?;
        let hers = self.live_of(&name).await?;
        let secrets: Api<Secret> = Api::namespaced(self.world.admin.clone(), &self.apps);
        let patch = json!({"stringData": {"hand-authkey": value}});
        secrets
            .patch(KEYS, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        // Whether the key is alive is checked in the next pass: in a minute, or at the next start.
        let running = self.world.start(usual).await?;
        until("her key is in force, and ours has expired", async || {
            let is_hers = self.current("hand").await.as_slice() == hers;
            let over = self.live("hand").await.ok()?.is_empty();
            (is_hers && over).then_some(())
        })
        .await?;
        let after = self.rotated("hand").await?;
        ensure!(
            after != ours && !hers.contains(&after),
            "Sidescale creates another"
        );
        ensure!(self.live_of(&name).await? == hers, "hers lives on");
        running.stop().await
    }
}
