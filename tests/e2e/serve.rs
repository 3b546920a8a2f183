//! `sidescale serve` as the shipped account on a real API server, which calls it through the shipped Service.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    Case,
    chart::Release,
    support::{
        api::{ControlPlane, free_ports},
        context::Context,
        headscale,
        levels::Level,
        metrics,
        processes::{Place, Process},
        wait,
    },
};

mod edit;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "serve::a_pod_is_patched_through_the_service",
        needs: &[Level::Api],
        each: false,
        run: patches_a_pod,
    },
    Case {
        name: "serve::the_ca_bundle_is_mended_and_outlives_a_restart",
        needs: &[Level::Api],
        each: false,
        run: mends_the_ca_bundle,
    },
    Case {
        name: "serve::a_configuration_that_was_deleted_stays_away",
        needs: &[Level::Api],
        each: false,
        run: makes_no_configuration,
    },
    Case {
        name: "serve::an_edit_of_the_configuration_is_taken_or_told",
        needs: &[Level::Api],
        each: false,
        run: edit::follows_its_configuration,
    },
    Case {
        name: "serve::an_edit_of_the_configuration_reaches_rotation",
        needs: &[Level::Api, Level::Headscale],
        each: false,
        run: edit::rotates_by_the_last_edit,
    },
];

const LIMIT: Duration = Duration::from_secs(30);
const KIND: &str = "mutatingwebhookconfiguration";

/// A replica outside the cluster, on this machine's own address.
pub(crate) struct Replica {
    process: Process,
    folder: PathBuf,
    webhook: u16,
    admin: u16,
}

impl Replica {
    pub(crate) fn start(api: &ControlPlane, release: &Release, folder: &Path) -> Result<Self> {
        let [webhook, admin] = free_ports()?;
        let (name, account) = (release.fullname(), release.account(api)?);
        let map = api
            .kubectl()
            .json(&["get", "configmap", &name, "--namespace", &release.name])?;
        let config = folder.join("config.yaml");
        std::fs::write(
            &config,
            map["data"]["config.yaml"]
                .as_str()
                .context("no config.yaml")?,
        )?;
        let arguments = [
            "serve".to_owned(),
            format!("--config={}", config.display()),
            format!("--namespace={}", release.name),
            format!("--release-name={}", release.name),
            format!("--service-name={name}"),
            format!("--webhook-config-name={name}"),
            format!("--config-map-name={name}"),
            format!("--ca-secret-name={name}-webhook-ca"),
            format!("--lease-name={name}"),
            format!("--hostnames-config-map-name={name}-hostnames"),
            format!("--listen=0.0.0.0:{webhook}"),
            format!("--admin-listen=127.0.0.1:{admin}"),
            "--drain=1s".to_owned(),
        ];
        let kubeconfig = account.kubeconfig().display().to_string();
        let program = Path::new(env!("CARGO_BIN_EXE_sidescale"));
        let environment = [("KUBECONFIG", kubeconfig)];
        let process = Process::start_with(
            Place::Host,
            folder,
            "sidescale",
            program,
            &arguments,
            &environment,
        )?;
        let mut this = Self {
            process,
            folder: folder.to_owned(),
            webhook,
            admin,
        };
        wait::until("sidescale is ready", LIMIT, || {
            this.process.check_alive()?;
            let answer = this.get("/readyz")?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            Ok(())
        })?;
        Ok(this)
    }

    /// Returns the addresses of the webhook and the admin port.
    pub(crate) fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        (local(self.webhook), local(self.admin))
    }

    /// Returns its peak memory so far, in bytes.
    pub(crate) fn peak(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid()?))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.context("no VmHWM")?.trim().trim_end_matches(" kB");
        Ok(peak.parse::<u64>()? << 10)
    }

    /// Fails if it has exited.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        self.process.check_alive()
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        self.process.stop(LIMIT)
    }

    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin))?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Returns its log.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Returns the sum of a metric's samples that contain all these pieces.
    pub(crate) fn metric(&self, name: &str, pieces: &[&str]) -> Result<f64> {
        metrics::sum(&self.get("/metrics")?, name, pieces)
    }
}

impl Drop for Replica {
    /// Stores the pages of its admin port beside its log, for the leak check.
    fn drop(&mut self) {
        let pages = ["/metrics", "/readyz"].map(|page| self.get(page).unwrap_or_default());
        let _ = std::fs::write(self.folder.join("admin.log"), pages.concat());
    }
}

/// Returns the address at which other machines would reach us: a Service's endpoint must not be loopback.
fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // Nothing is sent: this only looks up the route.
    socket
        .connect("192.0.2.1:9")
        .context("no route to anywhere: this test needs a non-loopback address")?;
    Ok(socket.local_addr()?.ip())
}

/// Puts the replica behind the Service, as its only endpoint.
pub(crate) fn publish(api: &ControlPlane, release: &Release, replica: &Replica) -> Result<()> {
    let name = release.fullname();
    api.kubectl().apply(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{name}-by-hand"), "namespace": release.name,
            "labels": {"kubernetes.io/service-name": name},
        },
        "ports": [{"name": "webhook", "port": replica.webhook, "protocol": "TCP"}],
        "endpoints": [{"addresses": [own_address()?.to_string()], "conditions": {"ready": true}}],
    }))?;
    Ok(())
}

