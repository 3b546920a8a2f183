//! The keys of the demo: created, stored, rotated, expired; verified in the files and on the server. I/O.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sidescale_core::id::KeyId;
use sidescale_core::key_value::KeyValue;

use super::show::Show;
use super::stage::{PodKey, Stage, at, days, failed};
use super::step::{DemoStep, Failed};
use sidescale_simulator::{Call, Fault, ServerKey};

/// How long an old key stays valid: the default of the configuration.
const OVERLAP: SignedDuration = SignedDuration::from_hours(1);

/// How long before a key is due the demo checks it: some seconds on the demo's clock.
const EARLY: SignedDuration = SignedDuration::from_hours(2);

impl Stage {
    /// Verifies that every key of a patched pod is created, and that Headscale lists it.
    pub(super) async fn mint(&mut self, show: &mut Show<'_>) -> Result<(), Failed> {
        let step = DemoStep::Mint;
        show.step("A key for each service").map_err(at(step))?;
        if self.is_spoilt(step) {
            self.headscale
                .break_calls(Some(Call::CreatePreAuthKey), Fault::Status(500));
        }
        self.start_rotation()?;
        for (sample, pod) in self.injected.clone() {
            let receipt: Value = pod["metadata"]["annotations"]["sidescale.io/status"]
                .as_str()
                .and_then(|text| serde_json::from_str(text).ok())
                .ok_or_else(|| failed(step, "a patched pod without a receipt"))?;
            let text = |field: &str| receipt[field].as_str().unwrap_or_default().to_owned();
            let (secret, data_key) = (text("secret"), text("dataKey"));
            let name = format!("{}/{secret} {data_key}", sample.namespace);
            let path = self.files.path(&sample.namespace, &secret).join(&data_key);
            let minted = self.see(step, async || self.in_file(&path, None)).await?;
            self.is_listed(step, &minted).await?;
            let buffer = buffer(&pod);
            let life = days(minted.expiration.duration_since(minted.created_at));
            let user = minted.user.clone().unwrap_or_default();
            show.seen(&format!(
                "{name}: key {} of user {user}, valid for {life}",
                minted.id.0
            ))
            .map_err(at(step))?;
            let (id, created, expires) = (minted.id, minted.created_at, minted.expiration);
            self.keys.push(PodKey {
                name,
                path,
                buffer,
                id,
                created,
                expires,
            });
            self.minted += 1;
        }
        Ok(())
    }

    /// Verifies that other users cannot read the files.
    pub(super) async fn read_files(&mut self, show: &mut Show<'_>) -> Result<(), Failed> {
        let step = DemoStep::Files;
        show.step("The keys as files").map_err(at(step))?;
        for key in &self.keys {
            if self.is_spoilt(step) {
                std::fs::set_permissions(&key.path, PermissionsExt::from_mode(0o644))
                    .map_err(at(step))?;
            }
            let mode = |path: &std::path::Path| {
                path.metadata()
                    .map(|data| data.permissions().mode() & 0o777)
            };
            let folder = key.path.parent().unwrap_or(&key.path);
            let modes = (
                mode(&key.path).map_err(at(step))?,
                mode(folder).map_err(at(step))?,
            );
            if modes != (0o600, 0o700) {
                return Err(failed(
                    step,
                    &format!(
                        "{} has mode {:o} in a directory of {:o}: want 600 in 700",
                        key.path.display(),
                        modes.0,
                        modes.1
                    ),
                ));
            }
            show.seen(&format!(
                "{} has mode 600 in a directory of 700",
                key.path.display()
            ))
            .map_err(at(step))?;
        }
        Ok(())
    }

    /// Sets the clock forward to the due time of each key.
    pub(super) async fn rotate(&mut self, show: &mut Show<'_>) -> Result<(), Failed> {
        show.step("Three months on a fast clock")
            .map_err(at(DemoStep::Rotate))?;
        let mut keys = self.keys.clone();
        keys.sort_by_key(|key| key.expires - key.buffer);
        if self.is_spoilt(DemoStep::Rotate) {
            self.headscale
                .break_calls(Some(Call::CreatePreAuthKey), Fault::Status(500));
        }
        if self.is_spoilt(DemoStep::Expire) {
            self.headscale
                .break_calls(Some(Call::ExpirePreAuthKey), Fault::Status(500));
        }
        let start = keys.iter().map(|key| key.created).min().unwrap_or_default();
        for key in keys {
            let due = key.expires - key.buffer;
            let (new, old) = self.renew(show, &key, due, start).await?;
            self.outlive(show, &key, &old, &new, start).await?;
            self.renewed += 1;
        }
        Ok(())
    }

