//! Builds the real servers from their Go modules, once, into a cache folder outside the tree (I/O).

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::processes;

/// One Go module of `tests/e2e/programs`, and its programs.
struct Module {
    /// The folder, and the first half of the cache folder's name.
    name: &'static str,
    /// The version in the cache folder's name; `go.mod` pins it.
    version: &'static str,
    /// Package and name of each program.
    programs: &'static [(&'static str, &'static str)],
    /// Versions set at link time: without them server and kubelet report v0.0.0 and behave accordingly.
    variables: &'static [(&'static str, &'static str)],
    /// Approximate time of a first build on two cores.
    takes: &'static str,
}

const KUBERNETES: Module = Module {
    name: "kubernetes",
    version: "v1.35.4",
    programs: &[
        ("k8s.io/kubernetes/cmd/kube-apiserver", "kube-apiserver"),
        (
            "k8s.io/kubernetes/cmd/kube-controller-manager",
            "kube-controller-manager",
        ),
        ("k8s.io/kubernetes/cmd/kube-scheduler", "kube-scheduler"),
        ("k8s.io/kubernetes/cmd/kubelet", "kubelet"),
        ("k8s.io/kubernetes/cmd/kubectl", "kubectl"),
        ("k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy"),
        ("go.etcd.io/etcd/server/v3", "etcd"),
    ],
    variables: &[
        ("k8s.io/component-base/version.gitVersion", "v1.35.4"),
        ("k8s.io/component-base/version.gitMajor", "1"),
        ("k8s.io/component-base/version.gitMinor", "35"),
        ("k8s.io/component-base/version.gitTreeState", "clean"),
    ],
    takes: "8 minutes",
};

const TAILSCALE: Module = Module {
    name: "tailscale",
    version: "v1.102.3",
    programs: &[
        ("tailscale.com/cmd/containerboot", "containerboot"),
        ("tailscale.com/cmd/tailscale", "tailscale"),
        ("tailscale.com/cmd/tailscaled", "tailscaled"),
        ("sidescale.io/e2e/tailscale/testcontrol", "testcontrol"),
        ("sidescale.io/e2e/tailscale/joiner", "joiner"),
    ],
    variables: &[],
    takes: "3 minutes",
};

const HELM: Module = Module {
    name: "helm",
    version: "v4.1.4",
    programs: &[("helm.sh/helm/v4/cmd/helm", "helm")],
    variables: &[],
    takes: "1 minute",
};

/// Folders of the built programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    kubernetes: PathBuf,
    tailscale: PathBuf,
    helm: PathBuf,
}

impl Programs {
    /// Builds what the cache does not contain yet.
    pub(crate) fn prepare() -> Result<Self> {
        Ok(Self {
            kubernetes: KUBERNETES.build()?,
            tailscale: TAILSCALE.build()?,
            helm: HELM.build()?,
        })
    }

    /// Returns a program of Kubernetes, or etcd.
    pub(crate) fn kubernetes(&self, name: &str) -> PathBuf {
        self.kubernetes.join(name)
    }

    /// Returns one of Tailscale's programs, the stand-in control server, or the program that logs a node in.
    pub(crate) fn tailscale(&self, name: &str) -> PathBuf {
        self.tailscale.join(name)
    }

    /// Returns helm.
    pub(crate) fn helm(&self) -> PathBuf {
        self.helm.join("helm")
    }
}

/// Returns the cache folder, outside the tree because of `cargo clean`.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(
            std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?,
        )
        .join(".cache"),
    };
    Ok(base.join("sidescale-e2e"))
}

/// Returns the program with that name on PATH or in the usual system folders.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/cni"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

impl Module {
    fn build(&self) -> Result<PathBuf> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/e2e/programs")
            .join(self.name);
        let cache = cache()?;
        fs::create_dir_all(&cache)?;
        let target = cache.join(format!(
            "{}-{}-{}",
            self.name,
            self.version,
            self.fingerprint(&source)?
        ));
        let lock = File::create(cache.join(format!("{}.lock", self.name)))?;
        lock.lock()?;
        if target.is_dir() {
            return Ok(target);
        }
        if on_path("go").is_none() {
            bail!(
                "go is missing: install Go 1.26.6 or newer from https://go.dev/dl (it builds {})",
                self.name
            );
        }
        eprintln!(
            "e2e: building {} {}, once; about {} on two cores",
            self.name, self.version, self.takes
        );
        let unfinished = cache.join(format!("{}.unfinished", self.name));
        let _ = fs::remove_dir_all(&unfinished);
        fs::create_dir_all(&unfinished)?;
        let variables: Vec<String> = self
            .variables
            .iter()
            .map(|(name, value)| format!("-X {name}={value}"))
            .collect();
        for (package, name) in self.programs {
            processes::output(
                Command::new("go")
                    .current_dir(&source)
                    .env("CGO_ENABLED", "0")
                    .env("GOFLAGS", "-mod=readonly")
                    .args([
                        "build",
                        "-trimpath",
                        "-ldflags",
                        &format!("-s -w {}", variables.join(" ")),
                        "-o",
                    ])
                    .arg(unfinished.join(name))
                    .arg(package),
            )?;
        }
        fs::rename(&unfinished, &target)?;
        Ok(target)
    }

    /// Returns a hash of everything that the programs are built from.
    fn fingerprint(&self, source: &Path) -> Result<String> {
        let mut files = vec![source.join("go.mod"), source.join("go.sum")];
        if self.name == TAILSCALE.name {
            files.extend(["testcontrol", "joiner"].map(|name| source.join(name).join("main.go")));
        }
        let mut all = self
            .variables
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect::<String>();
        for file in files {
            all.push_str(
                &fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?,
            );
        }
        ensure!(
            all.contains(self.version),
            "{}: go.mod does not name {}",
            self.name,
            self.version
        );
        Ok(fnv1a(all.as_bytes()))
    }
}

/// Returns a short name for content; it need not resist attacks.
fn fnv1a(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")[..8].to_owned()
}
