//! Records what is gone at the end of a run: every value that a Secret ever contained, every container's log (I/O).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::processes::{Place, Process};

/// Pause between two polls; a container lives longer than this.
const PAUSE: Duration = Duration::from_millis(100);
/// Name of the watch's output. It contains keys by design, and the leak check skips it.
pub(crate) const SECRETS: &str = "secrets-watch";
/// Base64 of the prefixes of keys: `hskey-`, `tskey-` and, for servers' own, `privke`.
const MARKS: [&str; 3] = ["aHNrZXkt", "dHNrZXkt", "cHJpdmtl"];

/// A task repeated on its own thread; it stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Recorder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Watches all Secrets of a cluster, also across restarts of its API server.
    pub(crate) fn of_secrets(
        place: Place,
        folder: &Path,
        kubectl: PathBuf,
        kubeconfig: &Path,
    ) -> Self {
        let folder = folder.to_owned();
        let arguments = [
            format!("--kubeconfig={}", kubeconfig.display()),
            "get".to_owned(),
            "secrets".to_owned(),
            "--all-namespaces".to_owned(),
            "--watch".to_owned(),
            "--output=json".to_owned(),
        ];
        let mut watch: Option<Process> = None;
        Self::start(move || {
            let ended = watch
                .as_mut()
                .is_none_or(|watch| watch.check_alive().is_err());
            if ended {
                watch = Process::start(place, &folder, SECRETS, &kubectl, &arguments).ok();
            }
        })
    }

    /// Links every log below one folder into another, where it stays when its pod is deleted.
    pub(crate) fn of_logs(from: PathBuf, to: PathBuf) -> Self {
        Self::start(move || link(&from, &from, &to))
    }

    fn start(mut look: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                look();
                thread::sleep(PAUSE);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Returns every key that the watch of this folder has seen.
pub(crate) fn keys(folder: &Path) -> BTreeSet<String> {
    let file = folder.join(format!("{SECRETS}.log"));
    let text = String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
    // Its end may be cut off, so it is not parsed as JSON.
    text.split('"')
        .filter(|word| MARKS.iter().any(|mark| word.starts_with(mark)))
        .filter_map(|word| String::from_utf8(STANDARD.decode(word).ok()?).ok())
        .collect()
}

fn link(root: &Path, folder: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            link(root, &path, to);
            continue;
        }
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
        // Exists already, or is gone again.
        let _ = fs::hard_link(&path, to.join(name.replace('/', "_")));
    }
}
