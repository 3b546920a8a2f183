//! Peak of live bytes while hostile objects are received from an API server or a Headscale, with client and buffers.
//!
//! Each case runs in its own process, where no peak hides another's, and dhat counts its allocations. The bytes
//! that the server sends are generated before it counts.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this is a test"
)]

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

mod cases;
mod server;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Argument of the process that runs one case.
const CASE: &str = "--memory-case";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(CASE) {
        let name = arguments.next().expect("a case's name");
        let case = cases::all().into_iter().find(|case| case.name == name);
        let read = (case.expect("a case of that name").prepare)();
        let profiler = dhat::Profiler::builder()
            .testing()
            .trim_backtraces(Some(4))
            .build();
        let answer = read();
        let peak = dhat::HeapStats::get().max_bytes;
        drop(profiler);
        println!("{peak} {answer}");
        return ExitCode::SUCCESS;
    }
    let trials = cases::all().into_iter().map(|case| {
        Trial::test(case.name, move || {
            judge(case.name, case.most, case.want).map_err(Into::into)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Has another process run the case, and compares.
fn judge(name: &str, most: usize, want: &str) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let child = Command::new(own).args([CASE, name]).output();
    let output = child.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (peak, answer) = text.trim_end().split_once(' ').unwrap_or_default();
    let Ok(peak) = peak.parse::<usize>() else {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("no figures: {text}{error}"));
    };
    println!(
        "memory: {name}: peak {} KiB of at most {} KiB: {answer}",
        peak >> 10,
        most >> 10
    );
    if !answer.contains(want) {
        return Err(format!("{answer:?}, want {want:?}"));
    }
    if peak > most {
        return Err(format!(
            "{peak} bytes were live at once, want at most {most}"
        ));
    }
    Ok(())
}
