//! Times the pure functions on one thread: ours, a scan that keeps nothing, and a typed handler. Reads the clock.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::handlers;
use crate::server::pin;

const BATCH: Duration = Duration::from_millis(4);
const BATCHES: usize = 61;

/// Nanoseconds per call of each.
pub(crate) struct Pure {
    /// The webhook's function.
    pub(crate) ours: f64,
    /// serde_json reading to the end and keeping nothing.
    pub(crate) scan: f64,
    /// The same answer by way of kube's `AdmissionReview<Pod>`.
    pub(crate) typed: f64,
}

/// Times each; batches of the three alternate, and the median batch counts.
pub(crate) fn measure(body: &[u8]) -> Result<Pure> {
    pin(0);
    let typed = handlers::Typed::like(body)?;
    let ours = || drop(black_box(handlers::ours(black_box(body))));
    let scan = || drop(black_box(handlers::scan(black_box(body))));
    let typed = || drop(black_box(typed.answer(black_box(body))));
    let mut functions = [Timed::new(&ours), Timed::new(&scan), Timed::new(&typed)];
    for _ in 0..BATCHES {
        functions.iter_mut().for_each(Timed::batch);
    }
    let [ours, scan, typed] = functions.map(Timed::median);
    Ok(Pure { ours, scan, typed })
}

/// A function, its calls per batch, and the time per call in each batch.
struct Timed<'a> {
    function: &'a dyn Fn(),
    calls: u32,
    nanoseconds: Vec<f64>,
}

impl<'a> Timed<'a> {
    /// Warms up for one batch, which determines the calls per batch.
    fn new(function: &'a dyn Fn()) -> Self {
        let start = Instant::now();
        let mut calls = 0;
        while start.elapsed() < BATCH {
            function();
            calls += 1;
        }
        Self {
            function,
            calls,
            nanoseconds: Vec::new(),
        }
    }

    fn batch(&mut self) {
        let start = Instant::now();
        for _ in 0..self.calls {
            (self.function)();
        }
        self.nanoseconds
            .push(start.elapsed().as_secs_f64() * 1e9 / f64::from(self.calls));
    }

    fn median(mut self) -> f64 {
        self.nanoseconds.sort_by(f64::total_cmp);
        self.nanoseconds[self.nanoseconds.len() / 2]
    }
}
