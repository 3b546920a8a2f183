//! Tests without nodes beside those on the node: their clusters know nothing of each other, and most of the time either
//! waits. What looks at times runs alone, when both are done.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::mpsc,
    thread,
};

use anyhow::Result;
use libtest_mimic::Trial;

use crate::{Case, support::levels::Level};

/// These measure, or read what all the others have left.
const ALONE: [&str; 6] = [
    "first::",
    "memory::",
    "rotation::",
    "rate::",
    "faults::a_rolling_upgrade",
    "leaks::",
];

/// Where a test runs; in this order they are told of.
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
    /// `name` is the case's, and maybe a Headscale's.
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

/// Begins with both lanes at once; the trials wait for what comes of their tests, so that they are told of in order.
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
            // Nobody listens where the run was given up.
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
            // A server that a test has started again dies with the thread that started it, and others need it still.
            loop {
                thread::park();
            }
        });
    }
    trials
}
