//! Level node: the control plane with containerd, kubelet, scheduler and kube-proxy, in its own namespaces (I/O).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    api::ControlPlane,
    cgroups,
    image::Image,
    kubectl::{Helm, Kubectl},
    processes::{Namespaces, Place, Process, output},
    programs::{Programs, on_path},
    recorder::Recorder,
    wait,
};

/// The bridge's own address: the pods' gateway, at which they reach servers beside the cluster.
pub(crate) const GATEWAY: &str = "10.244.0.1";
/// Addresses of Services: kube-proxy rewrites them, only for processes with a route there.
const SERVICES: &str = "10.96.0.0/16";
/// Image with small commands for a pod.
pub(crate) const BUSYBOX: &str = "docker.io/sidescale-e2e/busybox:1";
/// Image with only Tailscale's container programs.
pub(crate) const TAILSCALE: &str = "docker.io/sidescale-e2e/tailscale:v1.102.3";

const PAUSE: &str = "docker.io/sidescale-e2e/pause:1";
const NODE: &str = "node1";
const START: Duration = Duration::from_secs(90);
/// Programs from the Debian packages of setup.sh.
const NEEDED: [&str; 9] = [
    "containerd",
    "ctr",
    "runc",
    "iptables",
    "conntrack",
    "catatonit",
    "busybox",
    "unshare",
    "ip",
];

/// How often the kubelet looks at each pod and at the Secrets in its volumes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KubeletLooks {
    /// A changed Secret reaches its volume within two seconds.
    EachSecond,
    /// The default: within a minute or so.
    EachMinute,
}

/// A whole cluster of one node.
#[derive(Debug)]
pub(crate) struct Node {
    folder: PathBuf,
    control_plane: ControlPlane,
    _parts: Vec<Process>,
    // Last: everything above runs inside.
    namespaces: Namespaces,
    helm: Helm,
    keys: Mutex<BTreeSet<String>>,
    _logs: Recorder,
}

/// Returns what this machine lacks for the node level, and how to install it.
pub(crate) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root: run the tests as root, or in a machine of their own".to_owned());
    }
    let missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|name| on_path(name).is_none())
        .collect();
    if !missing.is_empty() {
        return Some(format!(
            "{} missing: run tests/e2e/setup.sh",
            missing.join(", ")
        ));
    }
    if !Path::new("/usr/lib/cni/bridge").exists() {
        return Some("the CNI plugins are missing: run tests/e2e/setup.sh".to_owned());
    }
    None
}

impl Node {
    /// Starts everything and waits until the node is ready. The folder's name also names the control group; the node whose
    /// kubelet looks each minute is started as the second one.
    pub(crate) fn start(
        programs: &Programs,
        run_folder: &Path,
        looks: KubeletLooks,
    ) -> Result<Self> {
        let (name, group) = match looks {
            KubeletLooks::EachSecond => ("node", cgroups::prepare(run_folder)?),
            KubeletLooks::EachMinute => ("second", cgroups::prepare_within(run_folder, "second")?),
        };
        let folder = run_folder.join(name);
        fs::create_dir_all(folder.join("cni"))?;
        let namespaces = Namespaces::create()?;
        namespaces.run(&format!(
            "ip link add sidescale0 type bridge; ip addr add {GATEWAY}/24 dev sidescale0; ip link set sidescale0 up
             ip route add {SERVICES} dev sidescale0
             echo 1 > /proc/sys/net/ipv4/ip_forward"
        ))?;
        let place = namespaces.place();
        let containerd = start_containerd(place, &folder)?;
        let control_plane = ControlPlane::start(programs, place, &folder, Some(GATEWAY))?;
        let admin = control_plane.kubectl().kubeconfig().to_owned();
        let helm = Helm::new(place, programs.helm(), admin.clone(), &folder);
        let kept = folder.join("kept-logs");
        fs::create_dir_all(&kept)?;
        let logs = Recorder::of_logs(folder.join("pod-logs"), kept);
        let mut node = Self {
            folder,
            control_plane,
            _parts: vec![containerd],
            namespaces,
            helm,
            keys: Mutex::default(),
            _logs: logs,
        };
        node.import_basic_images(programs)?;
        let parts = start_agents(programs, place, &node.folder, &admin, &group, looks)?;
        node._parts.extend(parts);
        wait::until("the node is ready", START, || {
            node._parts.iter_mut().try_for_each(Process::check_alive)?;
            let status = node.kubectl().run(&["get", "node", NODE, "--no-headers"])?;
            ensure!(status.contains(" Ready"), "{status}");
            Ok(())
        })?;
        Ok(node)
    }

