//! `docs/acceptance.md` lists every promise once, and every reference in it exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../../docs/acceptance.md");

/// Number of items in each of the five documents, and in the threat model.
const ITEMS: [(&str, usize); 6] = [
    ("S0", 62),
    ("S1", 74),
    ("S2", 79),
    ("S3", 30),
    ("S4", 48),
    ("T", 36),
];

/// Folder of each kind of test function.
const TREES: [(&str, &str); 8] = [
    ("unit", "src"),
    ("core", "core"),
    ("webhook", "webhook"),
    ("certs", "certs"),
    ("control-plane", "control-plane"),
    ("simulator", "simulator"),
    ("rotation", "rotation"),
    ("suite", "tests/suite"),
];

struct Row<'a> {
    id: &'a str,
    promise: &'a str,
    shown_by: Vec<&'a str>,
}

/// Targets of references.
struct Tree {
    tests: BTreeMap<&'static str, BTreeSet<String>>,
    trials: BTreeSet<String>,
    parts: BTreeSet<&'static str>,
}

#[test]
fn every_promise_is_there_once_and_names_what_exists() {
    let rows = rows(PAGE);
    let want: Vec<String> = ITEMS
        .iter()
        .flat_map(|(document, count)| (1..=*count).map(move |n| format!("{document}.{n}")))
        .collect();
    let have: Vec<&str> = rows.iter().map(|row| row.id).collect();
    assert_eq!(
        have, want,
        "want each item once, in the documents' own order"
    );

    let tree = Tree::read();
    let wrong: Vec<String> = rows
        .iter()
        .flat_map(|row| tree.mistakes(row).into_iter())
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));

    let used: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| row.shown_by.iter())
        .filter_map(|reference| reference.strip_prefix("open "))
        .collect();
    assert_eq!(
        used, tree.parts,
        "want the table of parts to list those that a row waits for"
    );
    println!("{}", counts(&rows));
}

#[test]
fn a_wrong_reference_is_found() {
    let tree = Tree::read();
    let wrong = [
        "suite no_such_test",
        "unit every_promise_is_there_once_and_names_what_exists",
        "suite rows",
        "e2e story::no_such_trial",
        "case no_such_case",
        "case ../cases/deployment",
        "page docs/no-such-page.md",
        "page README.md#No such heading",
        "open no-such-part",
        "test x",
        "deployment",
        "",
    ];
    for reference in wrong {
        assert!(tree.problem(reference).is_some(), "{reference:?} passed");
    }
    for reference in [
        "suite a_wrong_reference_is_found",
        "case deployment",
        "page README.md",
    ] {
        assert_eq!(tree.problem(reference), None);
    }
}

#[test]
fn no_file_of_the_repository_holds_a_key() {
    for path in files(&root()) {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let found = key_in(&text);
        assert_eq!(found, None, "{}", path.display());
    }
    let headscales = ["hskey-", "auth-abcdefghijkl-"].concat() + &"k".repeat(64);
    let servers = ["-----BEGIN ", "PRIVATE KEY-----\n"].concat() + &"MIIE".repeat(16);
    assert!(key_in(&headscales).is_some() && key_in(&servers).is_some());
}

#[test]
fn git_ignores_key_files() {
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap();
    for pattern in ["*.tskey", "tskey-*", "hskey-*"] {
        assert!(ignored.lines().any(|line| line == pattern), "{pattern}");
    }
}

impl Tree {
    fn read() -> Self {
        let tests = TREES
            .iter()
            .map(|(kind, folder)| {
                let found = sources(folder)
                    .iter()
                    .flat_map(|text| functions(text))
                    .collect();
                (*kind, found)
            })
            .collect();
        let trials = sources("tests/e2e")
            .iter()
            .flat_map(|text| trials(text))
            .collect();
        let parts = PAGE
            .lines()
            .skip_while(|line| *line != "## Parts to come")
            .skip(1)
            .take_while(|line| !line.starts_with("## "))
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(part, _)| part)
            .collect();
        Self {
            tests,
            trials,
            parts,
        }
    }

    fn mistakes(&self, row: &Row<'_>) -> Vec<String> {
        let mut found: Vec<String> = row
            .shown_by
            .iter()
            .filter_map(|reference| Some(format!("{}: {}", row.id, self.problem(reference)?)))
            .collect();
        if row.shown_by.is_empty() || row.promise.is_empty() {
            found.push(format!("{}: want a promise and what shows it", row.id));
        }
        found
    }

    /// Returns what is wrong with a reference, or `None`.
    fn problem(&self, reference: &str) -> Option<String> {
        let Some((kind, name)) = reference.split_once(' ') else {
            return Some(format!("{reference:?} is no reference"));
        };
        let there = match kind {
            "e2e" => self.trials.contains(name),
            "case" => !name.contains(['/', '.']) && root().join("tests/cases").join(name).is_dir(),
            "page" => page_exists(name),
            "open" => self.parts.contains(name),
            kind => match self.tests.get(kind) {
                Some(tests) => tests.contains(name),
                None => return Some(format!("{reference:?} begins with an unknown word")),
            },
        };
        (!there).then(|| format!("{reference:?} is not there"))
    }
}

