//! The installation that a command works on: its cluster and its configuration. I/O.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::config::KubeConfigOptions;
use kube::{Api, Client};
use sidescale_webhook::hostnames::ClaimedHostnames;
use sidescale_webhook::profile::{DEFAULT, Policy};

use crate::cluster;
use crate::config;
use crate::store::{SecretStore, Store};

/// Data key of the ConfigMap.
const CONFIG: &str = "config.yaml";

/// Suffix of the name of the ConfigMap with the owners of hostnames.
const HOSTNAMES: &str = "-hostnames";

/// Flags that say which installation is meant.
#[derive(Clone, Debug, clap::Args)]
pub struct ReleaseArgs {
    /// Namespace that Sidescale is installed in
    #[arg(
        long,
        short = 'n',
        env = "SIDESCALE_NAMESPACE",
        default_value = "sidescale",
        value_name = "NAME"
    )]
    pub namespace: String,
    /// How it is reached.
    #[command(flatten)]
    pub access: AccessArgs,
}

/// Flags that say how an installation is found in its namespace, and how it and its control planes are reached.
#[derive(Clone, Debug, clap::Args)]
pub struct AccessArgs {
    /// Helm release of the installation
    #[arg(
        long,
        env = "SIDESCALE_RELEASE_NAME",
        default_value = "sidescale",
        value_name = "NAME"
    )]
    pub release_name: String,
    /// Configuration file to use instead of the release's ConfigMap
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Kubeconfig context [default: the current one; in a pod, its own cluster]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// URL of a control plane's API as seen from this machine, such as http://127.0.0.1:8080 with a port-forward
    #[arg(long, value_name = "[CONTROL-PLANE=]URL")]
    pub api_url: Vec<ApiUrl>,
}

/// Another URL for a control plane's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiUrl {
    control_plane: String,
    url: String,
}

/// An installation.
#[derive(Clone)]
pub(crate) struct Release {
    /// The cluster, with the rights of the person who runs the command.
    pub(crate) client: Client,
    /// Its Secrets.
    pub(crate) store: Store,
    /// Its configuration.
    pub(crate) policy: Policy,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its Helm release.
    pub(crate) name: String,
}

impl FromStr for ApiUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (control_plane, url) = match text.split_once('=') {
            Some((name, url)) if !name.contains("://") => (name, url),
            Some(_) | None => (DEFAULT, text),
        };
        if control_plane.is_empty() || !url.contains("://") {
            return Err(
                "want a URL such as http://127.0.0.1:8080, or CONTROL-PLANE=URL".to_owned(),
            );
        }
        Ok(Self {
            control_plane: control_plane.to_owned(),
            url: url.to_owned(),
        })
    }
}

impl Release {
    /// Finds the cluster and reads the configuration.
    ///
    /// # Errors
    /// There is no cluster, no such release, or its configuration is not accepted.
    pub(crate) async fn open(args: &ReleaseArgs) -> Result<Self> {
        let client = connect(args.access.context.as_deref()).await?;
        Self::of(client, args).await
    }

    /// Reads the configuration of an installation in this cluster.
    ///
    /// # Errors
    /// There is no such release, or its configuration is not accepted.
    pub(crate) async fn of(client: Client, args: &ReleaseArgs) -> Result<Self> {
        let ReleaseArgs { namespace, access } = args;
        let AccessArgs {
            release_name,
            config,
            context: _,
            api_url,
        } = access;
        let mut policy = match config {
            Some(file) => config::load(file).context("--config")?,
            None => from_config_map(&client, namespace, release_name).await?,
        };
        for ApiUrl { control_plane, url } in api_url {
            let names: Vec<_> = policy.control_planes.keys().cloned().collect();
            let Some(plane) = policy.control_planes.get_mut(control_plane) else {
                bail!(
                    "--api-url names control plane {control_plane:?}: want one of the configured ones: {}",
                    names.join(", ")
                );
            };
            plane.api_url.clone_from(url);
            // A person who types such a URL accepts the risk.
            plane.allow_insecure |= is_local(url);
        }
        Ok(Self {
            store: Store::of(SecretStore::new(client.clone())),
            client,
            policy,
            namespace: namespace.clone(),
            name: release_name.clone(),
        })
    }
}