    /// Returns kubectl as this cluster's administrator.
    pub(crate) fn kubectl(&self) -> &Kubectl {
        self.control_plane.kubectl()
    }

    /// Returns the servers of the cluster.
    pub(crate) fn control_plane(&self) -> &ControlPlane {
        &self.control_plane
    }

    /// Returns helm for this cluster.
    pub(crate) fn helm(&self) -> &Helm {
        &self.helm
    }

    /// Returns the place for servers beside the cluster, reachable at the gateway's address.
    pub(crate) fn place(&self) -> Place {
        self.namespaces.place()
    }

    /// Returns the folder of all logs of this cluster.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Records the value of a key, for the leak check at the end.
    pub(crate) fn remember(&self, key: &str) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.to_owned());
    }

    /// Returns every recorded value, and every key that was in a Secret.
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        let noted = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        &self.control_plane.keys() | &noted
    }

    /// Runs a shell line in the node's namespaces.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        self.namespaces.run(line)
    }

    /// Returns the inner pid of a pod's running container: a way to its files if its image has no shell.
    pub(crate) fn pid_of(&self, pod: &Value, container: &str) -> Result<u32> {
        let statuses = pod["status"]["containerStatuses"].as_array();
        let mut statuses = statuses.into_iter().flatten();
        let status = statuses.find(|status| status["name"] == container);
        let id = status.and_then(|status| status["containerID"].as_str());
        let id = id.and_then(|id| id.strip_prefix("containerd://"));
        let id = id.with_context(|| format!("{container} has no container"))?;
        let socket = socket(&self.folder);
        let tasks = self.shell(&format!("ctr -a {} -n k8s.io tasks ls", socket.display()))?;
        let mut tasks = tasks.lines().map(|line| line.split_whitespace());
        let pid = tasks.find_map(|mut task| (task.next()? == id).then(|| task.next())?);
        Ok(pid
            .with_context(|| format!("{container} does not run"))?
            .parse()?)
    }

    /// Builds an image and imports it into containerd.
    pub(crate) fn import(&self, image: &Image) -> Result<()> {
        let archive = self.folder.join("image.tar");
        image.write(&archive)?;
        let line = format!(
            "ctr -a {} -n k8s.io images import {}",
            socket(&self.folder).display(),
            archive.display()
        );
        self.namespaces
            .run(&line)
            .with_context(|| format!("import {}", image.name))?;
        fs::remove_file(archive)?;
        Ok(())
    }

    fn import_basic_images(&self, programs: &Programs) -> Result<()> {
        let system = |name: &str| on_path(name).with_context(|| format!("{name} is missing"));
        let image = |name: &str, entrypoint: &[&str], files: Vec<(String, PathBuf)>| Image {
            name: name.to_owned(),
            entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
            user: String::new(),
            files,
        };
        self.import(&image(
            PAUSE,
            &["/catatonit", "-P"],
            vec![("/catatonit".to_owned(), system("catatonit")?)],
        ))?;
        let busybox = vec![("/bin/busybox".to_owned(), system("busybox")?)];
        self.import(&image(
            BUSYBOX,
            &["/bin/busybox", "sleep", "86400"],
            busybox,
        ))?;
        let tailscale = ["containerboot", "tailscale", "tailscaled"]
            .map(|name| (format!("/usr/local/bin/{name}"), programs.tailscale(name)));
        // The published image has busybox's tools; an Event recommends one, and users diagnose with the other.
        let tools = ["killall", "netstat", "sh"];
        let busybox = system("busybox")?;
        let tools = tools.map(|name| (format!("/bin/{name}"), busybox.clone()));
        self.import(&image(
            TAILSCALE,
            &["/usr/local/bin/containerboot"],
            tailscale.into_iter().chain(tools).collect(),
        ))
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("containerd/containerd.sock")
}

