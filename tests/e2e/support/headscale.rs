//! A real Headscale, from a given program, and its command line over its socket (I/O).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{
    image::{Image, libraries},
    processes::{Place, Process, output},
    programs::{cache, on_path},
    wait,
};

mod config;

pub(crate) use config::{NO_RELAY, NOISE_KEY};

const START: Duration = Duration::from_secs(60);
/// A Headscale binary and its version.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Such as `0.29.2` or `main`; from the file's name, because a build from source calls itself "dev".
    pub(crate) version: String,
    path: PathBuf,
}

/// Returns the available binaries: those in SIDESCALE_E2E_HEADSCALE, else those in the cache folder, else the one on PATH.
pub(crate) fn programs() -> Result<Vec<Program>> {
    let paths: Vec<PathBuf> =
        match std::env::var_os("SIDESCALE_E2E_HEADSCALE").filter(|paths| !paths.is_empty()) {
            Some(paths) => std::env::split_paths(&paths).collect(),
            None => {
                let mut paths: Vec<PathBuf> = fs::read_dir(cache()?.join("headscale"))
                    .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
                    .unwrap_or_default();
                paths.sort();
                if paths.is_empty() {
                    on_path("headscale").into_iter().collect()
                } else {
                    paths
                }
            }
        };
    paths.into_iter().map(Program::new).collect()
}

impl Program {
    fn new(path: PathBuf) -> Result<Self> {
        let said = output(Command::new(&path).arg("version")).with_context(|| {
            format!(
                "SIDESCALE_E2E_HEADSCALE: {} is no Headscale",
                path.display()
            )
        })?;
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let version = match name.strip_prefix("headscale-") {
            Some(version) => version.to_owned(),
            None => said
                .split_whitespace()
                .find(|word| word.contains('.'))
                .unwrap_or("unknown")
                .to_owned(),
        };
        Ok(Self { version, path })
    }

    /// Returns an image of the program, to run it in a cluster.
    pub(crate) fn image(&self) -> Result<Image> {
        let mut files = libraries(&self.path)?;
        files.push(("/usr/local/bin/headscale".to_owned(), self.path.clone()));
        Ok(Image {
            name: format!("docker.io/sidescale-e2e/headscale:{}", self.version),
            entrypoint: vec!["/usr/local/bin/headscale".to_owned()],
            user: String::new(),
            files,
        })
    }
}

/// A running Headscale.
#[derive(Debug)]
pub(crate) struct Headscale {
    program: Program,
    folder: PathBuf,
    place: Place,
    process: Process,
    url: String,
    authority: Option<String>,
}

/// A node as its server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// The server's id of the node.
    pub(crate) id: String,
    /// The hostname in the tailnet.
    pub(crate) name: String,
    /// Whether it is connected now.
    pub(crate) online: bool,
    /// The server's id of the key that it joined with.
    pub(crate) key: Option<String>,
    /// Its addresses in the tailnet.
    pub(crate) addresses: Vec<String>,
    /// Its tags.
    pub(crate) tags: Vec<String>,
}

/// A pre-auth key as its server lists it, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The server's id of the key.
    pub(crate) id: String,
    /// When it expires, in seconds since 1970.
    pub(crate) expires: i64,
    /// Whether it is a used single-use key.
    pub(crate) used_up: bool,
}

impl Headscale {
    /// Starts a Headscale that listens on this address in this place, with plain HTTP.
    pub(crate) fn start(
        program: &Program,
        place: Place,
        folder: &Path,
        address: &str,
    ) -> Result<Self> {
        Self::start_with(program, place, folder, address, false, NO_RELAY)
    }

    /// Starts one whose clients reach each other through this relay when they find no direct way.
    pub(crate) fn start_with_relay(
        program: &Program,
        place: Place,
        folder: &Path,
        address: &str,
        relay: &Self,
    ) -> Result<Self> {
        let relays = config::relays(relay.address())?;
        Self::start_with(program, place, folder, address, false, &relays)
    }

    /// Starts one that speaks HTTPS with a certificate from a private authority; it is a relay as well.
    pub(crate) fn start_tls(
        program: &Program,
        place: Place,
        folder: &Path,
        address: &str,
    ) -> Result<Self> {
        Self::start_with(program, place, folder, address, true, NO_RELAY)
    }

