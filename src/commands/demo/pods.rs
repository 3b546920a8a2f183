//! The demo's webhook, and the pods that it reviews. I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use sidescale_certs::{Authority, Leaf};
use sidescale_webhook::annotations::NamespaceMetadata;

use super::manifests::Sample;
use super::review::{HOST, Reviewed, Reviewer};
use super::show::Show;
use super::stage::{Stage, at, failed, listen};
use super::step::{DemoStep, Failed};
use crate::server::{self, Limits, ServerTls};
use crate::tls::ServingKey;

impl Stage {
    /// Starts the webhook as `serve` does, and calls it as an API server does.
    pub(super) async fn start_webhook(&mut self, show: &mut Show<'_>) -> Result<(), Failed> {
        let step = DemoStep::Webhook;
        show.step("The webhook, over HTTPS").map_err(at(step))?;
        let now = Timestamp::now();
        let authority = Authority::generate(HOST, now).map_err(at(step))?;
        let leaf = Leaf::issue(&authority, HOST, now).map_err(at(step))?;
        let serving = Arc::<ServingKey>::default();
        serving.set(leaf.key());
        let tls = ServerTls::new(serving, None).map_err(at(step))?;
        let policy = Arc::clone(self.policy(step)?);
        let mut known: BTreeMap<String, Arc<NamespaceMetadata>> = self
            .manifests
            .namespaces
            .iter()
            .map(|(name, known)| (name.clone(), Arc::new(known.clone())))
            .collect();
        for sample in &self.manifests.samples {
            let disabled = || NamespaceMetadata {
                inject: Some("disabled".to_owned()),
                ..NamespaceMetadata::default()
            };
            let known = known.entry(sample.namespace.clone()).or_default();
            if self.is_spoilt(DemoStep::Patch) {
                *known = Arc::new(disabled());
            }
        }
        let router = server::router(
            crate::config::fixed(policy),
            Arc::new(move |name: &str| known.get(name).cloned()),
            Arc::default(),
            Arc::clone(&self.metrics),
        );
        let (listener, address) = listen(step).await?;
        let limits = Limits {
            drain: Duration::ZERO,
            connections: 64,
        };
        let (metrics, stop) = (
            Arc::clone(&self.metrics),
            self.stop.clone().cancelled_owned(),
        );
        tokio::spawn(server::run(listener, tls, router, limits, metrics, stop));
        let pem = authority.certificate_pem();
        std::fs::write(self.folder.path().join("ca.crt"), pem).map_err(at(step))?;
        let other = Authority::generate(HOST, now).map_err(at(step))?;
        let trusted = if self.is_spoilt(step) {
            other.certificate_pem()
        } else {
            pem
        };
        let reviewer =
            Reviewer::new(address, trusted).map_err(|problem| Failed { step, problem })?;
        // A client that trusts another authority must fail.
        let stranger = Reviewer::new(
            address,
            if self.is_spoilt(step) {
                pem
            } else {
                other.certificate_pem()
            },
        )
        .map_err(|problem| Failed { step, problem })?;
        let name = reviewer
            .greet()
            .await
            .map_err(|problem| Failed { step, problem })?;
        show.seen(&format!("{name} answers, its certificate is for {HOST}"))
            .map_err(at(step))?;
        if stranger.greet().await.is_ok() {
            return Err(failed(
                step,
                "a client that trusts another authority could connect",
            ));
        }
        show.seen("a client that trusts another authority cannot connect")
            .map_err(at(step))?;
        self.reviewer = Some(reviewer);
        Ok(())
    }

    /// Sends each pod to the webhook as an API server would.
    pub(super) async fn patch_pods(&mut self, show: &mut Show<'_>) -> Result<(), Failed> {
        let step = DemoStep::Patch;
        for sample in std::mem::take(&mut self.manifests.samples) {
            show.step(&format!(
                "{}: pod {}/{}",
                sample.file, sample.namespace, sample.name
            ))
            .map_err(at(step))?;
            let Some(path) = sample.path else {
                show.seen("nothing requests a sidecar, so an API server makes no call")
                    .map_err(at(step))?;
                continue;
            };
            let wanted = sample.pod["metadata"]["annotations"]["sidescale.io/inject"] != "false";
            match (self.review(step, path, &sample, &sample.pod).await?, wanted) {
                (Reviewed::Patched(patched), true) => {
                    let container = sidecar(&patched)
                        .ok_or_else(|| failed(step, "the patched pod has no sidecar"))?;
                    show.diff(&sample.pod, &patched).map_err(at(step))?;
                    if patched["spec"]["containers"] != sample.pod["spec"]["containers"] {
                        return Err(failed(step, "the patch changed a container of the app"));
                    }
                    show.seen(&format!(
                        "container {container} was added; the app's own are unchanged"
                    ))
                    .map_err(at(step))?;
                    self.injected.push((sample, patched));
                }
                (Reviewed::Patched(patched), false) if sidecar(&patched).is_none() => {
                    show.diff(&sample.pod, &patched).map_err(at(step))?;
                    show.seen("no sidecar, as requested; the receipt says why")
                        .map_err(at(step))?;
                }
                (Reviewed::Unchanged, false) => {
                    show.seen("no sidecar, as requested").map_err(at(step))?
                }
                (other, _) => {
                    return Err(failed(
                        step,
                        &format!(
                            "pod {}/{}: {}",
                            sample.namespace,
                            sample.name,
                            other.describe()
                        ),
                    ));
                }
            }
        }
        if self.injected.is_empty() {
            return Err(failed(step, "no pod got a sidecar"));
        }
        Ok(())
    }

    /// Verifies that a patched pod is not patched again.
    pub(super) async fn patch_again(&mut self, show: &mut Show<'_>) -> Result<(), Failed> {
        let step = DemoStep::Unchanged;
        show.step("The patched pods again").map_err(at(step))?;
        for (sample, patched) in &self.injected {
            let pod = if self.is_spoilt(step) {
                &sample.pod
            } else {
                patched
            };
            match self
                .review(step, sample.path.unwrap_or_default(), sample, pod)
                .await?
            {
                Reviewed::Unchanged => {}
                other => {
                    return Err(failed(
                        step,
                        &format!(
                            "pod {}/{}: {}",
                            sample.namespace,
                            sample.name,
                            other.describe()
                        ),
                    ));
                }
            }
        }
        show.seen(&format!("{} pods, no patch", self.injected.len()))
            .map_err(at(step))
    }

    async fn review(
        &self,
        step: DemoStep,
        path: &str,
        sample: &Sample,
        pod: &Value,
    ) -> Result<Reviewed, Failed> {
        let reviewer = self
            .reviewer
            .as_ref()
            .ok_or_else(|| failed(step, "the webhook is not up"))?;
        let reviewed = reviewer.review(path, sample, pod).await;
        reviewed.map_err(|problem| {
            failed(
                step,
                &format!("pod {}/{}: {problem}", sample.namespace, sample.name),
            )
        })
    }
}

/// Returns the name of our container in a pod.
fn sidecar(pod: &Value) -> Option<&str> {
    let all = ["initContainers", "containers"]
        .into_iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten();
    all.filter_map(|container| container["name"].as_str())
        .find(|name| *name == "tailscale")
}
