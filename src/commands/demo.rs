//! `sidescale demo`: the whole path on one laptop, each line read back from the other side. I/O.
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

pub mod headscale;

mod keys;
mod manifests;
mod pods;
mod review;
mod show;
mod stage;

use show::Show;
use stage::Stage;

/// The manifests that are shown where no others are named.
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

/// Ends the demo, whatever hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// Time for one thing to be seen; it takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(8);

/// Flags of `sidescale demo`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DemoArgs {
    /// Keep everything up at the end, and print a curl line to try
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

/// A step of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The manifests are read.
    Manifests,
    /// The embedded Headscale answers our client.
    ControlPlane,
    /// The webhook answers over TLS.
    Webhook,
    /// The pods are patched as their annotations say.
    Patch,
    /// A patched pod is left alone.
    Unchanged,
    /// A key is minted for each service.
    Mint,
    /// The keys are in files that nobody else may read.
    Files,
    /// Before its time a key stays; then it is renewed.
    Rotate,
    /// The old key is still good for the overlap.
    Overlap,
    /// Then it is expired, and the new one stays good.
    Expire,
    /// The metrics count what was seen.
    Metrics,
}

impl Step {
    /// All of them, in their order.
    pub const ALL: [Self; 11] = [
        Self::Manifests,
        Self::ControlPlane,
        Self::Webhook,
        Self::Patch,
        Self::Unchanged,
        Self::Mint,
        Self::Files,
        Self::Rotate,
        Self::Overlap,
        Self::Expire,
        Self::Metrics,
    ];

    /// Its name, as its failure says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manifests => "read the manifests",
            Self::ControlPlane => "start Headscale",
            Self::Webhook => "start the webhook",
            Self::Patch => "patch the pods",
            Self::Unchanged => "leave patched pods alone",
            Self::Mint => "mint the keys",
            Self::Files => "keep the keys in files",
            Self::Rotate => "rotate the keys when they are due",
            Self::Overlap => "keep the old keys for the overlap",
            Self::Expire => "expire the old keys",
            Self::Metrics => "count it all",
        }
    }
}

/// A step that was not seen to work.
#[derive(Debug, thiserror::Error)]
#[error("step \"{}\": {problem}", step.as_str())]
pub struct Failed {
    /// The step.
    pub step: Step,
    /// What was seen instead.
    pub problem: String,
}

/// Something spoilt on purpose, so that a test sees the step fail, and how long the demo waits for what will not come.
#[derive(Clone, Copy, Debug)]
pub struct Spoilt {
    /// The step that cannot work.
    pub step: Step,
    /// The wait.
    pub patience: Duration,
}

/// Shows everything on standard output.
///
/// # Errors
///
/// [`Failed`], naming the first step that was not seen to work.
pub async fn run(args: DemoArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // Not locked: the lock cannot be held across an await.
    Ok(show(args, &mut io::stdout(), colour, None, shutdown).await?)
}

/// Shows everything on `out`; a test may have a step spoilt.
///
/// # Errors
///
/// [`Failed`], naming the first step that was not seen to work.
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

/// Says how to go on while everything is up.
fn invite(stage: &Stage, show: &mut Show<'_>) -> Result<(), Failed> {
    let step = Step::Webhook;
    let lines = stage
        .invitation()
        .map_err(|problem| Failed { step, problem })?;
    let written = lines.iter().try_for_each(|line| show.line(line));
    written.map_err(|error| Failed {
        step,
        problem: error.to_string(),
    })
}

/// Every step, one after the other; the first that is not seen to work ends it.
async fn play(stage: &mut Stage, show: &mut Show<'_>) -> Result<(), Failed> {
    let end = Instant::now() + LIMIT;
    within(end, Step::ControlPlane, stage.start_headscale(show)).await?;
    within(end, Step::Webhook, stage.start_webhook(show)).await?;
    within(end, Step::Patch, stage.patch_pods(show)).await?;
    within(end, Step::Unchanged, stage.patch_again(show)).await?;
    within(end, Step::Mint, stage.mint(show)).await?;
    within(end, Step::Files, stage.read_files(show)).await?;
    within(end, Step::Rotate, stage.rotate(show)).await?;
    within(end, Step::Metrics, stage.read_metrics(show)).await
}

/// A step that hangs fails, and is named.
async fn within(
    end: Instant,
    step: Step,
    done: impl Future<Output = Result<(), Failed>>,
) -> Result<(), Failed> {
    match tokio::time::timeout_at(end, done).await {
        Ok(done) => done,
        Err(_) => {
            let problem = format!(
                "not done when the {} s of the demo were over",
                LIMIT.as_secs()
            );
            Err(Failed { step, problem })
        }
    }
}

fn read(paths: &[PathBuf], spoilt: Option<Spoilt>) -> Result<Vec<(String, String)>, Failed> {
    if spoilt.is_some_and(|spoilt| spoilt.step == Step::Manifests) {
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
                step: Step::Manifests,
                problem: format!("{name}: {error}: want a file of Kubernetes manifests"),
            }),
        }
    });
    read.collect()
}
