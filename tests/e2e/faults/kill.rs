//! SIGKILL after the n-th answer of either server, for every n of a first key's creation and of a renewal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::sync::Semaphore;

use super::story::Story;
use super::{Run, World};
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::processes::Process;
use crate::support::proxy::{self, Exchange, Ledger, Server, Trap};

/// An intent is respected for 15 s, and its key is searched for 15 s after that.
const LIMIT: Duration = Duration::from_secs(150);
/// Without any exchange for this long, no more will follow.
const CALM: Duration = Duration::from_secs(2);
/// Concurrent processes: they spend most of their time waiting.
const AT_ONCE: usize = 16;
/// Names are assigned before the required number is known.
const MOST: usize = 100;

/// Activity of the product when it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum During {
    /// From its start to its first key, and the following pass over all keys.
    FirstMint,
    /// From when a key is due until the old one has expired.
    Renewal,
}

/// One product with its proxies, its service and its Secret.
struct Life {
    name: String,
    secret: String,
    ledger: Arc<Ledger>,
    kubernetes: u16,
    headscale: u16,
}

/// Number of answers that a server gave to a process that was not killed.
#[derive(Clone, Copy, Debug)]
struct Counted {
    server: Server,
    /// All except those about Leases.
    answers: usize,
    /// Answers to changes of keys and Secrets.
    writes: usize,
}

/// Measurements of the second process.
struct Afterlife {
    /// Time from its start until it settled.
    took: Duration,
    /// Keys that the first one created and no Secret contains.
    orphans: usize,
}

impl During {
    /// Returns how many keys are created without a crash.
    fn keys(self) -> usize {
        match self {
            Self::FirstMint => 1,
            Self::Renewal => 2,
        }
    }
}

pub(super) fn after_any_answer(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let _entered = runtime.enter();
    let secrets: Vec<String> = (0..MOST).map(|n| format!("keys-{n}")).collect();
    let world = World::new(context, context.preferred(), "kill", &secrets)?;
    runtime.block_on(all(&world))
}