    fn start_with(
        program: &Program,
        place: Place,
        folder: &Path,
        address: &str,
        tls: bool,
        relays: &str,
    ) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let authority = if tls {
            Some(config::make_certificate(folder, address)?)
        } else {
            None
        };
        fs::write(folder.join("derp.yaml"), relays)?;
        fs::write(
            folder.join("config.yaml"),
            config::configuration(folder, address, &url, tls).to_string(),
        )?;
        let process = serve(program, place, folder)?;
        let mut this = Self {
            program: program.clone(),
            folder: folder.to_owned(),
            place,
            process,
            url,
            authority,
        };
        this.wait_until_ready()?;
        Ok(this)
    }

    /// Returns the URL that clients log in to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Returns its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("headscale.sock")
    }

    /// Returns its host and port.
    fn address(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the private authority's certificate, if it speaks HTTPS.
    pub(crate) fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Deletes its database, while it is not running.
    pub(crate) fn forget(&self) -> Result<()> {
        for path in database(&self.folder)? {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Copies its database, while it is not running.
    pub(crate) fn back_up(&self) -> Result<()> {
        copy_database(&self.folder, &self.folder.join("backup"))
    }

    /// Restores its database from the backup, while it is not running.
    pub(crate) fn restore(&self) -> Result<()> {
        self.forget()?;
        copy_database(&self.folder.join("backup"), &self.folder)
    }

    /// Starts it again over the same data.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.process = serve(&self.program, self.place, &self.folder)?;
        self.wait_until_ready()
    }

    /// Sends a signal to the process: while it is stopped, calls to it hang; SIGCONT continues it.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Runs its command line over the socket, with JSON output.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Result<Value> {
        let said = output(
            Command::new(&self.program.path)
                .arg("--config")
                .arg(self.folder.join("config.yaml"))
                .args(["--output", "json"])
                .args(arguments),
        )?;
        serde_json::from_str(&said)
            .with_context(|| format!("headscale {arguments:?} printed no JSON: {said}"))
    }

    /// Creates a user and returns its id.
    pub(crate) fn create_user(&self, name: &str) -> Result<String> {
        text(&self.cli(&["users", "create", name])?, &["id"])
    }

    /// Creates a reusable, ephemeral pre-auth key for an hour and returns its value.
    pub(crate) fn create_key(&self, user: &str) -> Result<String> {
        let key = self.cli(&[
            "preauthkeys",
            "create",
            "--user",
            user,
            "--reusable",
            "--ephemeral",
            "--expiration",
            "1h",
        ])?;
        text(&key, &["key"])
    }

    /// Creates an API key and returns its value.
    pub(crate) fn create_api_key(&self) -> Result<String> {
        match self.cli(&["apikeys", "create", "--expiration", "90d"])? {
            Value::String(key) => Ok(key),
            other => text(&other, &["apiKey", "api_key", "key"]),
        }
    }

    /// Returns its nodes.
    pub(crate) fn nodes(&self) -> Result<Vec<Node>> {
        items(self.cli(&["nodes", "list"])?, "nodes")?
            .iter()
            .map(|node| {
                Ok(Node {
                    id: text(node, &["id"])?,
                    name: text(node, &["givenName", "given_name", "name"])?,
                    online: node["online"].as_bool().unwrap_or_default(),
                    key: key_of(node),
                    addresses: texts(node, &["ipAddresses", "ip_addresses"]),
                    tags: texts(node, &["tags"]),
                })
            })
            .collect()
    }

    /// Returns its pre-auth keys.
    pub(crate) fn keys(&self) -> Result<Vec<Key>> {
        items(self.cli(&["preauthkeys", "list"])?, "preAuthKeys")?
            .iter()
            .map(|key| {
                let expires = match &key["expiration"] {
                    Value::String(time) => time.parse::<jiff::Timestamp>()?.as_second(),
                    other => other["seconds"]
                        .as_i64()
                        .context("a key without expiration")?,
                };
                Ok(Key {
                    id: text(key, &["id"])?,
                    expires,
                    used_up: key["used"] == true && key["reusable"] != true,
                })
            })
            .collect()
    }

    /// Waits until a node with that name is online.
    pub(crate) fn online(&self, name: &str, limit: Duration) -> Result<Node> {
        wait::until(&format!("node {name} is online"), limit, || {
            let nodes = self.nodes()?;
            let found = nodes.iter().find(|node| node.name == name && node.online);
            found
                .cloned()
                .with_context(|| format!("the server lists {nodes:?}"))
        })
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        wait::until("Headscale answers on its socket", START, || {
            self.process.check_alive()?;
            self.cli(&["users", "list"])
        })?;
        wait::until("Headscale listens", START, || {
            let (host, port) = self.address().split_once(':').context("no port")?;
            // bash speaks TCP itself, in the network of the server.
            let line = format!("exec 3<>/dev/tcp/{host}/{port}");
            output(self.place.command(Path::new("bash")).args(["-c", &line])).map(drop)
        })
    }
}

/// Returns the files of the database in a folder.
fn database(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("db.sqlite") {
            files.push(path);
        }
    }
    Ok(files)
}

fn copy_database(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for file in database(from)? {
        fs::copy(&file, to.join(file.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

fn serve(program: &Program, place: Place, folder: &Path) -> Result<Process> {
    let config = folder.join("config.yaml").display().to_string();
    Process::start(
        place,
        folder,
        "headscale",
        &program.path,
        &["serve".to_owned(), "--config".to_owned(), config],
    )
}

/// Returns the id of the key that a node joined with.
fn key_of(node: &Value) -> Option<String> {
    let key = ["preAuthKey", "pre_auth_key"]
        .into_iter()
        .find_map(|name| node.get(name))?;
    text(key, &["id"]).ok()
}

/// Returns the texts of the first of these fields that is present.
fn texts(value: &Value, names: &[&str]) -> Vec<String> {
    let found = names.iter().find_map(|name| value[*name].as_array());
    let texts = found.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// Returns the items of a list: bare before 0.30 (null when empty), possibly wrapped from then on.
fn items(mut value: Value, name: &str) -> Result<Vec<Value>> {
    if value.is_object() {
        value = value[name].take();
    }
    match value {
        Value::Array(items) => Ok(items),
        Value::Null => Ok(Vec::new()),
        other => bail!("want a list of {name}, got {other}"),
    }
}

/// Returns the first of these fields that is present; numbers of old versions become text as in new ones.
fn text(value: &Value, names: &[&str]) -> Result<String> {
    let inner = match value.as_object() {
        Some(object) if object.len() == 1 => object
            .values()
            .next()
            .filter(|inner| inner.is_object())
            .unwrap_or(value),
        _ => value,
    };
    let found = names.iter().find_map(|name| match &inner[*name] {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    ensure!(found.is_some(), "none of {names:?} in the server's answer");
    found.context("checked")
}
