//! `sidescale apikey-manager` on a real Headscale's socket and a real API server, under the chart's Role.

use std::{
    path::{Path, PathBuf},
    sync::MutexGuard,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};
use sidescale_control_plane::{ApiKeyClient, Endpoint};
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::ApiKey;
use tokio::runtime::Runtime;

use crate::{
    Case,
    chart::Release,
    support::{
        api::{self, free_ports, kubeconfig},
        context::Context,
        headscale::{Headscale, Program},
        levels::Level,
        processes::{Place, Process},
        product::label,
        wait,
    },
};

mod kill;
mod policy;

use kill::During;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "manager::it_makes_keeps_and_renews_the_key",
        needs: &[Level::Api, Level::Headscale],
        each: true,
        run: life,
    },
    Case {
        name: "manager::killed_after_any_answer_one_live_key_is_left",
        needs: &[Level::Api, Level::Headscale],
        each: false,
        run: kill::after_any_answer,
    },
    Case {
        name: "manager::its_account_writes_no_other_secret",
        needs: &[Level::Api],
        each: false,
        run: policy::denies,
    },
];

const SECRET: &str = "headscale-api-key";
const EXPIRATION: &str = "api-key.headscale.infrado.cloud/expiration";
const CREATED_AT: &str = "api-key.headscale.infrado.cloud/created-at";
/// Time for the manager to read the Secret between two checks, on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// A Headscale, its namespace with the chart's Role, and a kubeconfig of its account.
struct World<'a> {
    api: MutexGuard<'a, api::ControlPlane>,
    _release: Release,
    program: Program,
    headscale: Option<Headscale>,
    address: String,
    folder: PathBuf,
    namespace: String,
    token: String,
    runtime: Runtime,
}

impl<'a> World<'a> {
    fn new(context: &'a Context, program: &Program, test: &str) -> Result<Self> {
        let api = context.api()?;
        let name = label(test, program);
        let folder = context.folder.inner(&name)?;
        let release = Release::install(context, &api, &name)?;
        let namespace = format!("{name}-headscale");
        api.kubectl().apply(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "headscale", "namespace": namespace},
        }))?;
        let token = ["create", "token", "headscale", "--namespace", &namespace];
        let token = api.kubectl().run(&token)?.trim().to_owned();
        let [port] = free_ports()?;
        Ok(Self {
            api,
            _release: release,
            program: program.clone(),
            headscale: None,
            address: format!("127.0.0.1:{port}"),
            folder,
            namespace,
            token,
            runtime: Runtime::new()?,
        })
    }

    fn start_headscale(&mut self) -> Result<()> {
        let (program, folder) = (&self.program, &self.folder);
        let started = Headscale::start(program, Place::Host, folder, &self.address)?;
        self.headscale = Some(started);
        Ok(())
    }

    fn server(&self) -> Result<String> {
        let path = self.api.kubectl().kubeconfig();
        let config: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        let server = config["clusters"][0]["cluster"]["server"].as_str();
        Ok(server.context("no server")?.to_owned())
    }

    /// Starts the manager with its five flags, and some more.
    fn start(&self, name: &str, more: &[&str]) -> Result<Process> {
        self.start_at(name, &self.server()?, more)
    }

    fn start_at(&self, name: &str, server: &str, more: &[&str]) -> Result<Process> {
        let kubeconfig_path = self.folder.join(format!("{name}.conf"));
        std::fs::write(&kubeconfig_path, kubeconfig(server, &self.token))?;
        let mut arguments = vec![
            "apikey-manager".to_owned(),
            format!(
                "--socket-path={}",
                self.folder.join("headscale.sock").display()
            ),
            format!("--namespace={}", self.namespace),
            format!("--kubeconfig={}", kubeconfig_path.display()),
            "--pod-name=headscale-0".to_owned(),
        ];
        for flag in [
            "--secret-name=headscale-api-key",
            "--expiration=2160h",
            "--rotation-buffer=240h",
        ] {
            let key = flag.split_once('=').map_or(flag, |(key, _)| key);
            if !more.iter().any(|given| given.starts_with(key)) {
                arguments.push(flag.to_owned());
            }
        }
        arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
        let program = Path::new(env!("CARGO_BIN_EXE_sidescale"));
        Process::start(Place::Host, &self.folder, name, program, &arguments)
    }

    fn secret(&self) -> Result<Value> {
        let kubectl = self.api.kubectl();
        kubectl.json(&["get", "secret", SECRET, "--namespace", &self.namespace])
    }

    fn key(&self) -> Result<String> {
        let secret = self.secret()?;
        let encoded = secret["data"]["api-key"].as_str().context("no key yet")?;
        Ok(String::from_utf8(STANDARD.decode(encoded)?)?)
    }

    /// Waits until the Secret has a key other than `but`, and returns it.
    fn new_key(&self, but: &str) -> Result<String> {
        wait::until("a new key", LIMIT, || {
            let key = self.key()?;
            ensure!(key != but, "still the old one");
            Ok(key)
        })
    }

    /// Returns all API keys, listed over TCP with this one.
    fn list(&self, key: &str) -> Result<Vec<ApiKey>> {
        let client = self.client(key)?;
        Ok(self.runtime.block_on(client.list())?)
    }

    fn client(&self, key: &str) -> Result<ApiKeyClient> {
        Ok(ApiKeyClient::new(Endpoint {
            name: "test".into(),
            api_url: format!("http://{}", self.address),
            api_key: KeyValue::new(key.to_owned()),
            ca_bundle: None,
            allow_insecure: true,
        })?)
    }

    fn live(&self, key: &str) -> Result<usize> {
        let now = Timestamp::now();
        let rows = self.list(key)?;
        let live = rows
            .iter()
            .filter(|row| row.expiration.is_some_and(|end| now < end));
        Ok(live.count())
    }

    /// Waits until exactly one key is alive, the one in the Secret, and returns it.
    fn one_live_key(&self) -> Result<String> {
        wait::until("one live key", LIMIT, || {
            let key = self.key()?;
            let live = self.live(&key)?;
            ensure!(live == 1, "{live} live keys");
            Ok(key)
        })
    }

    fn says(&self, process: &Process, words: &[&str]) -> Result<()> {
        wait::until("the log says so", LIMIT, || {
            let log = process.log();
            let line = log
                .lines()
                .find(|line| words.iter().all(|word| line.contains(word)));
            line.map(drop)
                .with_context(|| format!("no line with {words:?} in\n{log}"))
        })
    }

    fn annotation(&self, name: &str) -> Result<Timestamp> {
        let path = format!(
            "jsonpath={{.metadata.annotations.{}}}",
            name.replace('.', "\\.")
        );
        let arguments = [
            "get",
            "secret",
            SECRET,
            "--namespace",
            &self.namespace,
            "--output",
            &path,
        ];
        Ok(self.api.kubectl().run(&arguments)?.parse()?)
    }
}

