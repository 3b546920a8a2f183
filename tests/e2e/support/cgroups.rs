//! The changes of a kubelet outside its namespaces: one control group tree and a few kernel settings (I/O).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Kernel settings that a kubelet requires; they are restored afterwards.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

const MOUNT: &str = "/sys/fs/cgroup";

/// Returns whether the machine still has the first version of control groups.
pub(crate) fn is_v1() -> bool {
    !Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// Creates our control group in every hierarchy and saves the kernel settings; returns the group's path.
pub(crate) fn prepare(folder: &Path) -> Result<String> {
    let group = make(&group(folder).context("run folder has no name")?)?;
    let mut kept = String::new();
    for setting in SETTINGS {
        if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(setting)) {
            kept.push_str(&format!("{setting} {}\n", value.trim()));
        }
    }
    fs::write(folder.join("settings"), kept)?;
    Ok(group)
}

/// Creates a group within ours, for a second kubelet: two with one group would end each other's pods.
pub(crate) fn prepare_within(folder: &Path, name: &str) -> Result<String> {
    let group = group(folder).context("run folder has no name")?;
    make(&format!("{group}/{name}"))
}

fn make(name: &str) -> Result<String> {
    for hierarchy in hierarchies() {
        let path = hierarchy.join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        for limit in ["cpuset.cpus", "cpuset.mems"] {
            // A new cpuset of version 1 is empty, and no process can run in an empty one.
            if is_v1() && path.join(limit).exists() {
                let above = path.parent().unwrap_or(&hierarchy);
                fs::write(path.join(limit), fs::read(above.join(limit))?)?;
            }
        }
    }
    Ok(format!("/{name}"))
}

/// Removes the groups and restores the settings, if the run had any.
pub(crate) fn clear(folder: &Path) {
    if let Ok(kept) = fs::read_to_string(folder.join("settings")) {
        for (setting, value) in kept.lines().filter_map(|line| line.split_once(' ')) {
            let _ = fs::write(Path::new("/proc/sys").join(setting), value);
        }
    }
    let Some(name) = group(folder) else { return };
    for hierarchy in hierarchies() {
        remove_tree(&hierarchy.join(&name));
    }
}

fn group(folder: &Path) -> Option<String> {
    Some(format!("sidescale-e2e-{}", folder.file_name()?.to_str()?))
}

fn hierarchies() -> Vec<PathBuf> {
    if !is_v1() {
        return vec![PathBuf::from(MOUNT)];
    }
    let Ok(entries) = fs::read_dir(MOUNT) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && !path.is_symlink())
        .collect()
}

/// Removes directories, innermost first: nothing else can be removed in a control group file system.
fn remove_tree(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}