async fn all(world: &World<'_>) -> Result<()> {
    // Names of runs; the required number is known only when the answers are counted.
    let mut numbers = 0..MOST;
    let mut points = Vec::new();
    for during in [During::FirstMint, During::Renewal] {
        let number = numbers.next().context("too few names")?;
        let counted = Life::new(world, number)?.count(world, during).await?;
        points.extend(traps(during, &counted));
    }
    let turn = Semaphore::new(AT_ONCE);
    let turn = &turn;
    let lives = points.into_iter().map(|(during, trap)| {
        let number = numbers.next().context("too few names");
        async move {
            let _turn = turn.acquire().await?;
            let life = Life::new(world, number?)?;
            let Trap {
                server,
                counts: _,
                nth,
                passes,
            } = trap;
            let way = if passes { "passed" } else { "lost" };
            let what = format!(
                "{}: answer {nth} of {server:?} {way} during {during:?}",
                life.name
            );
            let outcome = life.live(world, during, trap).await.context(what.clone())?;
            anyhow::Ok((what, outcome))
        }
    });
    let (mut killed, mut orphans, mut longest) = (0, 0, Duration::ZERO);
    let (mut alive, mut failures) = (Vec::new(), Vec::new());
    for outcome in futures::future::join_all(lives).await {
        match outcome {
            Ok((what, None)) => alive.push(what),
            Ok((_, Some(after))) => {
                killed += 1;
                orphans += after.orphans;
                longest = longest.max(after.took);
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    println!(
        "killed at {killed} points: {orphans} orphans, at most one at a time; at rest again after at most {longest:?}"
    );
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    // Some reads run in parallel: a run may have an answer or two fewer than the one that was counted.
    ensure!(
        alive.len() <= killed / 10,
        "not killed: {}",
        alive.join(", ")
    );
    Ok(())
}

/// Returns a trap after each of the counted answers; those to writes are also lost on their way.
fn traps(during: During, counted: &[Counted]) -> impl Iterator<Item = (During, Trap)> {
    counted.iter().flat_map(move |counted| {
        let Counted {
            server,
            answers,
            writes,
        } = *counted;
        let passed = (1..=answers).map(move |nth| Trap {
            server,
            counts: all_but_leases,
            nth,
            passes: true,
        });
        let lost = (1..=writes).map(move |nth| Trap {
            server,
            counts: is_write,
            nth,
            passes: false,
        });
        passed.chain(lost).map(move |trap| (during, trap))
    })
}

impl Life {
    fn new(world: &World<'_>, number: usize) -> Result<Self> {
        let ledger = Arc::<Ledger>::default();
        let start = |server, upstream| proxy::start(server, upstream, Arc::clone(&ledger));
        Ok(Self {
            name: format!("k{number}"),
            secret: format!("keys-{number}"),
            kubernetes: start(Server::Kubernetes, world.to_kubernetes()?)?,
            headscale: start(Server::Headscale, world.to_headscale()?)?,
            ledger,
        })
    }

    fn start(&self, world: &World<'_>) -> Result<Process> {
        let process = world.start(&Run {
            kubernetes: Some(self.kubernetes),
            headscale: Some(self.headscale),
            ..Run::of(&self.name, &self.secret)
        })?;
        self.ledger.watch(process.pid()?);
        Ok(process)
    }

    /// Runs without being killed, and returns how many answers each server gave.
    async fn count(&self, world: &World<'_>, during: During) -> Result<Vec<Counted>> {
        let _process = self.begin(world, during, None).await?;
        let before = match during {
            During::FirstMint => 0,
            During::Renewal => {
                let before = self.ledger.len();
                self.make_due(world).await?;
                before
            }
        };
        self.settles(during).await?;
        let exchanges = self.ledger.exchanges().split_off(before);
        let has = |path: &str| {
            exchanges
                .iter()
                .any(|one| one.method == "POST" && one.path == path)
        };
        ensure!(has("/api/v1/preauthkey"), "no key was made in {during:?}");
        ensure!(
            during == During::FirstMint || has("/api/v1/preauthkey/expire"),
            "the old key was not ended while answers were counted"
        );
        let counted = [Server::Headscale, Server::Kubernetes].map(|server| {
            let of_it = exchanges.iter().filter(|one| one.server == server);
            Counted {
                server,
                answers: of_it.clone().filter(|one| all_but_leases(one)).count(),
                writes: of_it.filter(|one| is_write(one)).count(),
            }
        });
        println!("{during:?}: {counted:?}");
        Ok(counted.to_vec())
    }

    /// Dies in the trap, starts again, and settles; `None` if it settled before.
    async fn live(
        &self,
        world: &World<'_>,
        during: During,
        trap: Trap,
    ) -> Result<Option<Afterlife>> {
        let first = (during == During::FirstMint).then_some(trap);
        let process = self.begin(world, during, first).await?;
        if during == During::Renewal {
            self.ledger.set(trap);
            self.make_due(world).await?;
        }
        match self.settles(during).await {
            Ok(_) => return Ok(None),
            Err(_) if self.ledger.sprung() => {}
            Err(error) => return Err(error),
        }
        drop(process);
        self.ledger.disarm();
        let began = Instant::now();
        let _process = self.start(world)?;
        let story = self.settles(during).await?;
        ensure!(
            story.most_orphans <= 1,
            "{} orphans at a time",
            story.most_orphans
        );
        let made = story.made.len() - story.late.len();
        let wanted = during.keys();
        ensure!(made <= wanted + 1, "{made} keys were made for {wanted}");
        self.holds(world, &story).await?;
        Ok(Some(Afterlife {
            took: began.elapsed(),
            orphans: story.made.len() - wanted,
        }))
    }

    /// Starts the product with a pod that needs a key, and for a renewal waits until it has one.
    async fn begin(
        &self,
        world: &World<'_>,
        during: During,
        trap: Option<Trap>,
    ) -> Result<Process> {
        world.make_pod(&self.name, &self.secret).await?;
        if let Some(trap) = trap {
            self.ledger.set(trap);
        }
        let process = self.start(world)?;
        if during == During::Renewal {
            self.settles(During::FirstMint).await?;
        }
        Ok(process)
    }

    /// Moves the time at which the key is due into the past.
    async fn make_due(&self, world: &World<'_>) -> Result<()> {
        let key = world.key(&self.secret, &self.name).await?;
        let (issued, _) = key.context("no key")?;
        world
            .make_due(&self.name, issued.created, issued.created)
            .await
    }

    /// Waits until one key is alive, the Secret names it, and no more requests are made; fails in the trap.
    async fn settles(&self, during: During) -> Result<Story> {
        let began = Instant::now();
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            ensure!(!self.ledger.sprung(), "it was killed");
            let exchanges = self.ledger.exchanges();
            let length = exchanges.iter().filter(|one| all_but_leases(one)).count();
            if length != seen {
                (seen, since) = (length, Instant::now());
            }
            let story = Story::read(&exchanges, &self.secret)?;
            let state = story.settled(&[&self.name]).and_then(|_| {
                ensure!(story.made.len() >= during.keys(), "it has the old key");
                ensure!(since.elapsed() > CALM, "it is at work");
                Ok(())
            });
            match state {
                Ok(()) => return Ok(story),
                Err(error) if began.elapsed() > LIMIT => {
                    let asked: Vec<_> = exchanges.iter().map(Exchange::to_string).collect();
                    let asked = asked.join("\n  ");
                    return Err(
                        error.context(format!("not at rest within {LIMIT:?}:\n  {asked}\n"))
                    );
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Checks with both servers that their state is as in the ledger.
    async fn holds(&self, world: &World<'_>, story: &Story) -> Result<()> {
        let current = story.settled(&[&self.name])?;
        let made = story.made.keys().copied().collect();
        let alive = &world.alive().await? & &made;
        ensure!(
            alive == current,
            "the server says alive: {alive:?}, want {current:?}"
        );
        let key = world.key(&self.secret, &self.name).await?;
        let (issued, value) = key.context("no key")?;
        ensure!(
            current.contains(&issued.id)
                && Some(value.as_slice())
                    == story.made.get(&issued.id).map(|value| value.as_bytes()),
            "the Secret holds another key"
        );
        Ok(())
    }
}

/// Returns whether an exchange counts: the Lease, fences, other releases and hostnames cause some all the time.
fn all_but_leases(exchange: &Exchange) -> bool {
    let always = [
        "/leases",
        "dryRun=",
        "/mutatingwebhookconfigurations?",
        "/configmaps",
    ];
    !always.iter().any(|part| exchange.path.contains(part))
}

/// Returns whether an exchange changes users, keys or their Secrets.
fn is_write(exchange: &Exchange) -> bool {
    let ours = match exchange.server {
        Server::Headscale => true,
        Server::Kubernetes => exchange.path.contains("-apps/secrets"),
    };
    ours && exchange.method != "GET"
}
