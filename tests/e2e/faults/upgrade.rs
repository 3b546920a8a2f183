//! A rolling upgrade while new services arrive: the Lease is handed over at SIGTERM, and first keys continue to be created.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::{Run, World, page};
use crate::support::api::free_ports;
use crate::support::context::Context;
use crate::support::headscale::Program;
use crate::support::processes::Process;

const SECRET: &str = "keys-upgrade";
const LEASE: &str = "upgrade";
/// As in the chart.
const REPLICAS: usize = 3;
/// Interval between new services.
const EVERY: Duration = Duration::from_millis(250);
/// Longest time without a first key.
const MOST: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(90);

struct Replica {
    name: String,
    process: Process,
}

/// Services as they arrive, and their keys as they are created.
#[derive(Default)]
struct Services {
    arrived: Mutex<BTreeMap<String, Instant>>,
    served: Mutex<BTreeMap<String, Instant>>,
    enough: CancellationToken,
}

pub(super) fn while_services_arrive(context: &Context, _: Option<&Program>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let _entered = runtime.enter();
    let world = World::new(
        context,
        context.preferred(),
        "upgrade",
        &[SECRET.to_owned()],
    )?;
    let services = Services::default();
    let mut old = (0..REPLICAS)
        .map(|n| runtime.block_on(Replica::start(&world, format!("old-{n}"))))
        .collect::<Result<Vec<_>>>()?;
    let (began, _new) = runtime.block_on(async {
        world.make_pod("before", SECRET).await?;
        until("somebody makes keys", async || {
            world
                .key(SECRET, "before")
                .await?
                .context("no key")
                .map(drop)
        })
        .await?;
        let began = Instant::now();
        let rolled = async {
            let new = roll(&world, &mut old, &services).await;
            services.enough.cancel();
            new
        };
        let (arrived, served, new) =
            tokio::join!(services.arrive(&world), services.serve(&world), rolled);
        arrived?;
        // A failed upgrade is the reason for missing keys.
        let new = new?;
        served?;
        anyhow::Ok((began, new))
    })?;
    for replica in &mut old {
        let status = replica.process.ended(LIMIT)?;
        ensure!(status.success(), "{} ended with {status}", replica.name);
    }
    services.judge(began)
}

/// Replaces one replica after the other as a Deployment does: the new one is ready, then an old one gets SIGTERM.
///
/// A Deployment does not wait for the next leader, which makes it easier: a process that has just started takes a free Lease
/// at once, while waiting ones have to notice.
async fn roll(world: &World<'_>, old: &mut [Replica], services: &Services) -> Result<Vec<Replica>> {
    let mut new = Vec::new();
    let mut staying: Vec<&mut Replica> = old.iter_mut().collect();
    let mut handed_on = 0;
    for n in 0..REPLICAS {
        new.push(Replica::start(world, format!("new-{n}")).await?);
        // The worst case: always the leader.
        let (holder, renewed) = lease(world).await?;
        let leads = |replica: &&mut Replica| holder.as_ref() == Some(&replica.name);
        let leader = staying.iter().position(leads);
        let leaving = staying.swap_remove(leader.unwrap_or_default());
        leaving.process.signal(Signal::TERM)?;
        let last = Instant::now();
        if leader.is_some() {
            released(world, &leaving.name, renewed).await?;
            handed_on += 1;
        }
        until(
            "a service that came after SIGTERM has its key",
            async || {
                let (arrived, served) = (lock(&services.arrived), lock(&services.served));
                let late = arrived.iter().filter(|(_, at)| **at > last);
                let mut late = late.map(|(service, _)| served.contains_key(service));
                ensure!(late.any(|served| served), "none has");
                Ok(())
            },
        )
        .await?;
    }
    ensure!(handed_on > 0, "none of the old replicas led");
    Ok(new)
}