/// Returns the prefix of a key in the text that is long enough to be real.
fn key_in(text: &str) -> Option<String> {
    // In pieces: this file must not match itself.
    let marks = [
        (["hskey-", "auth-"], 40),
        (["hskey-", "api-"], 40),
        (["tskey-", "auth-"], 20),
        (["tskey-", "api-"], 20),
        (["AGE-SECRET", "-KEY-"], 20),
        (["PRIVATE ", "KEY-----"], 40),
        (["priv", "key:"], 40),
    ];
    let of_a_key = |c: char| c.is_ascii_alphanumeric() || "-_+/=".contains(c);
    marks.into_iter().find_map(|(mark, shortest)| {
        let mark = mark.concat();
        let long = text.match_indices(&mark).any(|(at, mark)| {
            let rest = text[at + mark.len()..].trim_start();
            rest.chars().take_while(|c| of_a_key(*c)).count() >= shortest
        });
        long.then_some(mark)
    })
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the rows of the five tables; `` `a`, `b` `` in the last column are two references.
fn rows(page: &str) -> Vec<Row<'_>> {
    let tables = page
        .lines()
        .skip_while(|line| !line.starts_with("## S0"))
        .filter(|line| line.starts_with("| S") || line.starts_with("| T."));
    tables
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let ["", id, promise, shown_by, ""] = cells[..] else {
                panic!("want three columns: {line}");
            };
            let shown_by = shown_by
                .split(", ")
                .map(|reference| {
                    reference
                        .strip_prefix('`')
                        .and_then(|rest| rest.strip_suffix('`'))
                        .unwrap_or_else(|| {
                            panic!("{id}: want references in backticks, separated by commas")
                        })
                })
                .collect();
            Row {
                id,
                promise,
                shown_by,
            }
        })
        .collect()
}

fn counts(rows: &[Row<'_>]) -> String {
    let count = |wanted: &dyn Fn(usize, usize) -> bool| {
        let of = |row: &&Row<'_>| {
            let open = row
                .shown_by
                .iter()
                .filter(|reference| reference.starts_with("open "))
                .count();
            wanted(row.shown_by.len() - open, open)
        };
        rows.iter().filter(of).count()
    };
    format!(
        "acceptance: {} items, {} shown, {} in part, {} open",
        rows.len(),
        count(&|_, open| open == 0),
        count(&|shown, open| shown > 0 && open > 0),
        count(&|shown, _| shown == 0),
    )
}

fn page_exists(name: &str) -> bool {
    let (file, heading) = name
        .split_once('#')
        .map_or((name, None), |(file, heading)| (file, Some(heading)));
    let Ok(text) = fs::read_to_string(root().join(file)) else {
        return false;
    };
    let named = |line: &str, heading: &str| {
        line.starts_with('#') && line.trim_start_matches('#').trim() == heading
    };
    heading.is_none_or(|heading| text.lines().any(|line| named(line, heading)))
}

/// Returns the functions with a test attribute.
fn functions(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let after = line
            .strip_prefix("fn ")
            .or_else(|| line.strip_prefix("async fn "));
        if let Some(after) = after {
            let name = after.split(['(', '<']).next().unwrap_or_default();
            if std::mem::take(&mut is_test) {
                found.push(name.to_owned());
            }
        }
    }
    found
}

/// Returns the names of end-to-end tests: texts such as `"group::a_sentence"` after `name:` or `case(`. Others are name filters.
fn trials(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut before = "";
    for (number, part) in text.split('"').enumerate() {
        let named = ["name:", "case("].iter().any(|word| before.ends_with(word));
        if number % 2 == 1 && named && part.contains("::") {
            found.push(part.to_owned());
        }
        before = part.trim_end();
    }
    found
}

fn sources(folder: &str) -> Vec<String> {
    files(&root().join(folder))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                found.extend(files(&path));
            }
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}
