//! A thousand services demanded at once, on a real Headscale: first keys per second compared with bare calls, and our memory.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use sidescale_core::objects::NewPreAuthKey;

use crate::Case;
use crate::faults::{Run, World};
use crate::support::context::Context;
use crate::support::headscale::Program;
use crate::support::levels::Level;

pub(crate) const CASES: &[Case] = &[Case {
    name: "rate::a_thousand_services_get_keys_as_fast_as_bare_calls_allow",
    needs: &[Level::Api, Level::Headscale],
    each: false,
    run: thousand,
}];

const SECRET: &str = "keys-rate";
const NAMESPACES: usize = 10;
const SERVICES: usize = 100;
/// Pairs of bare calls before and after ours: the machine may get slower in the meantime.
const BARE: usize = 100;
/// As in `src/controller/session.rs`.
const AT_ONCE: usize = 8;
/// Number of pods created and changed at a time.
const PODS_AT_ONCE: usize = 16;
/// Minimum ratio of our rate to that of bare calls.
const LEAST: f64 = 0.8;
const LIMIT: Duration = Duration::from_secs(600);
/// Number of changes to all pods, to see whether any memory is kept.
const WAVES: usize = 3;
/// Maximum difference in memory that counts as flat, in MiB.
const FLAT: f64 = 8.0;

fn thousand(context: &Context, program: Option<&Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let _entered = runtime.enter();
    let world = World::new(context, Some(program), "rate", &[SECRET.to_owned()])?;
    let demand = Demand {
        namespaces: (0..NAMESPACES).map(|n| format!("rate-{n}")).collect(),
        world: &world,
    };
    for namespace in &demand.namespaces {
        world.api.namespace(namespace, &json!({}))?;
    }
    let measured = runtime.block_on(demand.measure(&program.version));
    // The next test shares the cluster, and would create keys for them.
    runtime.block_on(demand.end())?;
    measured
}

/// A thousand services, in ten namespaces.
struct Demand<'a> {
    namespaces: Vec<String>,
    world: &'a World<'a>,
}

