//! Failures and their effects: the product after any answer, Headscale, the API server; and two replicas that act at once.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use sidescale_control_plane::{Client, Endpoint};
use sidescale_core::id::KeyId;
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::PreAuthKey;
use sidescale_core::secret::SecretRef;
use sidescale_rotation::record::{DATA_KEY, IssuedKey, Record};
use sidescale_simulator::{Embedded, Flavour};

use crate::Case;
use crate::chart::Release;
use crate::support::api::{self, free_ports, kubeconfig};
use crate::support::context::Context;
use crate::support::headscale::{Headscale, Program};
use crate::support::kubectl::Kubectl;
use crate::support::levels::Level;
use crate::support::processes::{Place, Process};
use crate::support::proxy::Upstream;

mod kill;
mod outage;
mod pair;
mod story;
mod upgrade;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "faults::killed_after_any_answer_it_converges",
        needs: &[Level::Api],
        each: false,
        run: kill::after_any_answer,
    },
    Case {
        name: "faults::headscale_killed_and_started_again",
        needs: &[Level::Api, Level::Headscale],
        each: true,
        run: outage::of_headscale,
    },
    Case {
        name: "faults::headscale_made_anew_gets_new_keys",
        needs: &[Level::Api, Level::Headscale],
        each: true,
        run: outage::of_all_that_headscale_knew,
    },
    Case {
        name: "faults::kube_apiserver_killed_and_started_again",
        needs: &[Level::Api],
        each: false,
        run: outage::of_the_api_server,
    },
    Case {
        name: "faults::two_that_act_without_a_lease_make_one_key",
        needs: &[Level::Api],
        each: false,
        run: pair::without_a_lease,
    },
    Case {
        name: "faults::a_rolling_upgrade_leaves_no_long_gap_in_first_mints",
        needs: &[Level::Api],
        each: false,
        run: upgrade::while_services_arrive,
    },
];

const API_KEY_SECRET: &str = "headscale-api-key";

/// Source of keys: a real Headscale, or the embedded one if no real one is available.
enum Minting {
    Real(Headscale),
    Embedded { url: String },
}

impl Minting {
    fn start(program: Option<&Program>, folder: &Path) -> Result<(Self, String)> {
        if let Some(program) = program {
            let [port] = free_ports()?;
            let address = format!("127.0.0.1:{port}");
            let headscale = Headscale::start(program, Place::Host, folder, &address)?;
            let api_key = headscale.create_api_key()?;
            return Ok((Self::Real(headscale), api_key));
        }
        let embedded = Embedded::new(Flavour::V0_29, Timestamp::now);
        let api_key = embedded.create_api_key(Duration::from_secs(86_400));
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let router = embedded.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((Self::Embedded { url }, api_key.expose().to_owned()))
    }

    fn url(&self) -> &str {
        match self {
            Self::Real(headscale) => headscale.url(),
            Self::Embedded { url } => url,
        }
    }
}

/// An installation whose processes a test starts and stops, on a real API server.
pub(crate) struct World<'a> {
    pub(crate) api: MutexGuard<'a, api::ControlPlane>,
    release: Release,
    account: Kubectl,
    minting: Minting,
    pub(crate) admin: kube::Client,
    pub(crate) control_plane: Client,
    folder: PathBuf,
    /// Namespace of the pods and their keys.
    apps: String,
}

/// Settings that differ from one process to the next.
pub(crate) struct Run<'a> {
    /// Name of the replica and its folder.
    name: &'a str,
    /// The Lease that it takes.
    lease: &'a str,
    /// Secret of its keys: it ignores others.
    secret: &'a str,
    /// Port of a proxy to the API server, if not called directly.
    kubernetes: Option<u16>,
    /// Port of a proxy to Headscale, if not called directly.
    headscale: Option<u16>,
    /// Admin port; 0 for any.
    admin: u16,
    /// How long it accepts connections after SIGTERM.
    drain: &'a str,
}

impl<'a> Run<'a> {
    /// Returns settings with an unshared Lease, and with nothing between the process and the servers.
    pub(crate) fn of(name: &'a str, secret: &'a str) -> Self {
        Self {
            name,
            lease: name,
            secret,
            kubernetes: None,
            headscale: None,
            admin: 0,
            drain: "0s",
        }
    }
}

