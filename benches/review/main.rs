//! Compares our webhook with the least that any HTTPS handler costs, in one run, and writes `target/bench.json`.
//!
//! One server thread on core 0 serves two ports with the same stack and the same layers: the floor reads the body and
//! answers a constant, ours answers the review. The generator is on core 1. The cost of a request is the server
//! thread's own CPU time over the requests it answered: a busy neighbour changes the rate and hardly the cost.

#![expect(clippy::print_stdout, reason = "a bench reports on stdout")]

mod allocations;
mod bodies;
mod handlers;
mod load;
mod pure;
mod report;
mod server;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use bodies::Body;
use load::Shot;
use report::Row;

/// Counts nothing outside divan's own benches.
#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

/// Odd, which makes the median one of the rounds.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(1000);
const WARM_UP: Duration = Duration::from_millis(400);

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == allocations::MODE) {
        allocations::run();
        return Ok(());
    }
    let counts = allocations::measure().context("count allocations")?;
    let mut rows = Vec::new();
    for body in bodies::all()? {
        println!(
            "{} bytes: checking, then {ROUNDS} rounds of floor and ours",
            body.bytes.len()
        );
        let allocations = *counts
            .get(body.name)
            .with_context(|| format!("divan shows no row {}", body.name))?;
        rows.push(measure(&body, allocations)?);
    }
    let many = bodies::many_variables()?;
    println!(
        "{} bytes: {}, the pure functions alone",
        many.bytes.len(),
        many.name
    );
    handlers::check(&many.bytes)?;
    let many = report::Long {
        bytes: many.bytes.len(),
        pure: pure::measure(&many.bytes)?,
    };
    report::print(&rows, &many);
    report::write(&rows, &many)
}

fn measure(body: &Body, allocations: u64) -> Result<Row> {
    handlers::check(&body.bytes)?;
    let reply = handlers::ours(&body.bytes)?;
    let pure = pure::measure(&body.bytes)?;

    let server = server::start(reply.len())?;
    let shoot = |address, time| load::run(&server, address, &body.bytes, reply.len(), time);
    shoot(server.floor, WARM_UP)?;
    shoot(server.ours, WARM_UP)?;
    let (mut floor, mut ours) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // The order alternates: the second one finds warmer caches and a hotter core.
        if round % 2 == 0 {
            floor.push(shoot(server.floor, ROUND)?);
            ours.push(shoot(server.ours, ROUND)?);
        } else {
            ours.push(shoot(server.ours, ROUND)?);
            floor.push(shoot(server.floor, ROUND)?);
        }
    }
    server.stop()?;
    Ok(Row {
        bytes: body.bytes.len(),
        floor: median(floor)?,
        ours: median(ours)?,
        pure,
        allocations,
    })
}

/// Returns the middle round by CPU time.
fn median(mut shots: Vec<Shot>) -> Result<Shot> {
    ensure!(!shots.is_empty(), "no rounds");
    shots.sort_by(|left, right| left.cpu_us.total_cmp(&right.cpu_us));
    let middle = shots.len() / 2;
    Ok(shots.swap_remove(middle))
}
