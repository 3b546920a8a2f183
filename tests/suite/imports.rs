//! The import graph of the source files of each package has no cycle, and no arrow against the layers of `src`.
//!
//! What counts: a file imports another if it names one of its items, in a `use` or by a path such as `crate::a::b` or
//! `child::item`, regardless of re-exports. `mod child;` and `pub use child::Item` alone are no arrow: it points from
//! the user of an item to the file that defines it. A child that names an item of its parent's file while the parent names one of
//! the child is a cycle. Methods, fields and macros are ignored, as are paths inside texts. Code under `cfg(test)` is skipped.
//!
//! Only `std`: `.ci/run` compiles this file alone, which takes seconds, and the suite runs it too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

#[path = "imports/source.rs"]
mod source;

use source::Module;

/// The packages, by the name that others import them by, and their root files.
const PACKAGES: [(&str, &str); 8] = [
    ("sidescale", "src/lib.rs"),
    ("sidescale_core", "core/src/lib.rs"),
    ("sidescale_webhook", "webhook/src/lib.rs"),
    ("sidescale_certs", "certs/src/lib.rs"),
    ("sidescale_proto", "proto/src/lib.rs"),
    ("sidescale_control_plane", "control-plane/src/lib.rs"),
    ("sidescale_simulator", "simulator/src/lib.rs"),
    ("sidescale_rotation", "rotation/src/lib.rs"),
];

/// The modules of `src` from top to bottom: none imports from a line above its own. Unlisted modules are at the bottom.
const LAYERS: [&[&str]; 5] = [
    &["main"],
    &["app"],
    &["args"],
    &["commands"],
    &[
        "admin",
        "api_key",
        "controller",
        "fences",
        "server",
        "tls",
        "watch",
    ],
];

/// Shared by several commands: the only folder of `commands` that another one may import from.
const SHARED: &str = "view";

type File = usize;

/// An arrow's reason: the line, and the name.
type Reason = (usize, String);

#[test]
fn no_files_import_each_other_in_a_circle_and_none_from_above() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (package, root) in PACKAGES {
        let modules = Module::tree(Path::new(root));
        let arrows = arrows(package, &modules);
        seen += arrows.len();
        wrong.extend(circles(&modules, &arrows));
        if package == "sidescale" {
            wrong.extend(upward(&modules, &arrows));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(
        seen > 800,
        "{seen} arrows: this test reads the sources no more"
    );
}

#[test]
fn a_circle_and_an_import_from_above_are_found() {
    let module = |text: &str, path: &str| {
        let path: Vec<String> = path
            .split("::")
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect();
        Module::parse(text, Path::new(&format!("{}.rs", path.join("/"))), path)
    };
    let wrong = |modules: &[Module]| {
        let arrows = arrows("sidescale", modules);
        [circles(modules, &arrows), upward(modules, &arrows)]
            .concat()
            .join("\n")
    };
    let well = [
        module("mod app; mod commands; mod store;", ""),
        module(
            "use crate::commands::check;\nfn run() { check::run() }",
            "app",
        ),
        module("pub mod check; mod status;", "commands"),
        module(
            "mod look; pub use look::Look; pub fn run() { look::at(crate::store::Store) }",
            "commands::check",
        ),
        module("pub struct Look; pub fn at() {}", "commands::check::look"),
        module("pub struct Row;", "commands::status"),
        module("pub struct Store;", "store"),
    ];
    assert_eq!(wrong(&well), "");
    let mut ill = well;
    ill[4] = module(
        "use super::run;\nuse crate::commands::status::Row;",
        "commands::check::look",
    );
    ill[6] = module("\n\nuse crate::app;\nfn f() { app::run() }", "store");
    let wrong = wrong(&ill);
    for want in [
        "commands/check.rs:1 -> commands/check/look.rs (look::at)",
        "commands/check/look.rs:1 -> commands/check.rs (super::run)",
        "sideways: commands/check/look.rs:2 -> commands/status.rs (crate::commands::status::Row)",
        "upward: store.rs:4 -> app.rs (app::run)",
    ] {
        assert!(wrong.contains(want), "want {want:?} in\n{wrong}");
    }
}

/// Returns all arrows, each with its first reason.
fn arrows(package: &str, modules: &[Module]) -> BTreeMap<(File, File), Reason> {
    let by_path: BTreeMap<&[String], File> = modules
        .iter()
        .enumerate()
        .map(|(file, it)| (it.path.as_slice(), file))
        .collect();
    let graph = Graph {
        package,
        modules,
        by_path,
    };
    let mut found = BTreeMap::new();
    for (from, module) in modules.iter().enumerate() {
        let imported = module
            .imports
            .iter()
            .filter(|it| !it.is_public || module.words.contains(&it.name));
        for named in imported.map(|it| &it.what).chain(&module.paths) {
            if let Some(to) = graph.defines(from, &named.path, 0).filter(|to| *to != from) {
                found
                    .entry((from, to))
                    .or_insert_with(|| (named.line, named.path.join("::")));
            }
        }
    }
    found
}

struct Graph<'a> {
    package: &'a str,
    modules: &'a [Module],
    by_path: BTreeMap<&'a [String], File>,
}