/// Names the call that failed; for a refused one, says where the rights are documented.
pub(crate) fn refused(error: kube::Error, call: &str) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 403 => anyhow!(
            "{call}: forbidden (403): {}; the command's --help lists the rights that it needs",
            status.message
        ),
        error => anyhow::Error::new(error).context(call.to_owned()),
    }
}

/// Connects to the cluster.
///
/// # Errors
/// There is no cluster.
pub(crate) async fn connect(context: Option<&str>) -> Result<Client> {
    let config = match context {
        None => kube::Config::infer().await.context(
            "no Kubernetes cluster found: point KUBECONFIG at a kubeconfig file, or run in a pod",
        )?,
        Some(name) => {
            let options = KubeConfigOptions {
                context: Some(name.to_owned()),
                ..KubeConfigOptions::default()
            };
            kube::Config::from_kubeconfig(&options)
                .await
                .with_context(|| format!("--context {name}"))?
        }
    };
    cluster::client(config).context("use the cluster's configuration")
}

/// Reads an installation's record of the owners of hostnames; empty without the right to read it.
pub(crate) async fn hostnames(client: &Client, args: &ReleaseArgs) -> ClaimedHostnames {
    let listed = config_maps(client, &args.namespace, &args.access.release_name).await;
    let is_it = |map: &ConfigMap| {
        let name = map.metadata.name.as_deref();
        name.is_some_and(|name| name.ends_with(HOSTNAMES))
    };
    let map = listed.ok().and_then(|maps| maps.into_iter().find(is_it));
    let data = map.and_then(|map| map.data).unwrap_or_default();
    ClaimedHostnames::read(&data)
}

async fn config_maps(client: &Client, namespace: &str, release: &str) -> Result<Vec<ConfigMap>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let selector =
        format!("app.kubernetes.io/part-of=sidescale,app.kubernetes.io/instance={release}");
    let listed = api.list(&ListParams::default().labels(&selector)).await;
    let call = format!("list ConfigMaps in namespace {namespace}");
    Ok(listed.map_err(|error| refused(error, &call))?.items)
}

async fn from_config_map(client: &Client, namespace: &str, release: &str) -> Result<Policy> {
    let found = config_maps(client, namespace, release).await?.into_iter();
    let text = found
        .filter_map(|map| map.data)
        .find_map(|mut data| data.remove(CONFIG));
    let Some(text) = text else {
        bail!(
            "namespace {namespace:?} has no ConfigMap of a release {release:?}: \"helm list --all-namespaces\" shows \
             where Sidescale is installed; --help says which flags name that namespace and that release, or name the \
             file with --config"
        );
    };
    config::parse(&text)
        .with_context(|| format!("configuration of release {release:?} in namespace {namespace:?}"))
}

fn is_local(url: &str) -> bool {
    ["http://127.0.0.1", "http://localhost", "http://[::1]"]
        .iter()
        .any(|start| {
            let rest = url.strip_prefix(start);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_where_a_control_plane_is() {
        let read = |text: &str| {
            text.parse::<ApiUrl>()
                .map(|url| (url.control_plane, url.url))
        };
        let local = "http://127.0.0.1:8080";
        assert_eq!(read(local), Ok(("default".into(), local.into())));
        assert_eq!(
            read("eu=https://hs.example.com/?a=b"),
            Ok(("eu".into(), "https://hs.example.com/?a=b".into()))
        );
        for wrong in ["", "eu", "=http://x", "eu=x"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_this_machine_needs_no_tls() {
        assert!(is_local("http://127.0.0.1:8080") && is_local("http://localhost/x"));
        for url in [
            "http://127.0.0.1.example.com",
            "http://hs",
            "https://localhost",
        ] {
            assert!(!is_local(url), "{url}");
        }
    }
}
