//! Tests without nodes run beside those on the node: their clusters are independent, and either waits most of the time.
//! Tests that measure time run alone, after both are done.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::mpsc,
    thread,
};

use anyhow::Result;
use libtest_mimic::Trial;

use crate::{Case, support::levels::Level};

/// These measure time, or read the remains of all the others.
const ALONE: [&str; 6] = [
    "first::",
    "memory::",
    "rotation::",
    "rate::",
    "faults::a_rolling_upgrade",
    "leaks::",
];

/// Where a test runs; results are reported in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Node,
    Api,
    Alone,
}

/// One run of a test.
pub(crate) struct Work {
    lane: Lane,
    name: String,
    run: Box<dyn FnOnce() -> Result<()> + Send>,
}

impl Work {
    /// `name` is the case's, possibly with a Headscale's.
    pub(crate) fn new(
        case: &Case,
        name: String,
        run: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Self {
        let lane = if ALONE.iter().any(|prefix| name.starts_with(prefix)) {
            Lane::Alone
        } else if case.needs.contains(&Level::Node) {
            Lane::Node
        } else {
            Lane::Api
        };
        let run = Box::new(run);
        Self { lane, name, run }
    }
}

/// Starts both lanes at once; the trials wait for the results of their tests, and report them in order.
pub(crate) fn start(mut works: Vec<Work>) -> Vec<Trial> {
    works.sort_by_key(|work| work.lane);
    let (mut node, mut api) = (Vec::new(), Vec::new());
    let mut trials = Vec::new();
    for Work { lane, name, run } in works {
        let lane = match lane {
            Lane::Node => &mut node,
            Lane::Api => &mut api,
            Lane::Alone => {
                trials.push(Trial::test(name, || Ok(run()?)));
                continue;
            }
        };
        let (tell, told) = mpsc::channel::<Result<Result<()>, Box<dyn Any + Send>>>();
        lane.push(move || {
            let outcome = catch_unwind(AssertUnwindSafe(run));
            // There is no receiver if the run was aborted.
            let _ = tell.send(outcome);
        });
        trials.push(Trial::test(name, move || match told.recv()? {
            Ok(outcome) => Ok(outcome?),
            Err(panic) => resume_unwind(panic),
        }));
    }
    for lane in [node, api] {
        thread::spawn(|| {
            lane.into_iter().for_each(|run| run());
            // A server that a test has restarted dies with the thread that started it, and others still need it.
            loop {
                thread::park();
            }
        });
    }
    trials
}
