//! Level api: etcd, kube-apiserver and kube-controller-manager, which form a cluster without nodes (I/O).

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    kubectl::Kubectl,
    processes::{Place, Process},
    programs::Programs,
    recorder::{self, Recorder},
    wait,
};

/// Time for one server to become ready; 3 s is usual on two idle cores.
const START: Duration = Duration::from_secs(90);

/// The servers of a cluster without nodes.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    place: Place,
    folder: PathBuf,
    server: PathBuf,
    server_arguments: Vec<String>,
    _secrets: Recorder,
    controllers: Process,
    api: Process,
    etcd: Process,
    kubectl: Kubectl,
}

/// An API server that behaves like an older version; no controllers, and none of the other's data.
#[derive(Debug)]
pub(crate) struct Emulated {
    server: Process,
    kubectl: Kubectl,
}

impl Emulated {
    /// Returns kubectl as its administrator.
    pub(crate) fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Creates a namespace in which pods can be created.
    pub(crate) fn namespace(&self, name: &str) -> Result<()> {
        self.kubectl.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
        }))?;
        // No controller creates it here.
        self.kubectl.apply(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name},
        }))?;
        Ok(())
    }
}

impl ControlPlane {
    /// Starts the three servers; `advertise` is the address for nodes and pods, if there are any.
    pub(crate) fn start(
        programs: &Programs,
        place: Place,
        folder: &Path,
        advertise: Option<&str>,
    ) -> Result<Self> {
        let [client, peer, secure, controllers] = match place {
            Place::Host => free_ports()?,
            // In our own network every port is free.
            Place::Inside(_) => [2379, 2380, 6443, 10257],
        };
        let token = uuid::Uuid::new_v4().to_string();
        fs::write(
            folder.join("tokens.csv"),
            format!("{token},admin,admin,system:masters\n"),
        )?;
        let account_key = rcgen::KeyPair::generate()?;
        fs::write(folder.join("accounts.key"), account_key.serialize_pem())?;
        fs::write(folder.join("accounts.pub"), account_key.public_key_pem())?;
        let admin = folder.join("admin.conf");
        fs::write(
            &admin,
            kubeconfig(&format!("https://127.0.0.1:{secure}"), &token),
        )?;

        let etcd = start_etcd(programs, place, folder, [client, peer])?;
        fs::write(folder.join("audit.json"), audit_policy().to_string())?;
        let server = programs.kubernetes("kube-apiserver");
        let server_arguments = server_arguments(folder, &local(client), secure, advertise);
        let api = Process::start(place, folder, "kube-apiserver", &server, &server_arguments)?;
        let kubectl = Kubectl::new(place, programs.kubernetes("kubectl"), admin.clone());
        let mut starting = api;
        wait::until("kube-apiserver is ready", START, || {
            starting.check_alive()?;
            kubectl.raw("/readyz")
        })?;
        let config = |flag: &str| format!("--{flag}={}", admin.display());
        let controllers = Process::start(
            place,
            folder,
            "kube-controller-manager",
            &programs.kubernetes("kube-controller-manager"),
            &[
                config("kubeconfig"),
                config("authentication-kubeconfig"),
                config("authorization-kubeconfig"),
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={controllers}"),
                format!(
                    "--service-account-private-key-file={}",
                    folder.join("accounts.key").display()
                ),
                format!(
                    "--root-ca-file={}",
                    folder.join("certs/apiserver.crt").display()
                ),
                "--use-service-account-credentials=true".to_owned(),
            ],
        )?;
        let secrets = Recorder::of_secrets(place, folder, programs.kubernetes("kubectl"), &admin);
        let this = Self {
            place,
            folder: folder.to_owned(),
            server,
            server_arguments,
            _secrets: secrets,
            controllers,
            api: starting,
            etcd,
            kubectl,
        };
        this.wait_for_accounts("default")?;
        Ok(this)
    }

