//! The pages of `docs/` as one book: a complete list, working links, tables that cover everything in the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use serde_json::Value;
use sidescale::args::Args;
use sidescale::commands::config;
use sidescale_core::key_state::KeyState;
use sidescale_rotation::nodes::NodeState;

const SUMMARY: &str = "docs/SUMMARY.md";

/// Longest README that is read to its end.
const README_LINES: usize = 150;

/// Annotations of a pod or namespace that no profile can set.
const OF_PODS_ALONE: [&str; 3] = ["inject", "service", "profile"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the Markdown files of a folder, as paths from the root.
fn pages(folder: &str) -> BTreeSet<String> {
    fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| Path::new(name).extension().is_some_and(|end| end == "md"))
        .map(|name| format!("{folder}/{name}").replace("./", ""))
        .collect()
}

/// Returns the lines outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// Returns texts and targets of a line's links.
fn links(line: &str) -> Vec<(&str, &str)> {
    let link = |(at, _): (usize, &str)| {
        let target = line[at + 2..].split(')').next()?;
        Some((line[..at].rsplit('[').next()?, target))
    };
    line.match_indices("](").filter_map(link).collect()
}

/// Returns the anchor of a heading, as GitHub and mdBook generate it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
    text.chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

/// Returns what is wrong with a link on a page, or `None`.
fn problem(page: &str, target: &str) -> Option<String> {
    if target.starts_with("https://") {
        return None;
    }
    let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
    let folder = Path::new(page).parent().unwrap_or(Path::new(""));
    let file = if file.is_empty() {
        root().join(page)
    } else {
        root().join(folder).join(file)
    };
    if !file.exists() {
        return Some(format!("{page}: {target} is not there"));
    }
    let missing = !fragment.is_empty()
        && !prose(&fs::read_to_string(file).unwrap())
            .any(|line| line.starts_with('#') && anchor(line) == fragment);
    missing.then(|| format!("{page}: {target} has no such heading"))
}

/// Returns the words in backticks of each row's first cell.
fn first_cells(text: &str) -> BTreeSet<&str> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `"));
    cells
        .filter_map(|row| row.split(" |").next())
        .flat_map(|cell| cell.split('`').step_by(2))
        .collect()
}

fn known_annotations() -> BTreeSet<String> {
    let schema: Value = serde_json::from_str(&config::schema()).unwrap();
    let names = schema
        .pointer("/properties/profiles/additionalProperties/properties/annotations/properties");
    let names = names.unwrap().as_object().unwrap().keys().cloned();
    names.chain(OF_PODS_ALONE.map(str::to_owned)).collect()
}

#[test]
fn the_summary_has_every_page_and_names_each_once() {
    let summary = read(SUMMARY);
    let (mut written, mut to_come) = (BTreeSet::new(), BTreeSet::new());
    for line in summary.lines().filter(|line| line.starts_with("- ")) {
        let [(title, target)] = links(line)[..] else {
            panic!("want one link: {line}");
        };
        assert!(!title.is_empty(), "{line}");
        let fresh = if target.is_empty() {
            let name = line.split('`').nth(1).unwrap_or_default();
            let page = format!("docs/{name}");
            assert!(name.ends_with(".md"), "want the page's file name: {line}");
            assert!(!root().join(&page).exists(), "{page} is there: link it");
            to_come.insert(page)
        } else {
            written.insert(format!("docs/{target}"))
        };
        assert!(fresh, "twice: {line}");
    }
    let mut there = pages("docs");
    there.remove(SUMMARY);
    assert_eq!(written, there, "want every page of docs/ linked once");
    assert!(to_come.is_disjoint(&written));
}

