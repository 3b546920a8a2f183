//! The tasks of the process: when one exits, all stop.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// The tasks of the process: when one exits, all stop.
pub(super) struct ProcessTasks {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
}

impl ProcessTasks {
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            shutdown,
        }
    }

    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, part.await) });
    }

    /// Waits for all tasks; returns the first failure.
    pub(super) async fn join(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let asked = self.shutdown.is_cancelled();
            self.shutdown.cancel();
            let failure = match ended {
                Ok((_, Ok(()))) if asked => continue,
                Ok((name, Ok(()))) => anyhow::anyhow!("task {name} exited by itself"),
                Ok((name, Err(error))) => error.context(format!("task {name} failed")),
                Err(error) => anyhow::Error::new(error).context("a task panicked"),
            };
            error!(error = format!("{failure:#}"), "Task exited, shutting down");
            if result.is_ok() {
                result = Err(failure);
            }
        }
        info!("Shutdown complete");
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_fails_stops_the_others_and_is_named() {
        let shutdown = CancellationToken::new();
        let mut parts = ProcessTasks::new(shutdown.clone());
        parts.spawn("patient", async move {
            shutdown.cancelled().await;
            Ok(())
        });
        parts.spawn("broken", async { Err(anyhow::anyhow!("no socket")) });
        let error = parts.join().await.unwrap_err();
        assert_eq!(format!("{error:#}"), "task broken failed: no socket");
    }

    #[tokio::test]
    async fn a_part_that_just_ends_stops_the_others_too() {
        let mut parts = ProcessTasks::new(CancellationToken::new());
        parts.spawn("short", async { Ok(()) });
        assert_eq!(
            parts.join().await.unwrap_err().to_string(),
            "task short exited by itself"
        );
    }

    #[tokio::test]
    async fn parts_that_were_asked_to_end_are_no_failure() {
        let shutdown = CancellationToken::new();
        let mut parts = ProcessTasks::new(shutdown.clone());
        let stop = shutdown.clone();
        parts.spawn("one", async move {
            stop.cancelled().await;
            Ok(())
        });
        shutdown.cancel();
        parts.join().await.unwrap();
    }
}