    /// Verifies that a key stays until it is due, and is then replaced while it is still valid.
    async fn renew(
        &self,
        show: &mut Show<'_>,
        key: &PodKey,
        due: Timestamp,
        start: Timestamp,
    ) -> Result<(ServerKey, KeyValue), Failed> {
        let step = DemoStep::Rotate;
        let old = self
            .issued(key.id)
            .ok_or_else(|| failed(step, "Headscale forgot a key"))?;
        if self.clock.now() < due - EARLY {
            self.clock.set(due - EARLY);
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self
                .in_file(&key.path, None)
                .map_err(|problem| Failed { step, problem })?;
            // A machine that slept meanwhile proves nothing.
            if self.clock.now() < due {
                if now.id != key.id {
                    return Err(failed(
                        step,
                        &format!("{} was renewed before it was due", key.name),
                    ));
                }
                let day = days(self.clock.now().duration_since(start));
                show.seen(&format!(
                    "day {day}: {} is still key {}",
                    key.name, key.id.0
                ))
                .map_err(at(step))?;
            }
            self.clock.set(due);
        }
        let new = self
            .see(step, async || self.in_file(&key.path, Some(key.id)))
            .await?;
        let day = days(new.created_at.duration_since(start));
        show.seen(&format!("day {day}: {} is now key {}", key.name, new.id.0))
            .map_err(at(step))?;
        if new.created_at < due {
            return Err(failed(
                step,
                &format!(
                    "{} was renewed at {}, before {due}",
                    key.name, new.created_at
                ),
            ));
        }
        self.is_listed(step, &new).await?;
        Ok((new, old.value))
    }

    /// Verifies that the old key is valid for the overlap and not longer, and the new one all the time.
    async fn outlive(
        &self,
        show: &mut Show<'_>,
        key: &PodKey,
        old: &KeyValue,
        new: &ServerKey,
        start: Timestamp,
    ) -> Result<(), Failed> {
        let step = DemoStep::Overlap;
        let end = new.created_at + OVERLAP;
        if self.is_spoilt(step) {
            self.control_plane(step)?
                .expire_pre_auth_key(key.id)
                .await
                .map_err(at(step))?;
        }
        let good = self.headscale.accepts(old.expose());
        if self.clock.now() < end.min(key.expires) {
            if !good {
                return Err(failed(
                    step,
                    &format!(
                        "{}: Headscale refuses key {} within the overlap",
                        key.name, key.id.0
                    ),
                ));
            }
            let day = days(self.clock.now().duration_since(start));
            show.seen(&format!(
                "day {day}: a node can still join with key {}",
                key.id.0
            ))
            .map_err(at(step))?;
            self.clock.set(end);
        }
        let step = DemoStep::Expire;
        // Expired by Sidescale, not by its age.
        let listed = self
            .see(step, async || {
                let keys = self
                    .control_plane(step)
                    .map_err(|error| error.problem)?
                    .list_pre_auth_keys()
                    .await;
                let keys = keys.map_err(|error| error.to_string())?;
                let listed = keys
                    .into_iter()
                    .find(|listed| listed.id == key.id)
                    .and_then(|listed| listed.expiration);
                match listed {
                    Some(ended) if ended < key.expires || ended <= self.clock.now() => Ok(ended),
                    other => Err(format!(
                        "{}: Headscale lists key {} with expiration {other:?}",
                        key.name, key.id.0
                    )),
                }
            })
            .await?;
        let (old_good, new_good) = (
            self.headscale.accepts(old.expose()),
            self.headscale.accepts(new.value.expose()),
        );
        if old_good || !new_good {
            return Err(failed(
                step,
                &format!(
                    "{}: key {} is valid: {old_good}, key {} is valid: {new_good}",
                    key.name, key.id.0, new.id.0
                ),
            ));
        }
        let day = days(listed.duration_since(start));
        show.seen(&format!(
            "day {day}: key {} is expired, key {} is valid",
            key.id.0, new.id.0
        ))
        .map_err(at(step))
    }

    /// Returns the key in a file, as Headscale created it; must differ from `but`.
    fn in_file(&self, path: &std::path::Path, but: Option<KeyId>) -> Result<ServerKey, String> {
        let value = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let value = KeyValue::new(value);
        let issued = self.headscale.issued();
        let key = issued.into_iter().find(|key| key.value == value);
        let key =
            key.ok_or_else(|| format!("{} contains no key of this Headscale", path.display()))?;
        if Some(key.id) == but {
            return Err(format!(
                "{} still contains key {}",
                path.display(),
                key.id.0
            ));
        }
        Ok(key)
    }

    /// Verifies that our client sees the key on the server too.
    async fn is_listed(&self, step: DemoStep, key: &ServerKey) -> Result<(), Failed> {
        let listed = self
            .control_plane(step)?
            .list_pre_auth_keys()
            .await
            .map_err(at(step))?;
        if !listed
            .iter()
            .any(|listed| listed.id == key.id && listed.expiration == Some(key.expiration))
        {
            return Err(failed(
                step,
                &format!("Headscale does not list key {}", key.id.0),
            ));
        }
        if !self.headscale.accepts(key.value.expose()) {
            return Err(failed(
                step,
                &format!("no node could join with key {}", key.id.0),
            ));
        }
        Ok(())
    }

    fn issued(&self, id: KeyId) -> Option<ServerKey> {
        self.headscale.issued().into_iter().find(|key| key.id == id)
    }
}

/// Returns how long before its expiration a pod's key is renewed.
fn buffer(pod: &Value) -> SignedDuration {
    let asked = pod["metadata"]["annotations"]["sidescale.io/auth-key-rotation-buffer"].as_str();
    let hours = asked.and_then(|text| text.strip_suffix('h')?.parse().ok());
    SignedDuration::from_hours(hours.unwrap_or(240))
}
