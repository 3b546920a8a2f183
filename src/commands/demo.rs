//! `sidescale demo`: the whole path on one laptop, with each step verified from the other side. I/O.
//!
//! ```text
//! examples ─► reviews over TLS ─► webhook ─► patched pods ─► demand ─► rotation ─► embedded Headscale
//!                                                                         └──► key files
//! ```

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod keys;
mod manifests;
mod pods;
mod review;
mod show;
mod stage;
mod step;

use show::Show;
use stage::Stage;

pub use step::{DemoStep, Failed, Spoilt};

/// The default manifests.
const EXAMPLES: [(&str, &str); 3] = [
    ("examples/web.yaml", include_str!("../../examples/web.yaml")),
    (
        "examples/namespace.yaml",
        include_str!("../../examples/namespace.yaml"),
    ),
    (
        "examples/statefulset.yaml",
        include_str!("../../examples/statefulset.yaml"),
    ),
];

/// Time limit of the demo, also where a step hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// Flags of `sidescale demo`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DemoArgs {
    /// Keep everything running at the end, and print a curl command to try
    #[arg(long, env = "SIDESCALE_DEMO_WATCH")]
    pub watch: bool,
    /// Manifests to send instead of the built-in examples
    #[arg(
        env = "SIDESCALE_DEMO_MANIFESTS",
        value_name = "FILE",
        value_delimiter = ':'
    )]
    pub manifests: Vec<PathBuf>,
}

/// Runs the demo on standard output.
///
/// # Errors
///
/// [`Failed`], with the first step that failed.
pub async fn run(args: DemoArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // Not locked: the lock cannot be held across an await.
    Ok(show(args, &mut io::stdout(), colour, None, shutdown).await?)
}

/// Runs the demo on `out`; a test may break a step.
///
/// # Errors
///
/// [`Failed`], with the first step that failed.
pub async fn show(
    args: DemoArgs,
    out: &mut (dyn Write + Send),
    colour: bool,
    spoilt: Option<Spoilt>,
    shutdown: CancellationToken,
) -> Result<(), Failed> {
    let DemoArgs { watch, manifests } = args;
    let files = read(&manifests, spoilt)?;
    let mut show = Show::new(out, colour);
    let mut stage = Stage::new(files, spoilt)?;
    let mut seen = play(&mut stage, &mut show).await;
    if watch && seen.is_ok() {
        seen = invite(&stage, &mut show);
        if seen.is_ok() {
            shutdown.cancelled().await;
        }
    }
    stage.end().await;
    seen
}

/// Prints how to continue while everything runs.
fn invite(stage: &Stage, show: &mut Show<'_>) -> Result<(), Failed> {
    let step = DemoStep::Webhook;
    let lines = stage
        .invitation()
        .map_err(|problem| Failed { step, problem })?;
    let written = lines.iter().try_for_each(|line| show.line(line));
    written.map_err(|error| Failed {
        step,
        problem: error.to_string(),
    })
}

/// Runs all steps in order, until the first failure.
async fn play(stage: &mut Stage, show: &mut Show<'_>) -> Result<(), Failed> {
    let end = Instant::now() + LIMIT;
    within(end, DemoStep::ControlPlane, stage.start_headscale(show)).await?;
    within(end, DemoStep::Webhook, stage.start_webhook(show)).await?;
    within(end, DemoStep::Patch, stage.patch_pods(show)).await?;
    within(end, DemoStep::Unchanged, stage.patch_again(show)).await?;
    within(end, DemoStep::Mint, stage.mint(show)).await?;
    within(end, DemoStep::Files, stage.read_files(show)).await?;
    within(end, DemoStep::Rotate, stage.rotate(show)).await?;
    within(end, DemoStep::Metrics, stage.read_metrics(show)).await
}

/// Fails with the name of the step if it hangs.
async fn within(
    end: Instant,
    step: DemoStep,
    done: impl Future<Output = Result<(), Failed>>,
) -> Result<(), Failed> {
    match tokio::time::timeout_at(end, done).await {
        Ok(done) => done,
        Err(_) => {
            let problem = format!("not finished within the {} s of the demo", LIMIT.as_secs());
            Err(Failed { step, problem })
        }
    }
}

fn read(paths: &[PathBuf], spoilt: Option<Spoilt>) -> Result<Vec<(String, String)>, Failed> {
    if spoilt.is_some_and(|spoilt| spoilt.step == DemoStep::Manifests) {
        return Ok(vec![("spoilt.yaml".to_owned(), "kind: [".to_owned())]);
    }
    if paths.is_empty() {
        return Ok(EXAMPLES
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .to_vec());
    }
    let read = paths.iter().map(|path| {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Ok((name, text)),
            Err(error) => Err(Failed {
                step: DemoStep::Manifests,
                problem: format!("{name}: {error}: want a file of Kubernetes manifests"),
            }),
        }
    });
    read.collect()
}
