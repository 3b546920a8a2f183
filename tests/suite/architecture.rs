//! ARCHITECTURE.md walks through the code by file and function: each exists.

use std::path::Path;

const PAGE: &str = include_str!("../../ARCHITECTURE.md");

/// The most that a reader reads in ten minutes.
const MOST_LINES: usize = 120;

/// Returns pairs such as `src/controller.rs` `take`: two neighbouring code spans, the first of which is a Rust file.
fn steps(page: &str) -> Vec<(&str, &str)> {
    // Code spans have odd indices.
    let parts: Vec<&str> = page.split('`').collect();
    let spans = parts.windows(3).skip(1).step_by(2);
    spans
        .filter(|window| window[0].ends_with(".rs") && window[1].trim().is_empty())
        .map(|window| (window[0], window[2]))
        .collect()
}

/// Returns why a step is invalid, if it is.
fn lost(root: &Path, (file, function): (&str, &str)) -> Option<String> {
    let Ok(text) = std::fs::read_to_string(root.join(file)) else {
        return Some(format!("{file} is no file"));
    };
    let needle = format!("fn {function}");
    let is_there = text.match_indices(&needle).any(|(at, _)| {
        let next = text[at + needle.len()..].chars().next();
        next.is_some_and(|next| next == '(' || next == '<')
    });
    (!is_there).then(|| format!("{file} has no function {function}"))
}

#[test]
fn every_step_of_the_architecture_names_a_function_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let steps = steps(PAGE);
    assert!(steps.len() >= 30, "{} steps", steps.len());
    let lost: Vec<_> = steps
        .into_iter()
        .filter_map(|step| lost(root, step))
        .collect();
    assert_eq!(lost, Vec::<String>::new());
    let lines = PAGE.lines().count();
    assert!(lines <= MOST_LINES, "{lines} lines");
}

#[test]
fn a_step_that_leads_nowhere_is_seen() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = steps(
        "`a` and `src/main.rs` `main`, `src/none.rs`\n`x` `src/main.rs` alone, `src/main.rs` `mai`",
    );
    assert_eq!(
        found,
        [
            ("src/main.rs", "main"),
            ("src/none.rs", "x"),
            ("src/main.rs", "mai")
        ]
    );
    let lost: Vec<_> = found
        .into_iter()
        .filter_map(|step| lost(root, step))
        .collect();
    assert_eq!(
        lost,
        ["src/none.rs is no file", "src/main.rs has no function mai"]
    );
}
