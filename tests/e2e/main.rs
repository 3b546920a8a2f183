//! Tests against real servers: API servers, a node, Headscale. See `support` for the foundation.
//!
//! The servers are started once and stopped at the end, so this is its own harness with libtest's arguments.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this is a test"
)]
// Later tests will use what the first ones do not.
#![allow(dead_code, reason = "shared by tests that come one by one")]

use std::{process::ExitCode, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::{Arguments, Trial};

mod calls;
mod chart;
mod commands;
mod conformance;
mod diagnosis;
mod faults;
mod first;
mod golden;
mod honest;
mod join;
mod joiner;
mod lanes;
mod leaks;
mod manager;
mod memory;
mod negative;
mod nodes;
mod paste;
mod rate;
mod rotation;
mod security;
mod serve;
mod sidecars;
mod stolen_token;
mod story;
mod support;
mod tenant;
mod unaided;
mod workloads;
mod world;

use lanes::Work;
use support::{
    context::Context,
    evidence, headscale,
    levels::{self, Level},
    remains,
};

/// A test and its requirements.
pub(crate) struct Case {
    /// Name of the test, a sentence as for any test.
    pub(crate) name: &'static str,
    /// The levels it needs.
    pub(crate) needs: &'static [Level],
    /// With [`Level::Headscale`]: whether it runs once for each binary, or for one of them.
    pub(crate) each: bool,
    /// The test.
    pub(crate) run: fn(&Context, Option<&headscale::Program>) -> Result<()>,
}

const CASES: &[&[Case]] = &[
    conformance::CASES,
    join::CASES,
    chart::CASES,
    stolen_token::CASES,
    serve::CASES,
    calls::CASES,
    golden::CASES,
    workloads::CASES,
    security::CASES,
    paste::CASES,
    story::CASES,
    sidecars::CASES,
    first::CASES,
    negative::CASES,
    manager::CASES,
    rotation::CASES,
    tenant::CASES,
    honest::CASES,
    memory::CASES,
    joiner::CASES,
    commands::CASES,
    faults::CASES,
    rate::CASES,
    nodes::CASES,
    unaided::CASES,
    // Last: it reads the remains of all the others.
    leaks::CASES,
];

fn main() -> ExitCode {
    if let Some(code) = memory::ordered() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // One after the other, except for what the lanes run in parallel: some tests measure time.
    arguments.test_threads.get_or_insert(1);
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::from(101)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let required = levels::required()?;
    let selected: Vec<&'static Case> = CASES
        .iter()
        .copied()
        .flatten()
        .filter(|case| is_selected(arguments, case))
        .collect();
    let mut wanted: Vec<Level> = selected
        .iter()
        .flat_map(|case| case.needs)
        .copied()
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    if arguments.list || wanted.is_empty() {
        let names = CASES
            .iter()
            .copied()
            .flatten()
            .map(|case| Trial::test(case.name, || Ok(())));
        return Ok(libtest_mimic::run(arguments, names.collect()).exit_code());
    }
    let before = remains::all();
    let context = Arc::new(Context::start(&wanted)?);
    let (able, unable): (Vec<_>, Vec<_>) = selected
        .iter()
        .copied()
        .partition(|case| case.needs.iter().all(|level| context.has(*level)));
    let works = able.into_iter().flat_map(|case| works(&context, case));
    let mut trials = lanes::start(works.collect());
    let ignored = |case: &'static Case| Trial::test(case.name, || Ok(())).with_ignored_flag(true);
    trials.extend(unable.into_iter().map(ignored));
    let last = Arc::clone(&context);
    trials.push(Trial::test("levels::what_is_required_was_run", move || {
        Ok(check_levels(&last, &required, &wanted)?)
    }));
    let mut unfiltered = Arguments {
        filter: None,
        skip: Vec::new(),
        exact: false,
        ..Arguments::default()
    };
    unfiltered.test_threads = arguments.test_threads;
    unfiltered.quiet = arguments.quiet;
    unfiltered.color = arguments.color;
    unfiltered.format = arguments.format;
    unfiltered.logfile.clone_from(&arguments.logfile);
    let code = libtest_mimic::run(&unfiltered, trials).exit_code();
    // The trials are gone, and everything they started stops with this.
    drop(context);
    let left: Vec<String> = remains::all().difference(&before).cloned().collect();
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    Ok(code)
}

/// Returns one run for each Headscale, or a single one.
fn works(context: &Arc<Context>, case: &'static Case) -> Vec<Work> {
    let chosen = if !case.needs.contains(&Level::Headscale) {
        vec![None]
    } else if case.each {
        context.headscales.iter().map(Some).collect()
    } else {
        context.preferred().into_iter().map(Some).collect()
    };
    let each = chosen.into_iter().map(|program| {
        let (context, program) = (Arc::clone(context), program.cloned());
        let name = match &program {
            Some(program) => format!("{}[{}]", case.name, program.version),
            None => case.name.to_owned(),
        };
        Work::new(case, name.clone(), move || {
            attempt(&context, case, &name, program.as_ref())
        })
    });
    each.collect()
}

fn attempt(
    context: &Context,
    case: &Case,
    name: &str,
    program: Option<&headscale::Program>,
) -> Result<()> {
    let began = Instant::now();
    let outcome = (case.run)(context, program);
    eprintln!("e2e: {name}: {:.0} s", began.elapsed().as_secs_f64());
    let Err(error) = outcome else {
        return Ok(());
    };
    let kept = evidence::keep(name, context.node().ok(), context.folder.path());
    let error = evidence::masked(&format!("{error:#}"));
    match kept {
        Ok(folder) => bail!("{error}\nkept: {}", folder.display()),
        Err(keeping) => bail!("{error}\nnothing kept: {keeping:#}"),
    }
}

/// Reports at the end what was run and what was not, and fails if a required level was not.
fn check_levels(context: &Context, required: &[Level], wanted: &[Level]) -> Result<()> {
    eprintln!("e2e: {}", context.summary());
    for (level, reason) in &context.missing {
        eprintln!("e2e: SKIPPED level {level}: {reason}");
    }
    let lacking = required
        .iter()
        .find(|level| wanted.contains(level) && !context.has(**level));
    match lacking {
        Some(level) => bail!(
            "level {level} is required and missing: {}",
            context.missing.get(level).context("no reason")?
        ),
        None => Ok(()),
    }
}

/// Applies libtest's rules for the filter, needed before anything is started.
fn is_selected(arguments: &Arguments, case: &Case) -> bool {
    let matches = |pattern: &String| {
        if arguments.exact {
            case.name == pattern
        } else {
            case.name.contains(pattern.as_str())
        }
    };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}