impl Demand<'_> {
    async fn measure(&self, version: &str) -> Result<()> {
        self.each(|namespace, service| async move {
            self.world.make_pod_in(&namespace, &service, SECRET).await
        })
        .await?;
        let before = self.bare("before").await?;
        let began = Instant::now();
        let product = self.world.start(&Run::of("rate", SECRET))?;
        let memory = Memory(product.pid()?);
        self.served().await?;
        let took = began.elapsed();
        let peak = memory.peak()?;
        let after = self.bare("after").await?;

        let all = NAMESPACES * SERVICES;
        let ours = rate(all, took);
        let bare = rate(2 * BARE, before + after);
        println!(
            "Headscale {version}: {all} services: {ours:.1} first keys/s from the start of the process on; bare CreateUser + \
             CreatePreAuthKey, {AT_ONCE} at a time: {bare:.1} pairs/s ({:.1} before, {:.1} after); ratio {:.2}",
            rate(BARE, before),
            rate(BARE, after),
            ours / bare
        );
        let alive = self.world.alive().await?.len();
        ensure!(
            alive == all + 2 * BARE,
            "{alive} keys are alive: want one for each service, and those of the bare calls"
        );
        self.stays_flat(&memory, peak).await?;
        ensure!(
            ours >= LEAST * bare,
            "{ours:.1} keys/s: want {LEAST} of {bare:.1}"
        );
        Ok(())
    }

    /// Waits until every service has its key.
    async fn served(&self) -> Result<()> {
        let began = Instant::now();
        for namespace in &self.namespaces {
            let secrets: Api<Secret> = Api::namespaced(self.world.admin.clone(), namespace);
            loop {
                let data = secrets
                    .get_opt(SECRET)
                    .await?
                    .and_then(|secret| secret.data);
                let keys = data.iter().flatten().filter(|(data_key, value)| {
                    data_key.ends_with("-authkey") && !value.0.is_empty()
                });
                let keys = keys.count();
                if keys == SERVICES {
                    break;
                }
                ensure!(began.elapsed() < LIMIT, "{namespace} has {keys} keys");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    /// Creates users and keys with only our client.
    async fn bare(&self, when: &str) -> Result<Duration> {
        let control_plane = &self.world.control_plane;
        let began = Instant::now();
        stream::iter(0..BARE)
            .map(|n| async move {
                let user = control_plane
                    .create_user(&format!("bare-{when}-{n}"), "bare")
                    .await?;
                let key = NewPreAuthKey {
                    user: user.id,
                    reusable: true,
                    ephemeral: true,
                    expiration: Timestamp::now() + SignedDuration::from_hours(1),
                    tags: Vec::new(),
                };
                control_plane.create_pre_auth_key(&key).await
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(began.elapsed())
    }

    /// Changes all pods repeatedly, in a way that moves the due time and creates no key.
    async fn stays_flat(&self, memory: &Memory, peak: f64) -> Result<()> {
        let first = memory.at_rest().await?;
        let mut last = first;
        for wave in 1..=WAVES {
            let annotations =
                json!({"sidescale.io/auth-key-rotation-buffer": format!("{}h", 240 + wave)});
            self.each(|namespace, service| {
                let annotations = annotations.clone();
                async move {
                    let world = self.world;
                    world
                        .annotate_pod_in(&namespace, &service, &annotations)
                        .await
                }
            })
            .await?;
            last = memory.at_rest().await?;
        }
        println!(
            "memory (RSS): {peak:.1} MiB at the peak, {first:.1} MiB with all keys, {last:.1} MiB after {WAVES} changes of \
             all pods"
        );
        ensure!(
            last <= first + FLAT,
            "memory grew from {first:.1} to {last:.1} MiB"
        );
        Ok(())
    }

    /// Does the work for each service.
    async fn each<F>(&self, work: impl Fn(String, String) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let services = (0..SERVICES).flat_map(|n| {
            let namespaces = self.namespaces.iter();
            namespaces.map(move |namespace| (namespace.clone(), format!("s{n}")))
        });
        stream::iter(services)
            .map(|(namespace, service)| work(namespace, service))
            .buffer_unordered(PODS_AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await
    }

    async fn end(&self) -> Result<()> {
        for namespace in &self.namespaces {
            let (how, all) = (DeleteParams::default(), ListParams::default());
            let pods: Api<Pod> = Api::namespaced(self.world.admin.clone(), namespace);
            pods.delete_collection(&how, &all).await?;
            let secrets: Api<Secret> = Api::namespaced(self.world.admin.clone(), namespace);
            secrets.delete_collection(&how, &all).await?;
        }
        Ok(())
    }
}

/// Memory of a process, as the kernel counts it.
struct Memory(u32);

impl Memory {
    /// Returns its peak, in MiB.
    fn peak(&self) -> Result<f64> {
        self.read("VmHWM:")
    }

    /// Returns its value when the process is idle, in MiB.
    async fn at_rest(&self) -> Result<f64> {
        /// Ticks of 10 ms per second that still count as idle.
        const IDLE: u64 = 5;
        let began = Instant::now();
        let mut used = self.ticks()?;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.ticks()?;
            if now - used <= IDLE {
                return self.read("VmRSS:");
            }
            ensure!(began.elapsed() < LIMIT, "it is always busy");
            used = now;
        }
    }

    fn read(&self, name: &str) -> Result<f64> {
        let status = std::fs::read_to_string(self.file("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.split_whitespace().next());
        let kibibytes: f64 = value.with_context(|| format!("no {name}"))?.parse()?;
        Ok(kibibytes / 1024.0)
    }

    /// Returns the processor time so far.
    fn ticks(&self) -> Result<u64> {
        let stat = std::fs::read_to_string(self.file("stat"))?;
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        let times = fields.split_whitespace().skip(11).take(2);
        times.map(|ticks| Ok(ticks.parse::<u64>()?)).sum()
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }
}

fn rate(count: usize, took: Duration) -> f64 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    f64::from(count) / took.as_secs_f64()
}
