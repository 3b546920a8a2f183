//! Two processes that both act, because neither has a right to the Lease: one key for each service, and no extra ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::story::Story;
use super::{Run, World};
use crate::support::context::Context;
use crate::support::headscale::Program;
use crate::support::processes::Process;
use crate::support::proxy::{self, Ledger, Server};

const SECRET: &str = "keys-pair";
const SERVICES: usize = 10;
/// Far below the two minutes for which a process without a Lease leaves the intent of another alone.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn without_a_lease(context: &Context, _: Option<&Program>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let _entered = runtime.enter();
    let world = World::new(context, context.preferred(), "pair", &[SECRET.to_owned()])?;
    world.take_right("leases")?;
    let ledger = Arc::<Ledger>::default();
    let one = start(&world, &ledger, "one")?;
    let two = start(&world, &ledger, "two")?;
    runtime.block_on(async {
        for process in [&one, &two] {
            until("both act", async || {
                let log = process.log();
                ensure!(log.contains("Lease unavailable"), "it has the Lease");
                ensure!(log.contains("Rotating keys"), "it does not act");
                Ok(())
            })
            .await?;
        }
        let services: Vec<String> = (0..SERVICES).map(|n| format!("s{n}")).collect();
        // Half of them one after the other, half at once: both processes see them at the same time either way.
        let (single, together) = services.split_at(SERVICES / 2);
        for (n, service) in single.iter().enumerate() {
            world.make_pod(service, SECRET).await?;
            settled(&ledger, &services[..=n], 1).await?;
        }
        for service in together {
            world.make_pod(service, SECRET).await?;
        }
        let first = settled(&ledger, &services, 1).await?;
        for service in &services {
            let key = world.key(SECRET, service).await?;
            let created = key.context("no key")?.0.created;
            world.make_due(service, created, created).await?;
        }
        let second = settled(&ledger, &services, 2).await?;
        println!(
            "{SERVICES} services, two processes: {} keys for {SERVICES} first mints, {} for as many renewals; most too \
             many at a time: {}",
            first.made.len(),
            second.made.len() - first.made.len(),
            second.most_orphans
        );
        // Each respects the other's intents: no key is created twice.
        let (made, wanted) = (second.made.len() - second.late.len(), 2 * SERVICES);
        ensure!(
            made <= wanted + 1,
            "{made} keys were made for {wanted}: {:?}",
            second.of_user
        );
        let alive = world.alive().await?;
        ensure!(
            alive == second.settled(&services)?,
            "the server says alive: {alive:?}"
        );
        Ok(())
    })
}

fn start(world: &World<'_>, ledger: &Arc<Ledger>, name: &str) -> Result<Process> {
    let to = |server, upstream| proxy::start(server, upstream, Arc::clone(ledger));
    world.start(&Run {
        kubernetes: Some(to(Server::Kubernetes, world.to_kubernetes()?)?),
        headscale: Some(to(Server::Headscale, world.to_headscale()?)?),
        ..Run::of(name, SECRET)
    })
}

/// Waits until each service has had so many keys and has one, and no other key is alive.
async fn settled(ledger: &Ledger, services: &[String], keys: usize) -> Result<Story> {
    until("one key for each service", async || {
        let story = Story::read(&ledger.exchanges(), SECRET)?;
        let made = story.made.len();
        ensure!(made >= keys * services.len(), "{made} keys were made");
        story.settled(services)?;
        Ok(story)
    })
    .await
}

async fn until<T>(what: &str, ask: impl AsyncFn() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if began.elapsed() > LIMIT => {
                return Err(error.context(format!("{what}: not within {LIMIT:?}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