fn start_containerd(place: Place, folder: &Path) -> Result<Process> {
    let state = folder.join("containerd");
    fs::create_dir_all(&state)?;
    let config = folder.join("containerd.toml");
    // restrict_oom_score_adj: a machine without CAP_SYS_RESOURCE cannot lower the score, and every sandbox would die.
    fs::write(
        &config,
        format!(
            r#"version = 2
root = "{state}/root"
state = "{state}/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"#,
            state = state.display(),
            socket = socket(folder).display(),
            cni = folder.join("cni").display(),
        ),
    )?;
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "e2e",
        "plugins": [{
            "type": "bridge", "bridge": "sidescale0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": folder.join("addresses"),
                "ranges": [[{"subnet": "10.244.0.0/24", "rangeStart": "10.244.0.10"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    fs::write(folder.join("cni/10-e2e.conflist"), network.to_string())?;
    let program = on_path("containerd").context("containerd is missing")?;
    let arguments = ["--config".to_owned(), config.display().to_string()];
    let mut containerd = Process::start(place, folder, "containerd", &program, &arguments)?;
    wait::until("containerd answers", START, || {
        containerd.check_alive()?;
        let ctr = on_path("ctr").context("ctr is missing")?;
        output(
            std::process::Command::new(ctr)
                .arg("-a")
                .arg(socket(folder))
                .arg("version"),
        )
        .map(drop)
    })?;
    Ok(containerd)
}

fn start_agents(
    programs: &Programs,
    place: Place,
    folder: &Path,
    admin: &Path,
    group: &str,
    looks: KubeletLooks,
) -> Result<Vec<Process>> {
    let mut kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": group,
        "failSwapOn": false,
        "address": GATEWAY,
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": format!("unix://{}", socket(folder).display()),
        "enforceNodeAllocatable": [],
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "50Mi"},
        "localStorageCapacityIsolation": false,
        "podLogsDir": folder.join("pod-logs"),
        "resolvConf": "/etc/resolv.conf",
    });
    if let KubeletLooks::EachSecond = looks {
        kubelet["syncFrequency"] = json!("1s");
    }
    let config = folder.join("kubelet.json");
    fs::write(&config, kubelet.to_string())?;
    let admin = admin.display();
    let state = folder.join("kubelet");
    let start = |name: &str, arguments: &[String]| {
        Process::start(place, folder, name, &programs.kubernetes(name), arguments)
    };
    Ok(vec![
        start(
            "kube-scheduler",
            &[
                format!("--kubeconfig={admin}"),
                format!("--authentication-kubeconfig={admin}"),
                format!("--authorization-kubeconfig={admin}"),
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
            ],
        )?,
        start(
            "kubelet",
            &[
                format!("--kubeconfig={admin}"),
                format!("--config={}", config.display()),
                format!("--root-dir={}", state.display()),
                format!("--cert-dir={}", state.join("pki").display()),
                format!("--hostname-override={NODE}"),
                format!("--node-ip={GATEWAY}"),
            ],
        )?,
        start(
            "kube-proxy",
            &[
                format!("--kubeconfig={admin}"),
                format!("--hostname-override={NODE}"),
                "--bind-address=127.0.0.1".to_owned(),
                "--proxy-mode=iptables".to_owned(),
                "--cluster-cidr=10.244.0.0/24".to_owned(),
                "--conntrack-max-per-core=0".to_owned(),
                "--conntrack-tcp-timeout-established=0s".to_owned(),
                "--conntrack-tcp-timeout-close-wait=0s".to_owned(),
            ],
        )?,
    ])
}
