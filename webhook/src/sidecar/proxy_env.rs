//! Proxy variables of the app's containers, where they set none themselves. Pure.

use super::shapes::{EnvValue, Proxy, SidecarEnv};
use crate::annotations::{DenyReason, Refusal};
use crate::keys::PREFIX;
use crate::pod::{self, ContainerDetails, Details};

/// Excludes from the proxy the cluster's own names, and the private ranges that its addresses come from.
const DIRECT: &str = "localhost,127.0.0.1,::1,.svc,.cluster.local,$(KUBERNETES_SERVICE_HOST),10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7";

/// Maximum number of containers that get the variables: each adds 500 bytes to the patch, however short it is itself.
const MOST_CONTAINERS: usize = 128;
/// Maximum number of containers that get a remark each.
const MOST_REMARKS: usize = 8;

/// The variables that one of the app's containers lacks.
pub(crate) struct Missing<'a> {
    /// Index among the pod's containers.
    pub(crate) place: usize,
    pub(crate) container: &'a ContainerDetails<'a>,
    has: pod::ProxyVariables,
    port: u16,
}

/// Returns what each container lacks; one that names a proxy, in capitals or not, keeps it.
///
/// Our `env` would take precedence over `envFrom`, which may name a proxy too: such a container is skipped, with a remark.
pub(crate) fn missing<'a>(
    details: &'a Details<'_>,
    port: u16,
    remarks: &mut Vec<String>,
) -> Result<Vec<Missing<'a>>, Refusal> {
    let containers = &details.spec.containers;
    if containers.len() > MOST_CONTAINERS {
        let message = format!(
            "annotation \"{PREFIX}proxy-env\" is \"true\": the pod has {} containers, want at most {MOST_CONTAINERS}: remove the annotation, and set the variables in the containers that need them",
            containers.len()
        );
        return Err(Refusal {
            reason: DenyReason::TooLarge,
            message,
        });
    }
    let missing = containers.iter().enumerate();
    let missing = missing.map(|(place, container)| Missing {
        place,
        container,
        has: container.env.unwrap_or_default(),
        port,
    });
    let missing = missing.filter(|missing| missing.env().next().is_some());
    let (unknown, missing): (Vec<_>, Vec<_>) =
        missing.partition(|missing| missing.container.has_env_from());
    remarks.extend(unknown.iter().take(MOST_REMARKS).map(Missing::remark));
    let more = unknown.len().saturating_sub(MOST_REMARKS);
    if more > 0 {
        remarks.push(format!(
            "annotation '{PREFIX}proxy-env' skips {more} more containers for the same reason"
        ));
    }
    Ok(missing)
}

impl Missing<'_> {
    /// Returns the variables.
    pub(crate) fn env(&self) -> impl Iterator<Item = SidecarEnv<'static>> {
        let has = pod::ProxyVariables::PROXY.into_iter().zip(self.has.has());
        let lacking = has.filter(|(_, has)| !has);
        lacking.map(|(name, _)| {
            let value = match name {
                // The proxy resolves names, which lets it find those of the tailnet.
                "ALL_PROXY" => EnvValue::Proxy(Proxy("socks5h://", self.port)),
                "NO_PROXY" => EnvValue::Text(DIRECT),
                _ => EnvValue::Proxy(Proxy("http://", self.port)),
            };
            SidecarEnv { name, value }
        })
    }

    fn remark(&self) -> String {
        let names: Vec<_> = self.env().map(|env| env.name).collect();
        format!(
            "annotation '{PREFIX}proxy-env' skips container '{}', whose envFrom may set a proxy: if it does not, set {} in its env",
            &*self.container.name,
            names.join(", ")
        )
    }
}