fn life(context: &Context, program: Option<&Program>) -> Result<()> {
    let mut world = World::new(context, program.context("runs for a Headscale")?, "manager")?;
    let mut manager = world.start("first", &[])?;
    world.says(
        &manager,
        &["Waiting for Headscale to be ready", "\"attempt\":1"],
    )?;
    ensure!(world.secret().is_err(), "a Secret before Headscale");
    world.start_headscale()?;
    let ready = Instant::now();
    let key = world.new_key("")?;
    println!(
        "Headscale {} ready -> API key in its Secret: {:?}",
        world.program.version,
        ready.elapsed()
    );
    ensure!(world.live(&key)? == 1, "another key");
    let life = world
        .annotation(EXPIRATION)?
        .duration_since(world.annotation(CREATED_AT)?);
    ensure!((life.as_secs() - 2160 * 3600).abs() <= 1, "it lives {life}");
    let listed = world.list(&key)?;
    let end = listed
        .first()
        .and_then(|row| row.expiration)
        .context("no end")?;
    let stated = world.annotation(EXPIRATION)?;
    ensure!(
        end.duration_since(stated).abs().as_secs() <= 1,
        "{stated} is not {end}"
    );
    world.says(
        &manager,
        &[
            "Checked the API key",
            "\"remaining\":\"90d\"",
            "renewed",
            "\"due\"",
        ],
    )?;
    let began = Instant::now();
    manager.stop(Duration::from_secs(10))?;
    ensure!(
        began.elapsed() < Duration::from_secs(5),
        "SIGTERM took {:?}",
        began.elapsed()
    );
    restarts(&world, &key)?;
    renewals(&world)?;
    foreign(&world)?;
    rights(&world)
}

