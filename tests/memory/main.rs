//! Peak of live bytes, for each hostile body: at most four times the body and 256 KiB, including the body.
//!
//! Each case runs in its own process, where no peak hides another's, and dhat counts its allocations.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this is a test"
)]

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

mod body;
mod pods;
mod webhook;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Argument of the process that runs one case.
const CASE: &str = "--memory-case";

/// Maximum live bytes for a body of this size.
const fn most(body: usize) -> usize {
    4 * body + 256 * 1024
}

/// One hostile body, and its reader.
struct Case {
    name: String,
    /// Creates what the reader needs, which is not counted.
    prepare: Box<dyn Fn() -> Feed + Send>,
}

/// Has the body read, which is counted; returns its size, and the result.
type Feed = Box<dyn FnOnce() -> (usize, String)>;

/// Returns every case. Other readers of a tenant's bytes add their own table here.
fn cases() -> Vec<Case> {
    [webhook::cases()].into_iter().flatten().collect()
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(CASE) {
        count(&arguments.next().expect("a case's name"));
        return ExitCode::SUCCESS;
    }
    let trials = cases().into_iter().map(|case| {
        Trial::test(case.name.clone(), move || {
            judge(&case.name).map_err(Into::into)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Runs one case, and prints its body's size, its peak and its result.
fn count(name: &str) {
    let case = cases().into_iter().find(|case| case.name == name);
    let feed = (case.expect("a case of that name").prepare)();
    // The origin of blocks is not needed, and takes long to find out.
    let profiler = dhat::Profiler::builder()
        .testing()
        .trim_backtraces(Some(4))
        .build();
    let (body, answer) = feed();
    let peak = dhat::HeapStats::get().max_bytes;
    drop(profiler);
    println!("{body} {peak} {answer}");
}

/// Has another process run the case, and compares.
fn judge(name: &str) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let child = Command::new(own).args([CASE, name]).output();
    let output = child.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.trim_end().splitn(3, ' ');
    let mut number = || words.next().and_then(|word| word.parse::<usize>().ok());
    let (Some(body), Some(peak)) = (number(), number()) else {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("no figures: {text}{error}"));
    };
    let answer = words.next().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a body is far below 2^52 bytes")]
    let ratio = peak as f64 / body as f64;
    println!("memory: {name}: body {body}, peak {peak}, ratio {ratio:.2}: {answer}");
    // A timeout (408) is harmless: the process exits only after the answer was built in full.
    if answer.starts_with("503") {
        return Err(format!("the body was not read: {answer}"));
    }
    if peak > most(body) {
        return Err(format!(
            "{peak} bytes were live at once, want at most {} for a body of {body}",
            most(body)
        ));
    }
    Ok(())
}
