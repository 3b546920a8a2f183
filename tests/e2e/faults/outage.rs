//! Headscale or the API server dies under a running product and comes back: no key in use expires, and two log lines report it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sidescale_core::id::Id;
use sidescale_rotation::record::KeyRecord;

use super::{Minting, Run, World, page};
use crate::support::api::free_ports;
use crate::support::context::Context;
use crate::support::headscale::Program;
use crate::support::metrics;
use crate::support::processes::Process;
use crate::support::product::label;

/// Secrets of other tests may hold keys of other servers.
const SECRET: &str = "keys-outage";
const LIMIT: Duration = Duration::from_secs(120);
/// Failed connections that are required before the server comes back.
const TRIES: f64 = 4.0;

pub(super) fn of_headscale(context: &Context, program: Option<&Program>) -> Result<()> {
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let program = program.context("runs for a Headscale")?;
    let name = label("away", program);
    let mut world = World::new(context, Some(program), &name, &[SECRET.to_owned()])?;
    let product = Product::start(&world)?;
    runtime.block_on(async {
        settled(&world, "web", None).await?;
        headscale(&mut world)?.kill();
        // A key becomes due and a service is new while no key can be created.
        let (issued, old) = world.key(SECRET, "web").await?.context("no key")?;
        world
            .make_due("web", issued.created, issued.created)
            .await?;
        world.make_pod("late", SECRET).await?;
        until("it is tried again and again", async || {
            let calls = "sidescale_control_plane_calls_total";
            let failed = metrics::sum(
                &page(product.admin, "/metrics")?,
                calls,
                &["result=\"unreachable\""],
            )?;
            ensure!(failed >= TRIES, "{failed} calls met nobody");
            Ok(())
        })
        .await?;
        let (still, value) = world.key(SECRET, "web").await?.context("no key")?;
        ensure!(still == issued && value == old, "the key was touched");

        headscale(&mut world)?.start_again()?;
        settled(&world, "web", Some(&old)).await?;
        settled(&world, "late", None).await?;
        product.said("Control plane unavailable", "Control plane available again")
    })
}

/// The database is lost: new keys get the ids of the old ones, and must not be taken for them.
pub(super) fn of_all_that_headscale_knew(
    context: &Context,
    program: Option<&Program>,
) -> Result<()> {
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let program = program.context("runs for a Headscale")?;
    let name = label("anew", program);
    let mut world = World::new(context, Some(program), &name, &[SECRET.to_owned()])?;
    let _product = Product::start(&world)?;
    let services = ["web", "api", "db"];
    runtime.block_on(async {
        for service in &services[1..] {
            world.make_pod(service, SECRET).await?;
        }
        let mut old = Vec::new();
        for service in services {
            settled(&world, service, None).await?;
            old.push(world.key(SECRET, service).await?.context("no key")?);
        }
        // One was just replaced: its predecessor is to be expired in a few seconds, by its id.
        let created = old[0].0.created;
        world.make_due("web", created, created).await?;
        settled(&world, "web", Some(&old[0].1)).await?;
        old[0] = world.key(SECRET, "web").await?.context("no key")?;
        headscale(&mut world)?.kill();
        headscale(&mut world)?.forget()?;
        headscale(&mut world)?.start_again()?;
        let api_key = headscale(&mut world)?.create_api_key()?;
        world.replace_api_key(api_key)?;

        until("each service has a new key", async || {
            let mut named = BTreeSet::new();
            for (service, (_, old)) in services.iter().zip(&old) {
                let (issued, value) = world.key(SECRET, service).await?.context("no key")?;
                if value != *old {
                    named.insert(issued.id);
                }
            }
            let alive = world.alive().await?;
            if let Some(dead) = named.iter().find(|id| !alive.contains(id)) {
                return Err(Dead(dead.0).into());
            }
            ensure!(
                named.len() == services.len() && alive == named,
                "new in the Secret: {named:?}, alive: {alive:?}"
            );
            let record = world.record(SECRET).await?;
            let settled = |key: &KeyRecord| key.previous.is_empty() && key.intent.is_none();
            ensure!(
                record.keys.values().all(settled),
                "old keys are still to be ended"
            );
            Ok(())
        })
        .await
    })
}

