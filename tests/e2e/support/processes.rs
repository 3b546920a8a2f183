//! Child processes that cannot outlive the test run, on the machine itself or in their own namespaces (I/O).
//!
//! Everything that a node needs (bridge, iptables rules, mounts, containers) is in one set of network, mount and
//! pid namespaces. When their first process exits, the kernel removes all of it, however the run ended.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::wait;

/// Where a process runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// On the machine itself.
    Host,
    /// In the namespaces whose first process has this pid.
    Inside(u32),
}

impl Place {
    /// Returns a command that runs to its end, in this place's network but with the machine's files and processes.
    pub(crate) fn command(self, program: &Path) -> Command {
        // A command that waits for a server would outlive both.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Place::Inside(init) = self {
            command.args(["nsenter", "--target", &init.to_string(), "--net", "--"]);
        }
        command.arg(program);
        command
    }
}

/// Runs a command to its end and returns its stdout; an error contains its stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = format!("{:?}", command.get_program());
    let result = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {name}"))?;
    let stdout = String::from_utf8_lossy(&result.stdout).into_owned();
    ensure!(
        result.status.success(),
        "{command:?} ended with {}: {}{}",
        result.status,
        stdout.trim(),
        String::from_utf8_lossy(&result.stderr).trim()
    );
    Ok(stdout)
}

/// A running program whose output goes to a log file.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    place: Place,
    log: PathBuf,
}

impl Process {
    /// Starts a program; its log and its pid are stored in the folder.
    pub(crate) fn start(
        place: Place,
        folder: &Path,
        name: &str,
        program: &Path,
        arguments: &[String],
    ) -> Result<Self> {
        Self::start_with(place, folder, name, program, arguments, &[])
    }

    /// Starts a program with additional environment variables.
    pub(crate) fn start_with(
        place: Place,
        folder: &Path,
        name: &str,
        program: &Path,
        arguments: &[String],
        environment: &[(&str, String)],
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log)?;
        // The kernel kills it together with us, whatever happens to us.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Place::Inside(init) = place {
            command.args([
                "nsenter",
                "--target",
                &init.to_string(),
                "--net",
                "--mount",
                "--pid",
                "--",
            ]);
        }
        let child = command
            .arg(program)
            .args(arguments)
            .envs(
                environment
                    .iter()
                    .map(|(key, value)| (*key, value.as_str())),
            )
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("start {name} ({})", program.display()))?;
        fs::write(folder.join(format!("{name}.pid")), child.id().to_string())?;
        Ok(Self {
            name: name.to_owned(),
            child,
            place,
            log,
        })
    }

    /// Returns the pid of the program itself, as the machine sees it.
    pub(crate) fn pid(&self) -> Result<u32> {
        match self.place {
            Place::Host => Ok(self.child.id()),
            // nsenter forks to enter the pid namespace; the program is its only child.
            Place::Inside(_) => only_child(self.child.id()),
        }
    }

    /// Sends a signal to the program itself.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?).context("pid 0")?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Fails if the program has exited, with the end of its log.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        match ended {
            None => Ok(()),
            Some(status) => Err(wait::Ended(format!(
                "{} ended with {status}\n{}",
                self.name,
                self.last_lines(15)
            ))
            .into()),
        }
    }

    /// Kills the program with SIGKILL and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        let _ = self.signal(Signal::KILL);
        if matches!(self.place, Place::Host) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }

    /// Asks the program to exit, then kills it after the grace period.
    pub(crate) fn stop(&mut self, grace: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let ended = wait::until("end", grace, || {
            self.child.try_wait()?.context("still running")
        });
        if ended.is_err() {
            self.kill();
        }
        Ok(())
    }

    /// Waits until it has exited, and returns its status.
    pub(crate) fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::until(&format!("{} has ended", self.name), limit, || {
            self.child.try_wait()?.context("still running")
        })
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn last_lines(&self, count: usize) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where containerd, its plugins and a kubelet write, regardless of their configured folders.
pub(crate) const WRITTEN: [&str; 5] = [
    "/run/containerd",
    "/run/netns",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
];

/// Our own network, mount and pid namespaces; dropping them ends everything inside.
#[derive(Debug)]
pub(crate) struct Namespaces {
    unshare: Child,
    init: u32,
    /// Empty folders that were created on the machine as mount points.
    made: Vec<&'static Path>,
}

impl Namespaces {
    /// Creates the namespaces, with an init that only reaps, and brings their loopback up.
    pub(crate) fn create() -> Result<Self> {
        let flags =
            "--net --mount --pid --fork --kill-child=KILL --mount-proc --propagation private --";
        let mut unshare = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare"])
            .args(flags.split(' '))
            .args(["catatonit", "-P"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start unshare")?;
        let ready = wait::until("namespaces", Duration::from_secs(10), || {
            ensure!(
                unshare.try_wait()?.is_none(),
                "unshare ended: this machine grants no namespaces"
            );
            let init = only_child(unshare.id())?;
            let name = fs::read_to_string(format!("/proc/{init}/comm"))?;
            ensure!(name.trim() == "catatonit", "init is still {name}");
            Ok(init)
        });
        let init = match ready {
            Ok(init) => init,
            Err(error) => {
                let _ = unshare.kill();
                let _ = unshare.wait();
                return Err(error);
            }
        };
        let mut namespaces = Self {
            unshare,
            init,
            made: Vec::new(),
        };
        namespaces.run("ip link set lo up")?;
        for folder in WRITTEN.map(Path::new) {
            if !folder.exists() {
                fs::create_dir_all(folder)?;
                namespaces.made.push(folder);
            }
            namespaces.run(&format!("mount -t tmpfs tmpfs {}", folder.display()))?;
        }
        Ok(namespaces)
    }

    /// Returns the place for processes inside.
    pub(crate) fn place(&self) -> Place {
        Place::Inside(self.init)
    }

    /// Runs a shell line inside.
    pub(crate) fn run(&self, line: &str) -> Result<String> {
        let init = self.init.to_string();
        output(Command::new("nsenter").args([
            "--target", &init, "--net", "--mount", "--pid", "--", "sh", "-ec", line,
        ]))
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.init).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        // unshare exits when its child has, and then nothing is left inside.
        let _ = self.unshare.wait();
        for folder in &self.made {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn only_child(pid: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    children
        .trim()
        .parse()
        .with_context(|| format!("children of {pid}: {children:?}"))
}