/// Returns a pod of one container with these annotations.
pub(crate) fn pod(namespace: &str, name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "busybox"}]},
    })
}

fn patches_a_pod(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let release = Release::install(context, &api, "serve-pod")?;
    let replica = Replica::start(&api, &release, &context.folder.inner("serve-pod")?)?;
    publish(&api, &release, &replica)?;
    let apps = "serve-pod-apps";
    api.namespace(apps, &json!({}))?;
    let annotated = json!({"sidescale.io/inject": "tailscale"});
    // The API server has to see the endpoint first: until then it fails open, and the pod stays as it was.
    wait::until("a pod is patched", LIMIT, || {
        let created = api.kubectl().dry_run(&pod(apps, "web", &annotated))?;
        ensure!(
            created["spec"]["initContainers"][0]["name"] == "tailscale",
            "{}",
            created["spec"]
        );
        ensure!(
            created["metadata"]["labels"]["sidescale.io/sidecar"] == "tailscale",
            "{}",
            created["metadata"]
        );
        Ok(())
    })?;

    let refused = api.kubectl().apply(&pod(
        apps,
        "wrong",
        &json!({"sidescale.io/inject": "tailscaled"}),
    ));
    let Err(error) = refused else {
        anyhow::bail!("a value that means nothing was accepted")
    };
    ensure!(
        format!("{error:#}").contains("sidescale.io/inject"),
        "{error:#}"
    );
    Ok(())
}

pub(crate) fn bundles(api: &ControlPlane, name: &str) -> Result<Vec<String>> {
    let configuration = api.kubectl().json(&["get", KIND, name])?;
    let entries = configuration["webhooks"].as_array().context("no entries")?;
    let bundle = |entry: &Value| {
        entry["clientConfig"]["caBundle"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    Ok(entries.iter().map(bundle).collect())
}

fn wipe(api: &ControlPlane, name: &str) -> Result<()> {
    let patch = r#"[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]"#;
    api.kubectl()
        .run(&["patch", KIND, name, "--type=json", "--patch", patch])
        .map(drop)
}

fn mends_the_ca_bundle(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let mut api = context.api()?;
    let release = Release::install(context, &api, "serve-ca")?;
    let folder = context.folder.inner("serve-ca")?;
    let mut replica = Replica::start(&api, &release, &folder)?;
    let name = release.fullname();
    let ca = format!("{name}-webhook-ca");
    let trust = |api: &ControlPlane| -> Result<String> {
        let secret = api
            .kubectl()
            .json(&["get", "secret", &ca, "--namespace", &release.name])?;
        ensure!(secret["type"] == "Opaque", "{}", secret["type"]);
        Ok(secret["data"]["trust.pem"]
            .as_str()
            .context("no trust.pem")?
            .to_owned())
    };
    let first = trust(&api)?;
    ensure!(
        bundles(&api, &name)? == [first.clone(), first.clone()],
        "not in both entries"
    );
    let mended = |api: &ControlPlane, want: &str| {
        wait::until("the caBundle is mended", Duration::from_secs(10), || {
            ensure!(bundles(api, &name)? == [want, want], "not in both entries");
            Ok(())
        })
    };
    wipe(&api, &name)?;
    mended(&api, &first)?;

    // A broken watch is started again, after a pause that grows while the server is away.
    api.restart_api()?;
    wipe(&api, &name)?;
    mended(&api, &first)?;

    // The next process uses the same authority.
    replica.process.stop(LIMIT)?;
    wipe(&api, &name)?;
    let mut replica = Replica::start(&api, &release, &folder)?;
    mended(&api, &first)?;
    ensure!(
        trust(&api)? == first,
        "the authority was replaced without need"
    );

    // An unreadable one is replaced, and the trusted ones stay trusted.
    replica.process.stop(LIMIT)?;
    let junk =
        json!({"data": {"active.key": base64::engine::general_purpose::STANDARD.encode("junk")}})
            .to_string();
    api.kubectl().run(&[
        "patch",
        "secret",
        &ca,
        "--namespace",
        &release.name,
        "--patch",
        &junk,
    ])?;
    let _replica = Replica::start(&api, &release, &folder)?;
    let second = trust(&api)?;
    ensure!(
        second != first && second.len() > first.len(),
        "want two authorities to be trusted"
    );
    mended(&api, &second)
}

fn makes_no_configuration(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let release = Release::install(context, &api, "serve-gone")?;
    let mut replica = Replica::start(&api, &release, &context.folder.inner("serve-gone")?)?;
    let name = release.fullname();
    api.kubectl().run(&["delete", KIND, &name])?;
    wait::until("sidescale says that it is gone", LIMIT, || {
        let answer = replica.get("/readyz")?;
        ensure!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        ensure!(
            answer.contains(&format!(
                "MutatingWebhookConfiguration \"{name}\" does not exist"
            )),
            "{answer}"
        );
        Ok(())
    })?;
    ensure!(
        api.kubectl().run(&["get", KIND, &name]).is_err(),
        "it was made anew"
    );
    replica.process.signal(Signal::TERM)?;
    wait::until("sidescale ends", LIMIT, || {
        match replica.process.check_alive() {
            Ok(()) => anyhow::bail!("still running"),
            Err(error) if format!("{error:#}").contains("exit status: 0") => Ok(()),
            Err(error) => Err(error),
        }
    })
}