impl Graph<'_> {
    /// Returns the file that defines the target of a path, seen from a module; `None` for a module alone, and for other packages.
    fn defines(&self, from: File, path: &[String], depth: usize) -> Option<File> {
        let (first, mut rest) = path.split_first().filter(|_| depth < 8)?;
        let mut at = match first.as_str() {
            "crate" => 0,
            "self" => from,
            "super" => self.parent(from)?,
            name if name == self.package => 0,
            name => {
                let child = self.child(from, name).filter(|_| !rest.is_empty());
                match child {
                    Some(child) => child,
                    None => return self.imported(from, name, rest, depth),
                }
            }
        };
        while let Some((name, more)) = rest.split_first() {
            let module = &self.modules[at];
            if name == "super" {
                at = self.parent(at)?;
            } else if let Some(child) = self.child(at, name).filter(|_| !more.is_empty()) {
                at = child;
            } else if module.items.contains(name) {
                return Some(at);
            } else if module.imports.iter().any(|it| it.name == *name) {
                return self.imported(at, name, more, depth);
            } else {
                return (!module.children.contains(name)).then_some(at);
            }
            rest = more;
        }
        None
    }

    /// Resolves a name that a module imports.
    fn imported(&self, at: File, name: &str, rest: &[String], depth: usize) -> Option<File> {
        let import = self.modules[at].imports.iter().find(|it| it.name == name)?;
        let path = [import.what.path.as_slice(), rest].concat();
        self.defines(at, &path, depth + 1)
    }

    fn child(&self, of: File, name: &str) -> Option<File> {
        let module = &self.modules[of];
        let path = [module.path.as_slice(), &[name.to_owned()]].concat();
        module
            .children
            .contains(name)
            .then(|| self.by_path.get(path.as_slice()).copied())?
    }

    fn parent(&self, of: File) -> Option<File> {
        let (_, parent) = self.modules[of].path.split_last()?;
        self.by_path.get(parent).copied()
    }
}

/// Returns one line per arrow of the shortest cycle through each group of files that import each other.
fn circles(modules: &[Module], arrows: &BTreeMap<(File, File), Reason>) -> Vec<String> {
    let reached: Vec<BTreeSet<File>> = (0..modules.len())
        .map(|from| reached(arrows, from))
        .collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (file, others) in reached.iter().enumerate() {
        if seen.contains(&file) {
            continue;
        }
        let group: BTreeSet<File> = others
            .iter()
            .copied()
            .filter(|other| reached[*other].contains(&file))
            .collect();
        let shortest = group
            .iter()
            .filter_map(|it| way(arrows, *it, *it))
            .min_by_key(Vec::len);
        if let Some(way) = shortest {
            wrong.push(format!("a circle, in a group of {} files:", group.len()));
            wrong.extend(
                way.into_iter()
                    .map(|arrow| format!("  {}", line(modules, arrow, &arrows[&arrow]))),
            );
        }
        seen.extend(group);
    }
    wrong
}

/// Returns all files that a file leads to.
fn reached(arrows: &BTreeMap<(File, File), Reason>, from: File) -> BTreeSet<File> {
    let mut found = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(at) = todo.pop() {
        let next = arrows.range((at, 0)..=(at, File::MAX));
        todo.extend(next.map(|((_, to), _)| *to).filter(|to| found.insert(*to)));
    }
    found
}

/// Returns the shortest way from a file to another along the arrows, or back to itself.
fn way(arrows: &BTreeMap<(File, File), Reason>, from: File, to: File) -> Option<Vec<(File, File)>> {
    let mut before = BTreeMap::new();
    let mut todo = VecDeque::from([from]);
    while let Some(at) = todo.pop_front() {
        for (_, next) in arrows
            .range((at, 0)..=(at, File::MAX))
            .map(|(arrow, _)| *arrow)
        {
            if before.contains_key(&next) {
                continue;
            }
            before.insert(next, at);
            if next == to {
                let mut way = vec![(at, to)];
                while way[0].0 != from {
                    let first = way[0].0;
                    way.insert(0, (before[&first], first));
                }
                return Some(way);
            }
            todo.push_back(next);
        }
    }
    None
}

/// Returns the arrows against the layers, and from one command to another.
fn upward(modules: &[Module], arrows: &BTreeMap<(File, File), Reason>) -> Vec<String> {
    let name = |file: File, at: usize| modules[file].path.get(at).map_or("", String::as_str);
    let layer = |file: File| {
        LAYERS
            .iter()
            .position(|names| names.contains(&name(file, 0)))
            .unwrap_or(LAYERS.len())
    };
    let mut wrong = Vec::new();
    for (arrow, reason) in arrows {
        let (from, to) = *arrow;
        let in_commands =
            name(from, 0) == "commands" && name(to, 0) == "commands" && !name(from, 1).is_empty();
        let word = if layer(to) < layer(from) {
            "upward"
        } else if in_commands && name(from, 1) != name(to, 1) && name(to, 1) != SHARED {
            "sideways"
        } else {
            continue;
        };
        wrong.push(format!("{word}: {}", line(modules, *arrow, reason)));
    }
    wrong
}

fn line(modules: &[Module], (from, to): (File, File), (at, what): &Reason) -> String {
    format!(
        "{}:{at} -> {} ({what})",
        modules[from].file.display(),
        modules[to].file.display()
    )
}