    /// Returns kubectl as this cluster's administrator.
    pub(crate) fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Returns every key that a Secret of this cluster has contained so far.
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        recorder::keys(&self.folder)
    }

    /// Creates a namespace for the test and waits until pods can be created in it.
    pub(crate) fn namespace(&self, name: &str, labels: &serde_json::Value) -> Result<()> {
        self.kubectl.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        }))?;
        self.wait_for_accounts(name)
    }

    /// Starts a second API server beside this one, with its own data, which behaves like that version.
    pub(crate) fn emulating(&self, version: &str) -> Result<Emulated> {
        let folder = self.folder.join(version);
        fs::create_dir_all(&folder)?;
        let [port] = free_ports()?;
        let mut arguments = self.server_arguments.clone();
        // Of repeated flags the last counts.
        arguments.extend([
            format!("--emulated-version={version}"),
            format!("--etcd-prefix=/{version}"),
            format!("--secure-port={port}"),
            format!("--audit-log-path={}", folder.join("audit.log").display()),
        ]);
        let (config, ours) = (folder.join("admin.conf"), self.kubectl.kubeconfig());
        let mut client: serde_json::Value = serde_json::from_str(&fs::read_to_string(ours)?)?;
        client["clusters"][0]["cluster"]["server"] = json!(format!("https://127.0.0.1:{port}"));
        fs::write(&config, client.to_string())?;
        let server = Process::start(
            self.place,
            &folder,
            "kube-apiserver",
            &self.server,
            &arguments,
        )?;
        let mut this = Emulated {
            server,
            kubectl: self.kubectl.with(config),
        };
        wait::until("the emulating kube-apiserver is ready", START, || {
            this.server.check_alive()?;
            this.kubectl.raw("/readyz").map(drop)
        })?;
        Ok(this)
    }

    /// Kills the API server and starts it again with the same flags.
    pub(crate) fn restart_api(&mut self) -> Result<()> {
        self.kill_api();
        self.start_api()
    }

    /// Kills the API server, as a crash would.
    pub(crate) fn kill_api(&mut self) {
        self.api.kill();
    }

    /// Starts the API server again with the same flags.
    pub(crate) fn start_api(&mut self) -> Result<()> {
        self.api = Process::start(
            self.place,
            &self.folder,
            "kube-apiserver",
            &self.server,
            &self.server_arguments,
        )?;
        wait::until("kube-apiserver is ready again", START, || {
            self.kubectl.raw("/readyz").map(drop)
        })
    }

    /// Fails if one of the servers has exited.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        self.etcd.check_alive()?;
        self.api.check_alive()?;
        self.controllers.check_alive()
    }

    fn wait_for_accounts(&self, namespace: &str) -> Result<()> {
        wait::until("the default service account exists", START, || {
            self.kubectl
                .run(&["get", "serviceaccount", "default", "--namespace", namespace])
                .map(drop)
        })
    }
}

fn start_etcd(
    programs: &Programs,
    place: Place,
    folder: &Path,
    [client, peer]: [u16; 2],
) -> Result<Process> {
    Process::start(
        place,
        folder,
        "etcd",
        &programs.kubernetes("etcd"),
        &[
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls={}", local(client)),
            format!("--advertise-client-urls={}", local(client)),
            format!("--listen-peer-urls={}", local(peer)),
            format!("--initial-advertise-peer-urls={}", local(peer)),
            format!("--initial-cluster=default={}", local(peer)),
            "--unsafe-no-fsync".to_owned(),
        ],
    )
}

fn local(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn server_arguments(folder: &Path, etcd: &str, port: u16, advertise: Option<&str>) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", folder.join(name).display());
    let mut arguments = vec![
        format!("--etcd-servers={etcd}"),
        format!("--secure-port={port}"),
        file("cert-dir", "certs"),
        file("token-auth-file", "tokens.csv"),
        file("service-account-key-file", "accounts.pub"),
        file("service-account-signing-key-file", "accounts.key"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        file("audit-policy-file", "audit.json"),
        file("audit-log-path", "audit.log"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--allow-privileged=true".to_owned(),
        // Webhooks are then called at their Service's endpoints, without kube-proxy.
        "--enable-aggregator-routing=true".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
    ];
    match advertise {
        Some(address) => {
            arguments.extend([
                "--bind-address=0.0.0.0".to_owned(),
                format!("--advertise-address={address}"),
            ]);
        }
        None => arguments.extend(
            [
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
            ]
            .map(str::to_owned),
        ),
    }
    arguments
}

/// Returns an audit policy that records every pod as requested, every patch of it, and every Event, for the leak check.
fn audit_policy() -> serde_json::Value {
    json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {
                "level": "RequestResponse", "verbs": ["create", "update", "patch"],
                "resources": [{"group": "", "resources": ["pods", "events"]}, {"group": "events.k8s.io"}],
            },
            {"level": "None"},
        ],
    })
}

/// Returns a client configuration; the server signs its own certificate, generated at its start.
pub(crate) fn kubeconfig(server: &str, token: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "e2e", "user": {"token": token}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
        "current-context": "e2e",
    })
    .to_string()
}

/// Returns different ports that are currently free.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()
        .context("find free ports")?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    ensure!(!ports.contains(&0), "the system gave port 0");
    Ok(ports)
}