impl<'a> World<'a> {
    /// Installs the chart with the right to Secrets of these names.
    pub(crate) fn new(
        context: &'a Context,
        program: Option<&Program>,
        name: &str,
        secrets: &[String],
    ) -> Result<Self> {
        let api = context.api()?;
        let folder = context.folder.inner(name)?;
        let (minting, api_key) = Minting::start(program, &folder)?;
        let profiles = secrets
            .iter()
            .map(|secret| (secret.clone(), json!({"authKeySecretName": secret})));
        let profiles: serde_json::Map<String, Value> = profiles.collect();
        let config = format!("config={}", json!({"profiles": profiles}));
        let release = Release::install_with(context, &api, name, &["--set-json", &config])?;
        let account = release.account(&api)?;
        any_lease(&api, &release)?;
        let apps = format!("{name}-apps");
        api.namespace(&apps, &json!({}))?;
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let file = Kubeconfig::read_from(api.kubectl().kubeconfig())?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options);
        let config = tokio::runtime::Handle::current().block_on(config)?;
        give(&api, name, &api_key)?;
        Ok(Self {
            control_plane: direct(minting.url(), api_key)?,
            api,
            release,
            account,
            minting,
            admin: kube::Client::try_from(config)?,
            folder,
            apps,
        })
    }

    /// Starts `sidescale serve` as the shipped account.
    pub(crate) fn start(&self, run: &Run<'_>) -> Result<Process> {
        let Run {
            name,
            lease,
            secret,
            kubernetes,
            headscale,
            admin,
            drain,
        } = *run;
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        self.api.kubectl().apply(&json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"namespace": self.release.name, "name": lease},
        }))?;
        let through = |port: u16| format!("http://127.0.0.1:{port}");
        let mut kubeconfig_path = self.account.kubeconfig().to_owned();
        if let Some(port) = kubernetes {
            let text = std::fs::read_to_string(&kubeconfig_path)?;
            let direct: Value = serde_json::from_str(&text)?;
            let token = direct["users"][0]["user"]["token"].as_str();
            kubeconfig_path = folder.join("kubeconfig");
            let text = kubeconfig(&through(port), token.context("no token")?);
            std::fs::write(&kubeconfig_path, text)?;
        }
        let headscale = headscale.map_or_else(|| self.minting.url().to_owned(), through);
        let config = json!({
            "controlPlanes": {"default": {
                "loginServer": headscale,
                "allowInsecure": true,
                "apiKeySecret": {"namespace": format!("{}-headscale", self.release.name), "name": API_KEY_SECRET},
            }},
            "profiles": {"default": {"authKeySecretName": secret}},
            "rotation": {"overlap": "3s"},
        });
        let config_path = folder.join("config.yaml");
        std::fs::write(&config_path, config.to_string())?;
        let fullname = self.release.fullname();
        let arguments = [
            "serve".to_owned(),
            format!("--config={}", config_path.display()),
            format!("--namespace={}", self.release.name),
            format!("--pod-name={name}"),
            format!("--release-name={}", self.release.name),
            format!("--service-name={fullname}"),
            format!("--webhook-config-name={fullname}"),
            format!("--ca-secret-name={fullname}-webhook-ca"),
            format!("--lease-name={lease}"),
            format!("--hostnames-config-map-name={fullname}-hostnames"),
            "--listen=127.0.0.1:0".to_owned(),
            format!("--admin-listen=127.0.0.1:{admin}"),
            format!("--drain={drain}"),
        ];
        let environment = [("KUBECONFIG", kubeconfig_path.display().to_string())];
        let program = Path::new(env!("CARGO_BIN_EXE_sidescale"));
        Process::start_with(
            Place::Host,
            &folder,
            "sidescale",
            program,
            &arguments,
            &environment,
        )
    }

    /// Gives the product another API key, and uses it.
    fn replace_api_key(&mut self, api_key: String) -> Result<()> {
        give(&self.api, &self.release.name, &api_key)?;
        self.control_plane = direct(self.minting.url(), api_key)?;
        Ok(())
    }

    /// Removes the rules about this resource from the account's Role.
    fn take_right(&self, resource: &str) -> Result<()> {
        let (kubectl, name) = (self.api.kubectl(), self.release.fullname());
        let get = ["get", "role", &name, "--namespace", &self.release.name];
        let mut role = kubectl.json(&get)?;
        let rules = role["rules"].as_array_mut().context("no rules")?;
        let of_it = |rule: &Value| {
            rule["resources"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == resource))
        };
        rules.retain(|rule| !of_it(rule));
        kubectl.feed(&["replace", "--filename", "-"], &role.to_string())?;
        Ok(())
    }

    /// Creates a pod as the webhook leaves it, whose service needs a key in this Secret.
    async fn make_pod(&self, service: &str, secret: &str) -> Result<()> {
        self.make_pod_in(&self.apps, service, secret).await
    }

    pub(crate) async fn make_pod_in(
        &self,
        namespace: &str,
        service: &str,
        secret: &str,
    ) -> Result<()> {
        let receipt = json!({
            "version": "0.1.0", "decision": "inject", "profile": "default", "profileHash": "0", "service": service,
            "controlPlane": "default", "secret": secret, "dataKey": format!("{service}-authkey"),
        });
        let pod = serde_json::from_value(json!({
            "metadata": {
                "name": service,
                "labels": {"sidescale.io/sidecar": "tailscale"},
                "annotations": {
                    "sidescale.io/inject": "tailscale", "sidescale.io/service": service,
                    "sidescale.io/status": receipt.to_string(),
                },
            },
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        }))?;
        let pods = self.pods(namespace);
        pods.create(&PostParams::default(), &pod).await?;
        Ok(())
    }

    /// Makes the key of a pod due at a time; the next one is due in three months.
    async fn make_due(&self, service: &str, created: Timestamp, at: Timestamp) -> Result<()> {
        const LIFE: i64 = 2_160 * 3_600;
        let buffer = LIFE - at.duration_since(created).as_secs();
        let annotations = json!({
            "sidescale.io/auth-key-expiration": "4320h",
            "sidescale.io/auth-key-rotation-buffer": format!("{buffer}s"),
        });
        self.annotate_pod_in(&self.apps, service, &annotations)
            .await
    }

    pub(crate) async fn annotate_pod_in(
        &self,
        namespace: &str,
        service: &str,
        annotations: &Value,
    ) -> Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        let params = PatchParams::default();
        let pods = self.pods(namespace);
        pods.patch(service, &params, &patch).await?;
        Ok(())
    }

    async fn secret(&self, name: &str) -> Result<Option<Secret>> {
        let secrets: Api<Secret> = Api::namespaced(self.admin.clone(), &self.apps);
        Ok(secrets.get_opt(name).await?)
    }

    /// Returns the key that a Secret names, and its value; `None` if there is none yet.
    async fn key(&self, secret: &str, service: &str) -> Result<Option<(IssuedKey, Vec<u8>)>> {
        let data_key = format!("{service}-authkey");
        let data = self.secret(secret).await?.and_then(|secret| secret.data);
        let mut data = data.unwrap_or_default();
        let document = data.get(DATA_KEY).map(|document| document.0.as_slice());
        let record = Record::parse(document, &self.secret_ref(secret))?;
        let current = record
            .keys
            .get(&data_key)
            .and_then(|key| key.current.clone());
        Ok(current.zip(data.remove(&data_key).map(|value| value.0)))
    }

    /// Returns the record of keys in a Secret.
    async fn record(&self, secret: &str) -> Result<Record> {
        let data = self.secret(secret).await?.and_then(|secret| secret.data);
        let document = data.as_ref().and_then(|data| data.get(DATA_KEY));
        let document = document.map(|document| document.0.as_slice());
        Ok(Record::parse(document, &self.secret_ref(secret))?)
    }

    fn secret_ref(&self, name: &str) -> SecretRef {
        SecretRef::new(&self.apps, name)
    }

    /// Returns the keys that the control plane would accept.
    pub(crate) async fn alive(&self) -> Result<BTreeSet<KeyId>> {
        let listed = self.control_plane.list_pre_auth_keys().await?;
        let now = Timestamp::now();
        let alive = |key: &PreAuthKey| key.expiration.is_some_and(|at| at > now);
        Ok(listed.into_iter().filter(alive).map(|key| key.id).collect())
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), namespace)
    }

    fn to_kubernetes(&self) -> Result<Upstream> {
        let admin = self.api.kubectl().kubeconfig();
        let config: Value = serde_json::from_str(&std::fs::read_to_string(admin)?)?;
        let server = config["clusters"][0]["cluster"]["server"].as_str();
        let certificates = admin.with_file_name("certs").join("apiserver.crt");
        Upstream::trusting(address(server.context("no server")?)?, &certificates)
    }

    fn to_headscale(&self) -> Result<Upstream> {
        Ok(Upstream::Plain(address(self.minting.url())?))
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        // The next test shares the cluster, and would create keys for them, or take these for its own server's.
        let all = ["delete", "pods,secrets", "--all", "--namespace", &self.apps];
        let _ = self.api.kubectl().run(&all);
    }
}