pub(super) fn of_the_api_server(context: &Context, _: Option<&Program>) -> Result<()> {
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let preferred = context.preferred();
    let mut world = World::new(context, preferred, "apiless", &[SECRET.to_owned()])?;
    let product = Product::start(&world)?;
    runtime.block_on(async {
        settled(&world, "web", None).await?;
        let (issued, old) = world.key(SECRET, "web").await?.context("no key")?;
        // Due while the API server is away.
        let due = Timestamp::now() + SignedDuration::from_secs(5);
        world.make_due("web", issued.created, due).await?;
        world.api.kill_api();
        until("the key was due for a while", async || {
            let alive = world.alive().await?;
            if !alive.contains(&issued.id) {
                return Err(Dead(issued.id.0).into());
            }
            ensure!(
                Timestamp::now() > due + SignedDuration::from_secs(15),
                "not yet"
            );
            Ok(())
        })
        .await?;
        world.api.start_api()?;
        settled(&world, "web", Some(&old)).await?;
        world.make_pod("late", SECRET).await?;
        settled(&world, "late", None).await?;
        product.said("API server unavailable", "API server available again")
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

fn headscale<'w>(world: &'w mut World<'_>) -> Result<&'w mut crate::support::headscale::Headscale> {
    match &mut world.minting {
        Minting::Real(headscale) => Ok(headscale),
        Minting::Embedded { .. } => bail!("no real Headscale"),
    }
}

/// The running process, with a pod of one service.
struct Product {
    process: Process,
    admin: u16,
}

impl Product {
    fn start(world: &World<'_>) -> Result<Self> {
        let [admin] = free_ports()?;
        tokio::runtime::Handle::current().block_on(world.make_pod("web", SECRET))?;
        let process = world.start(&Run {
            admin,
            ..Run::of("one", SECRET)
        })?;
        Ok(Self { process, admin })
    }

    /// Checks that the whole log has one warning, and one line that it is over.
    ///
    /// An API server that has just started refuses everyone until it has read its rules: that is logged as well.
    fn said(&self, warning: &str, recovery: &str) -> Result<()> {
        let log = self.process.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<Value> = lines.collect();
        let begins = |line: &&Value, text: &str| {
            let message = line["message"].as_str();
            message.is_some_and(|message| message.starts_with(text))
        };
        let refused = |line: &&Value| {
            let text = line["error"].as_str();
            text.is_some_and(|text| text.contains(" is forbidden: "))
        };
        let warnings: Vec<&Value> = lines
            .iter()
            .filter(|line| line["level"] != "INFO" && !refused(line))
            .collect();
        ensure!(
            warnings.len() == 1 && warnings.iter().all(|line| begins(line, warning)),
            "want {warning:?} once, got {warnings:#?}"
        );
        let recoveries = lines.iter().filter(|line| begins(line, recovery)).count();
        ensure!(
            recoveries == 1,
            "{recovery:?} stands there {recoveries} times"
        );
        Ok(())
    }
}

/// Waits until the service has a key, other than the old one, that the control plane would accept.
async fn settled(world: &World<'_>, service: &str, old: Option<&[u8]>) -> Result<()> {
    until(&format!("{service} has its key"), async || {
        let key = world.key(SECRET, service).await?;
        let (issued, value) = key.context("no key")?;
        ensure!(
            !value.is_empty() && Some(value.as_slice()) != old,
            "the old key"
        );
        // Listed after the Secret was read, and the overlap is seconds: the key that it names has to be alive.
        let alive = world.alive().await?;
        if !alive.contains(&issued.id) {
            return Err(Dead(issued.id.0).into());
        }
        Ok(())
    })
    .await
}

/// A key in a Secret has expired: waiting for another does not help.
#[derive(Debug, thiserror::Error)]
#[error("key {0} stands in the Secret and has ended")]
struct Dead(Id);

async fn until(what: &str, ask: impl AsyncFn() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(()) => return Ok(()),
            Err(error) if error.is::<Dead>() || began.elapsed() > LIMIT => {
                return Err(error.context(what.to_owned()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
