//! What all tests of one run share: the clusters, started once, and the available Headscale binaries (I/O).

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::{Context as _, Result};

use super::{
    api::ControlPlane,
    folder::RunFolder,
    headscale,
    levels::Level,
    node::{self, GATEWAY, KubeletLooks, Node},
    processes::Place,
    product,
    programs::Programs,
};

/// The servers of one run. Fields are dropped in order, so the folder is last.
#[derive(Debug)]
pub(crate) struct Context {
    api: Option<Mutex<ControlPlane>>,
    node: Option<Node>,
    product_imported: Mutex<bool>,
    last_port: AtomicU16,
    /// The available Headscale binaries.
    pub(crate) headscales: Vec<headscale::Program>,
    /// Why a level is missing.
    pub(crate) missing: BTreeMap<Level, String>,
    /// The run's folder.
    pub(crate) folder: RunFolder,
}

impl Context {
    /// Starts the wanted levels, as far as this machine can.
    pub(crate) fn start(wanted: &[Level]) -> Result<Self> {
        let folder = RunFolder::create()?;
        let mut this = Self {
            api: None,
            node: None,
            product_imported: Mutex::new(false),
            last_port: AtomicU16::new(8080),
            headscales: headscale::programs()?,
            missing: BTreeMap::new(),
            folder,
        };
        if this.headscales.is_empty() {
            let reason = "no binary: put headscale-VERSION into ~/.cache/sidescale-e2e/headscale, or name some, with \
                          colons, in SIDESCALE_E2E_HEADSCALE";
            this.missing.insert(Level::Headscale, reason.to_owned());
        }
        if this.corpus().is_none() {
            let reason = "SIDESCALE_CORPUS names no folder of manifests";
            this.missing.insert(Level::Corpus, reason.to_owned());
        }
        if !wanted
            .iter()
            .any(|level| matches!(level, Level::Api | Level::Node))
        {
            return Ok(this);
        }
        let programs = match Programs::prepare() {
            Ok(programs) => programs,
            Err(error) => {
                this.missing.insert(Level::Api, format!("{error:#}"));
                this.missing.insert(Level::Node, format!("{error:#}"));
                return Ok(this);
            }
        };
        if wanted.contains(&Level::Api) {
            let api =
                ControlPlane::start(&programs, Place::Host, &this.folder.inner("api")?, None)?;
            this.api = Some(Mutex::new(api));
        }
        if wanted.contains(&Level::Node) {
            match node::missing() {
                Some(reason) => drop(this.missing.insert(Level::Node, reason)),
                None => {
                    this.node = Some(Node::start(
                        &programs,
                        this.folder.path(),
                        KubeletLooks::EachSecond,
                    )?)
                }
            }
        }
        Ok(this)
    }

    /// Returns whether a level is available.
    pub(crate) fn has(&self, level: Level) -> bool {
        match level {
            Level::Api => self.api.is_some(),
            Level::Node => self.node.is_some(),
            Level::Headscale => !self.headscales.is_empty(),
            Level::Corpus => self.corpus().is_some(),
        }
    }

    /// Returns the folder of real manifests, if there is one.
    pub(crate) fn corpus(&self) -> Option<PathBuf> {
        let folder = PathBuf::from(std::env::var_os("SIDESCALE_CORPUS")?);
        folder.is_dir().then_some(folder)
    }

    /// Returns the cluster without nodes; one test at a time, since a test may restart its servers.
    pub(crate) fn api(&self) -> Result<MutexGuard<'_, ControlPlane>> {
        let api = self.api.as_ref().context("level api is not up")?;
        Ok(api.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the cluster of one node.
    pub(crate) fn node(&self) -> Result<&Node> {
        self.node.as_ref().context("level node is not up")
    }

    /// Returns the cluster of one node, with the product's image in it.
    pub(crate) fn node_with_product(&self) -> Result<&Node> {
        let node = self.node()?;
        let mut imported = self
            .product_imported
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !*imported {
            node.import(&product::image()?)?;
            *imported = true;
        }
        Ok(node)
    }

    /// Returns an address for a server beside the node; never the same twice: no pod of another test calls there.
    pub(crate) fn gateway_address(&self) -> String {
        format!(
            "{GATEWAY}:{}",
            self.last_port.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// Returns the newest release if there are several binaries: the one that most users have.
    pub(crate) fn preferred(&self) -> Option<&headscale::Program> {
        let release = |program: &&headscale::Program| {
            program
                .version
                .starts_with(|first: char| first.is_ascii_digit())
        };
        let newest = self.headscales.iter().rfind(release);
        newest.or(self.headscales.first())
    }

    /// Returns one line for the end of the run.
    pub(crate) fn summary(&self) -> String {
        let levels: Vec<String> = [Level::Api, Level::Node]
            .into_iter()
            .filter(|level| self.has(*level))
            .map(|level| level.to_string())
            .collect();
        let versions: Vec<&str> = self
            .headscales
            .iter()
            .map(|program| program.version.as_str())
            .collect();
        let list = |names: &[String]| {
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        };
        let versions: Vec<String> = versions.into_iter().map(str::to_owned).collect();
        let mut line = format!(
            "levels run: {}; real Headscale met: {}",
            list(&levels),
            list(&versions)
        );
        if versions.is_empty() && self.node.is_some() {
            line.push_str(
                "\ne2e: NO REAL HEADSCALE WAS MET: ours in memory made the keys, and Tailscale's test control server \
                 accepted them",
            );
        }
        line
    }
}