/// Waits until the Lease is no longer that replica's, which has to be before it would have expired.
async fn released(world: &World<'_>, name: &str, renewed: Option<Timestamp>) -> Result<()> {
    /// Lease duration in `src/leader.rs`.
    const HELD: SignedDuration = SignedDuration::from_secs(6);
    let mut renewed = renewed.context("a Lease without a time")?;
    loop {
        let (holder, at) = lease(world).await?;
        let left = renewed + HELD - Timestamp::now();
        ensure!(
            left.total(jiff::Unit::Second)? > 0.0,
            "{name} still had the Lease when it ran out"
        );
        if holder.as_deref() != Some(name) {
            return Ok(());
        }
        renewed = at.unwrap_or(renewed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn lease(world: &World<'_>) -> Result<(Option<String>, Option<Timestamp>)> {
    let leases: Api<Lease> = Api::namespaced(world.admin.clone(), &world.release.name);
    let spec = leases.get(LEASE).await?.spec.context("an empty Lease")?;
    Ok((spec.holder_identity, spec.renew_time.map(|time| time.0)))
}

impl Replica {
    /// Starts one and waits until a Service would send requests to it.
    async fn start(world: &World<'_>, name: String) -> Result<Self> {
        let [admin] = free_ports()?;
        let process = world.start(&Run {
            lease: LEASE,
            admin,
            // As shipped.
            drain: "10s",
            ..Run::of(&name, SECRET)
        })?;
        until(&format!("{name} is ready"), async || {
            let answer = page(admin, "/readyz")?;
            ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            Ok(())
        })
        .await?;
        Ok(Self { name, process })
    }
}

impl Services {
    /// Creates the first pod of one service after the other, until there are enough.
    async fn arrive(&self, world: &World<'_>) -> Result<()> {
        let mut pace = tokio::time::interval(EVERY);
        for n in 0.. {
            tokio::select! {
                _ = pace.tick() => {}
                () = self.enough.cancelled() => return Ok(()),
            }
            let service = format!("s{n}");
            world.make_pod(&service, SECRET).await?;
            lock(&self.arrived).insert(service, Instant::now());
        }
        Ok(())
    }

    /// Records when each gets its key, until all have one.
    async fn serve(&self, world: &World<'_>) -> Result<()> {
        until("all have their keys", async || {
            let data = world.secret(SECRET).await?.and_then(|secret| secret.data);
            let now = Instant::now();
            let mut served = lock(&self.served);
            for (data_key, _) in data
                .iter()
                .flatten()
                .filter(|(_, value)| !value.0.is_empty())
            {
                if let Some(service) = data_key.strip_suffix("-authkey") {
                    served.entry(service.to_owned()).or_insert(now);
                }
            }
            let arrived = lock(&self.arrived);
            let waiting = arrived
                .keys()
                .filter(|service| !served.contains_key(*service));
            let waiting = waiting.count();
            ensure!(self.enough.is_cancelled(), "there are more to come");
            ensure!(waiting == 0, "{waiting} wait");
            Ok(())
        })
        .await
    }

    /// Prints the longest time without a first key, and the longest that a service waited.
    fn judge(&self, began: Instant) -> Result<()> {
        let (arrived, served) = (lock(&self.arrived), lock(&self.served));
        let mut times: Vec<Instant> = served.values().copied().collect();
        times.push(began);
        times.retain(|at| *at >= began);
        times.sort();
        let gaps = times.iter().zip(times.iter().skip(1));
        let gap = gaps.map(|(one, next)| next.duration_since(*one)).max();
        let gap = gap.context("no keys were made")?;
        let waits = arrived.iter().filter_map(|(service, arrived)| {
            let served = served.get(service)?;
            Some(served.duration_since(*arrived))
        });
        println!(
            "rolling upgrade of {REPLICAS} replicas, {} new services: longest gap in first mints {gap:.1?}, longest wait for \
             a key {:.1?}",
            arrived.len(),
            waits.max().unwrap_or_default()
        );
        ensure!(gap < MOST, "nobody made keys for {gap:?}");
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn until(what: &str, ask: impl AsyncFn() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > LIMIT => return Err(error.context(what.to_owned())),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
