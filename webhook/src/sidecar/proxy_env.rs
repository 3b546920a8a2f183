//! What the app's containers are told of the proxy, where they say nothing of their own. Pure.

use super::shapes::{Env, Proxy, Value};
use crate::annotations::PREFIX;
use crate::pod::{Container, Details};

/// Keeps the cluster's own names and the private ranges, which its addresses come from, away from the proxy.
const DIRECT: &str = "localhost,127.0.0.1,::1,.svc,.cluster.local,$(KUBERNETES_SERVICE_HOST),10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7";

/// The variables that one of the app's containers lacks.
pub(crate) struct Missing<'a> {
    /// Its place among the pod's containers.
    pub(crate) place: usize,
    pub(crate) container: &'a Container<'a>,
    pub(crate) env: Vec<Env<'static>>,
}

/// Finds what each container lacks; one that names a proxy, in capitals or not, keeps it.
///
/// What `env` says wins over `envFrom`, which may name a proxy too: such a container is left alone, with a remark.
pub(crate) fn missing<'a>(
    details: &'a Details<'_>,
    port: u16,
    remarks: &mut Vec<String>,
) -> Vec<Missing<'a>> {
    let containers = details.spec.containers.iter().enumerate();
    let missing = containers.map(|(place, container)| Missing {
        place,
        container,
        env: lacking(container, port),
    });
    let missing = missing.filter(|missing| !missing.env.is_empty());
    let (unknown, missing): (Vec<_>, Vec<_>) =
        missing.partition(|missing| missing.container.has_env_from());
    remarks.extend(unknown.iter().map(Missing::remark));
    missing
}

impl Missing<'_> {
    fn remark(&self) -> String {
        let names: Vec<_> = self.env.iter().map(|env| env.name).collect();
        format!(
            "annotation '{PREFIX}proxy-env' leaves container '{}' alone, whose envFrom may name a proxy: where it names none, set {} in its env",
            &*self.container.name,
            names.join(", ")
        )
    }
}

fn lacking(container: &Container<'_>, port: u16) -> Vec<Env<'static>> {
    let http = || Value::Proxy(Proxy("http://", port));
    [
        // The proxy resolves names, so that the tailnet's are found.
        ("ALL_PROXY", Value::Proxy(Proxy("socks5h://", port))),
        ("HTTP_PROXY", http()),
        ("HTTPS_PROXY", http()),
        ("NO_PROXY", Value::Text(DIRECT)),
    ]
    .into_iter()
    .filter(|(name, _)| {
        let mut env = container.env.iter().flatten();
        !env.any(|set| set.name.eq_ignore_ascii_case(name))
    })
    .map(|(name, value)| Env { name, value })
    .collect()
}