/// Checks that restarts leave a valid key unchanged.
fn restarts(world: &World<'_>, key: &str) -> Result<()> {
    for round in 0..3 {
        let name = format!("restart-{round}");
        let manager = world.start(&name, &[])?;
        world.says(&manager, &["Checked the API key", "no rotation needed"])?;
        ensure!(
            world.key()? == key && world.live(key)? == 1,
            "a key was made"
        );
    }
    Ok(())
}

/// A lifetime of seconds: the current value of the Secret is never refused.
fn renewals(world: &World<'_>) -> Result<()> {
    // The long-lived key is not due; one that is due replaces it.
    world.prepare(During::FirstKey)?;
    let flags = ["--expiration=16s", "--rotation-buffer=10s", "--overlap=2s"];
    let _manager = world.start("short", &flags)?;
    let (began, mut uses, mut keys) = (Instant::now(), 0, std::collections::BTreeSet::new());
    world.new_key("")?;
    while began.elapsed() < Duration::from_secs(60) && keys.len() < 6 {
        let key = world.key()?;
        world
            .list(&key)
            .with_context(|| format!("refused after {uses} uses"))?;
        uses += 1;
        keys.insert(key);
    }
    println!("{uses} uses of {} keys of 16 s: 0 refused", keys.len());
    ensure!(keys.len() >= 4, "only {} renewals in a minute", keys.len());
    let last = world.key()?;
    world.new_key(&last)?;
    wait::until("old keys are refused", LIMIT, || {
        for key in &keys {
            ensure!(world.list(key).is_err(), "an old key is good");
        }
        Ok(())
    })
}

/// A Secret of someone else stays unchanged until it is handed over; after deletion, it is created again.
fn foreign(world: &World<'_>) -> Result<()> {
    let kubectl = world.api.kubectl();
    let own = ["--namespace", world.namespace.as_str()];
    world.prepare(During::FirstKey)?;
    kubectl.run(
        &[
            &[
                "create",
                "secret",
                "generic",
                SECRET,
                "--from-literal=password=theirs",
            ],
            &own[..],
        ]
        .concat(),
    )?;
    let before = world.secret()?;
    let manager = world.start("foreign", &[])?;
    world.says(
        &manager,
        &[
            "it is not written",
            "sidescale.io/adopt=true",
            &world.namespace,
        ],
    )?;
    ensure!(world.secret()? == before, "it was written");
    kubectl.run(
        &[
            &["annotate", "secret", SECRET, "sidescale.io/adopt=true"],
            &own[..],
        ]
        .concat(),
    )?;
    let key = world.new_key("")?;
    ensure!(
        world.secret()?["data"]["password"].is_string(),
        "other data is lost"
    );
    let deleted = Instant::now();
    kubectl.run(&[&["delete", "secret", SECRET], &own[..]].concat())?;
    let again = wait::until("the key is there again", LIMIT, || world.key())?;
    ensure!(again == key, "a key was made within an hour of another");
    println!("Secret deleted -> there again: {:?}", deleted.elapsed());
    world.one_live_key().map(drop)
}

/// Without its rights it reports which, creates no key, and keeps running.
fn rights(world: &World<'_>) -> Result<()> {
    let before = world.list(&world.key()?)?.len();
    let mut manager = world.start("rights", &["--secret-name=another"])?;
    let account = format!("system:serviceaccount:{}:headscale", world.namespace);
    world.says(
        &manager,
        &[
            "get",
            "another",
            &world.namespace,
            &account,
            "headscale.serviceAccount",
        ],
    )?;
    wait::until("it tries again", LIMIT, || {
        let tries = manager.log().matches("API key check failed").count();
        ensure!(tries >= 3, "{tries} tries");
        Ok(())
    })?;
    manager.check_alive()?;
    ensure!(world.list(&world.key()?)?.len() == before, "a key was made");
    let can = |what: &str| {
        let arguments = ["auth", "can-i", what.split(' ').next().unwrap_or_default()];
        let rest: Vec<&str> = what.split(' ').skip(1).collect();
        let user = format!("--as={account}");
        let more = ["--namespace", &world.namespace, &user];
        world
            .api
            .kubectl()
            .run(&[&arguments[..], &rest, &more].concat())
            .is_ok()
    };
    for may in [
        "create secrets",
        "update secret/headscale-api-key",
        "get secret/headscale-api-key",
    ] {
        ensure!(can(may), "{may}");
    }
    for may_not in [
        "get secret/other",
        "list secrets",
        "watch secrets",
        "delete secret/headscale-api-key",
    ] {
        ensure!(!can(may_not), "{may_not}");
    }
    Ok(())
}
