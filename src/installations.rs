//! Selects the release of a cluster that rotates: two of them would put their own keys into the same Secrets. I/O
//! around a pure decision.
//!
//! Each release has a MutatingWebhookConfiguration that names it. Only an administrator can create one, and the API
//! server sets its creation time: the release with the oldest configuration rotates, and any other waits until that is
//! deleted.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Api, ListParams, ObjectMeta};
use kube::{Client, Error};
use tracing::{debug, info, warn};

use crate::cluster::{self, chain};
use crate::health::{Health, Part};

/// Annotation with a configuration's release: `<namespace>/<release>`.
const ANNOTATION: &str = "sidescale.io/release";

/// Label of every object of the chart.
const SELECTOR: &str = "app.kubernetes.io/part-of=sidescale";

/// How often to look for other releases.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How soon to retry an API server that does not answer.
const RETRY: Duration = Duration::from_secs(2);

const DEADLINE: Duration = Duration::from_secs(10);

/// One release of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SeenRelease {
    created: Timestamp,
    /// `<namespace>/<release>`.
    release: String,
}

/// Looks for other releases in the cluster.
#[derive(Clone)]
pub struct Installations {
    api: Api<MutatingWebhookConfiguration>,
    /// `<namespace>/<release>`.
    own: String,
}

impl Installations {
    /// Creates the view of one release.
    #[must_use]
    pub fn new(client: Client, namespace: &str, release: &str) -> Self {
        Self {
            api: Api::all(client),
            own: format!("{namespace}/{release}"),
        }
    }

    /// Waits until no other release has priority; reports once which one has it.
    pub async fn until_first(&self, health: &Health) {
        let mut refused = None;
        loop {
            let other = match self.first().await {
                Ok(None) => break,
                Ok(Some(other)) => other,
                Err(error) => {
                    if self.is_blind(&error) {
                        break;
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            if refused.as_ref() != Some(&other) {
                warn!(
                    first = other,
                    own = self.own,
                    "Another release of Sidescale rotates keys in this cluster: rotation disabled until that release is uninstalled"
                );
                let detail = format!(
                    "release {other} was installed first and rotates the keys of this cluster: this release, {}, does not; \
                     uninstall one of them",
                    self.own
                );
                health.problem(Part::Rotation, detail);
            }
            refused = Some(other);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if let Some(first) = refused {
            info!(
                first,
                own = self.own,
                "Other release of Sidescale is gone, enabling rotation"
            );
        }
    }

    /// Resolves when another release has priority.
    pub async fn superseded(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.first().await {
                Ok(Some(_)) => return,
                Ok(None) => {}
                Err(error) => debug!(
                    error = chain(&error),
                    "Failed to list other releases of Sidescale"
                ),
            }
        }
    }

    async fn first(&self) -> Result<Option<String>, Error> {
        let params = ListParams::default().labels(SELECTOR);
        let listed = cluster::within(DEADLINE, self.api.list_metadata(&params)).await?;
        let seen = listed.items.into_iter().map(|one| one.metadata);
        let seen: Vec<_> = seen.filter_map(|metadata| read(&metadata)).collect();
        Ok(first(&seen, &self.own).map(str::to_owned))
    }

    /// Whether the API server denies the read, so that waiting is useless.
    fn is_blind(&self, error: &Error) -> bool {
        let blind = matches!(error, Error::Api(status) if status.code == 403);
        if blind {
            warn!(
                error = chain(error),
                own = self.own,
                "Not permitted to list other releases of Sidescale: assuming there are none"
            );
        } else if !cluster::is_away(error) {
            debug!(
                error = chain(error),
                "Failed to list other releases of Sidescale"
            );
        }
        blind
    }
}

fn read(metadata: &ObjectMeta) -> Option<SeenRelease> {
    let release = metadata.annotations.as_ref()?.get(ANNOTATION)?.clone();
    let created = metadata.creation_timestamp.as_ref()?.0;
    Some(SeenRelease { created, release })
}

/// Returns the release with priority over `own`, if there is one. A release without its own configuration comes last.
fn first<'a>(seen: &'a [SeenRelease], own: &str) -> Option<&'a str> {
    // Of two in one second the name decides, so that both agree.
    let oldest = seen.iter().min()?;
    (oldest.release != own).then_some(oldest.release.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(second: i64, release: &str) -> SeenRelease {
        SeenRelease {
            created: Timestamp::from_second(second).unwrap(),
            release: release.into(),
        }
    }

    #[test]
    fn the_oldest_release_rotates_and_every_other_names_it() {
        let (one, two) = (seen(10, "z/one"), seen(11, "a/two"));
        let table = [
            (vec![], "a/two", None),
            (vec![two.clone()], "a/two", None),
            (vec![two.clone(), one.clone()], "z/one", None),
            (vec![two.clone(), one.clone()], "a/two", Some("z/one")),
            // Created in one second.
            (vec![seen(10, "z/one"), seen(10, "a/two")], "a/two", None),
            (
                vec![seen(10, "z/one"), seen(10, "a/two")],
                "z/one",
                Some("a/two"),
            ),
            // Its own configuration was deleted, or does not exist yet.
            (vec![one], "a/two", Some("z/one")),
        ];
        for (seen, own, want) in table {
            assert_eq!(first(&seen, own), want, "{seen:?} {own}");
        }
    }

    #[test]
    fn a_configuration_that_names_no_release_is_none_of_ours() {
        let metadata = |annotations: serde_json::Value| -> ObjectMeta {
            serde_json::from_value(json!({
                "name": "x", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations,
            }))
            .unwrap()
        };
        assert_eq!(read(&metadata(json!({}))), None);
        let read = read(&metadata(json!({ANNOTATION: "tailnet/prod"})));
        assert_eq!(
            read.map(|seen| seen.release).as_deref(),
            Some("tailnet/prod")
        );
    }
}
