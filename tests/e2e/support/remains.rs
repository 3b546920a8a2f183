//! What a run could leave behind on the machine, checked before and after it (I/O).

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use super::processes::{WRITTEN, output};

/// Returns everything on the machine now that could belong to such a run: processes, mounts, links, rules, groups, files.
pub(crate) fn all() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, names: Vec<String>| {
        found.extend(names.into_iter().map(|name| format!("{kind} {name}")));
    };
    add("process", processes());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    add("mount", lines(&mounts, &["sidescale-e2e"]));
    let links = names(Path::new("/sys/class/net"));
    add(
        "link",
        lines(&links.join("\n"), &["sidescale", "cni", "veth"]),
    );
    for program in ["iptables", "ip6tables"] {
        let rules = [["-S"].as_slice(), &["-t", "nat", "-S"]]
            .map(|arguments| output(Command::new(program).args(arguments)).unwrap_or_default());
        add(
            program,
            lines(&rules.concat(), &["KUBE", "CNI", "sidescale"]),
        );
    }
    for hierarchy in [Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/cpu")] {
        add(
            "control group",
            lines(&names(hierarchy).join("\n"), &["sidescale-e2e"]),
        );
    }
    for folder in WRITTEN.map(Path::new) {
        let entries = names(folder);
        let below = |entry: String| folder.join(entry).display().to_string();
        add("file", entries.into_iter().map(below).collect());
    }
    let folders = names(&std::env::temp_dir().join("sidescale-e2e"));
    let own = std::process::id().to_string();
    add(
        "folder",
        folders.into_iter().filter(|name| *name == own).collect(),
    );
    found
}

/// Returns processes whose arguments include a file of a run.
fn processes() -> Vec<String> {
    let command = |pid: &String| {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&bytes).replace('\0', " ");
        let of_a_run =
            words.contains("/sidescale-e2e/") && words.contains(&std::process::id().to_string());
        of_a_run.then(|| format!("{pid} {words}"))
    };
    names(Path::new("/proc"))
        .iter()
        .filter_map(command)
        .collect()
}

fn lines(text: &str, marks: &[&str]) -> Vec<String> {
    let marked = |line: &&str| marks.iter().any(|mark| line.contains(mark));
    text.lines().filter(marked).map(str::to_owned).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