/// Lets the account hold any Lease of its namespace: each process here has its own.
fn any_lease(api: &api::ControlPlane, release: &Release) -> Result<()> {
    let (kubectl, name) = (api.kubectl(), release.fullname());
    let get = ["get", "role", &name, "--namespace", &release.name];
    let mut role = kubectl.json(&get)?;
    let rules = role["rules"].as_array_mut().context("no rules")?;
    let leases = rules
        .iter_mut()
        .filter(|rule| rule["resources"] == json!(["leases"]));
    for rule in leases {
        rule["resourceNames"] = json!([]);
    }
    kubectl.feed(&["replace", "--filename", "-"], &role.to_string())?;
    Ok(())
}

fn give(api: &api::ControlPlane, release: &str, api_key: &str) -> Result<()> {
    api.kubectl().apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": API_KEY_SECRET, "namespace": format!("{release}-headscale")},
        "stringData": {"api-key": api_key},
    }))?;
    Ok(())
}

/// Returns the control plane, without any proxy.
fn direct(url: &str, api_key: String) -> Result<Client> {
    Ok(Client::new(Endpoint {
        name: "direct".into(),
        api_url: url.to_owned(),
        api_key: KeyValue::new(api_key),
        ca_bundle: None,
        allow_insecure: true,
    })?)
}

/// Returns the answer of a process on its admin port, from the status line on.
fn page(admin: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn address(url: &str) -> Result<SocketAddr> {
    let (_, address) = url.split_once("://").context("no URL")?;
    Ok(address.parse()?)
}