#[test]
fn every_link_of_a_page_leads_to_a_file_and_heading() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for page in pages(".").into_iter().chain(pages("docs")) {
        for line in prose(&read(&page)) {
            for (_, target) in links(line) {
                if target.is_empty() && page == SUMMARY {
                    continue;
                }
                wrong.extend(problem(&page, target));
                seen += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(seen > 40, "{seen}");
}

#[test]
fn a_dead_link_is_found() {
    for (page, target) in [
        ("README.md", "docs/no-such-page.md"),
        ("README.md", "SUMMARY.md"),
        (SUMMARY, "install.md#no-such-heading"),
        ("docs/configuration.md", "#controlplanes"),
    ] {
        assert!(problem(page, target).is_some(), "{page}: {target} passed");
    }
    for (page, target) in [
        ("README.md", SUMMARY),
        ("docs/configuration.md", "../README.md"),
        ("docs/nodes.md", "configuration.md#controlplanesname"),
    ] {
        assert_eq!(problem(page, target), None);
    }
}

#[test]
fn the_readme_can_be_read_to_its_end() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines");
}

#[test]
fn the_page_of_annotations_has_those_that_there_are() {
    let page = read("docs/annotations.md");
    let cells = first_cells(&page);
    let known = known_annotations();
    for name in &known {
        let refused = page.contains(&format!("`{name}`")) && !cells.contains(name.as_str());
        let not_yet = ["advertise-routes", "exit-node", "serve-config"].contains(&name.as_str());
        assert!(
            cells.contains(name.as_str()) || (refused && not_yet),
            "docs/annotations.md has no row of {name}"
        );
    }
    let unknown: Vec<_> = cells
        .iter()
        .filter(|cell| !known.contains(**cell))
        .collect();
    assert!(unknown.is_empty(), "no such annotation: {unknown:?}");
}

#[test]
fn the_pages_of_keys_and_nodes_have_every_state() {
    for (page, states) in [
        ("docs/keys.md", &KeyState::ALL.map(KeyState::as_str)[..]),
        ("docs/nodes.md", &NodeState::ALL.map(NodeState::as_str)),
    ] {
        let text = read(page);
        let cells = first_cells(&text);
        for state in states {
            assert!(cells.contains(state), "{page} has no row of {state}");
        }
    }
}

#[test]
fn the_page_of_the_configuration_has_every_key() {
    fn keys(schema: &Value, found: &mut BTreeSet<String>) {
        let members = schema["properties"].as_object().into_iter().flatten();
        for (key, schema) in members {
            found.insert(key.clone());
            if key != "annotations" {
                keys(schema, found);
            }
        }
        if schema["additionalProperties"].is_object() {
            keys(&schema["additionalProperties"], found);
        }
        for schema in schema["anyOf"].as_array().into_iter().flatten() {
            keys(schema, found);
        }
    }
    let page = read("docs/configuration.md");
    let mut wanted = BTreeSet::new();
    let schema: Value = serde_json::from_str(&config::schema()).unwrap();
    keys(&schema, &mut wanted);
    assert!(wanted.len() > 40, "{wanted:?}");
    for key in wanted {
        let named = [format!("`{key}`"), format!(".{key}`"), format!("`{key}.")];
        assert!(
            named.iter().any(|name| page.contains(name)),
            "docs/configuration.md lacks {key}"
        );
    }
}

#[test]
fn every_metric_on_a_page_is_one_that_there_is() {
    fn sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, text);
            } else {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut metrics = String::new();
    sources(&root().join("src"), &mut metrics);
    let mut seen = 0;
    for page in pages(".").into_iter().chain(pages("docs")) {
        let text = read(&page);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("sidescale_")) {
            let there = metrics.contains(&format!("\"{word}\""));
            assert!(there, "{page}: {word} is no metric");
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn the_page_of_installing_names_values_that_there_are() {
    let values: Value = serde_saphyr::from_str(&read("charts/sidescale/values.yaml")).unwrap();
    let page = read("docs/install.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut seen = 0;
    for row in rows {
        let cell = row.split(" |").next().unwrap();
        let names: Vec<&str> = cell.split('`').step_by(2).collect();
        // Of several names, the later ones omit what they share with the first.
        let shared = names[0].rsplit_once('.').map_or("", |(parent, _)| parent);
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let whole = match name.strip_prefix('.') {
                Some(rest) => format!("{shared}.{rest}"),
                None => name.to_owned(),
            };
            let there = values.pointer(&format!("/{}", whole.replace('.', "/")));
            assert!(there.is_some(), "docs/install.md: the chart has no {whole}");
            seen += 1;
        }
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn the_page_of_commands_has_every_command() {
    let page = read("docs/commands.md");
    for command in Args::command().get_subcommands() {
        let name = format!("`sidescale {}", command.get_name());
        assert!(page.contains(&name), "docs/commands.md lacks {name}`");
    }
}
