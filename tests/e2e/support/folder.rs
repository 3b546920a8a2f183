//! The folder of one run, and the cleanup after runs that could not do it themselves (I/O).

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::cgroups;

/// A run's folder; locked by a file lock as long as the run lives, removed at its end.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Removes what dead runs left, then creates a folder for this one.
    pub(crate) fn create() -> Result<Self> {
        let base = std::env::temp_dir().join("sidescale-e2e");
        fs::create_dir_all(&base)?;
        for entry in fs::read_dir(&base)? {
            clear_if_stale(&entry?.path());
        }
        let path = base.join(std::process::id().to_string());
        fs::create_dir_all(&path)?;
        let lock = File::create(path.join("lock"))?;
        lock.try_lock()
            .with_context(|| format!("lock {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// Returns the folder's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a new folder inside.
    pub(crate) fn inner(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        clear(&self.path);
    }
}

/// Removes the folder of a dead run: it holds no lock. Its processes died with it: files, cgroups and kernel settings remain.
fn clear_if_stale(path: &Path) {
    let Ok(lock) = File::open(path.join("lock")) else {
        return;
    };
    if lock.try_lock().is_ok() {
        clear(path);
    }
}

fn clear(path: &Path) {
    cgroups::clear(path);
    if let Err(error) = fs::remove_dir_all(path) {
        eprintln!("e2e: {} is left behind: {error}", path.display());
    }
}
