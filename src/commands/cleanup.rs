//! `sidescale cleanup`: shows and removes unused objects at the control planes. I/O around pure decisions.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use sidescale_core::problem::Problem;
use sidescale_rotation::demand::Demands;
use sidescale_rotation::owner::Installation;
use sidescale_rotation::retention::removal::{Removal, away, decide};
use sidescale_rotation::survey::Survey;

use super::view::inventory::Inventory;
use super::view::progress::Progress;
use super::view::release::{Release, ReleaseArgs, refused};
use crate::clock::Clock;
use crate::controller::context::Context;
use crate::controller::session::Session;
use crate::controller::sweep::{self, Confirmation, Removed, listed, records};
use crate::metrics::Metrics;

mod text;

const HELP: &str = "\
Sidescale cleans up every 15 minutes. This command does the same now, and with --dry-run only shows what it would do. It touches \
only what this installation created: live keys that no Secret records; rows of keys that expired an hour ago (a user's \
newest two: a week ago) and that no node and no Secret names; and users without service, node or live key for \
rotation.unusedUsersAfter. It also removes nodes that were offline for as long and whose user no pod and no Secret needs, \
which ephemeral: false leaves behind; run it again later to remove their rows and users, too. On Headscale 0.28 it removes \
no user, because that would delete the keys of all others. It lists a key that a Secret contains and no pod needs, and \
leaves it to the running Sidescale, which alone writes these Secrets.

Rights that your own kubeconfig needs: get namespace kube-system; list configmaps in Sidescale's namespace; list pods, \
namespaces and the Secrets named headscale-auth-keys in all namespaces; get these Secrets, and the Secret of the control \
plane's API key. Anything that cannot be read stops the clean-up, because it may be in use.

Exit codes: 0 done, or nothing to do; 1 failed; 2 bad usage.";

/// Flags of `sidescale cleanup`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = HELP, after_help = HELP)]
pub struct CleanupArgs {
    /// Only show what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Which installation.
    #[command(flatten)]
    pub release: ReleaseArgs,
}

/// Cleans up.
///
/// # Errors
/// The cluster or a control plane is unavailable, or a removal failed.
pub async fn run(args: CleanupArgs, out: &mut (dyn Write + Send)) -> Result<()> {
    let CleanupArgs { dry_run, release } = args;
    let progress = Progress::start();
    progress.doing("Reading the configuration");
    let release = Release::open(&release).await?;
    if release.policy.rotation.paused && !dry_run {
        bail!(
            "rotation is paused everywhere, and so is cleanup: set rotation.paused to false in the configuration, or use \
             --dry-run"
        );
    }
    let context = Context::alone(
        release.store.clone(),
        Arc::new(release.policy.clone()),
        Clock::wall(),
        Arc::new(Metrics::new()?),
        installation(&release).await?,
        uuid::Uuid::new_v4().simple().to_string(),
    );
    let seen = async || {
        let inventory = Inventory::read(&release, None).await?;
        Ok(Demands {
            synced: true,
            namespaces: inventory.demands,
            ..Demands::default()
        })
    };
    let tell = |what: &str| progress.doing(what);
    clean(&context, seen, dry_run, &tell, out).await
}

/// Cleans every control plane of the configuration: reads them, then the Secrets, then the pods' needs with `demands`.
///
/// # Errors
/// The Secrets or pods cannot be read, a control plane is unavailable, or a removal failed.
pub async fn clean(
    context: &Context,
    demands: impl AsyncFn() -> Result<Demands>,
    dry_run: bool,
    tell: &(dyn Fn(&str) + Sync),
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let mut planes = Vec::new();
    let (mut found, mut failed) = (0_usize, 0_usize);
    for name in context.policy.control_planes.keys() {
        tell(&format!("Reading control plane {name}"));
        match ask(context, name).await {
            Ok((plane, survey)) => planes.push((name, plane, survey)),
            Err(problem) => {
                failed += 1;
                writeln!(out, "not cleaned: {}", problem.message)?;
            }
        }
    }
    // Read after what it is compared with: what is created meanwhile is known here, not there.
    tell("Reading Secrets and pods");
    let secrets = listed(context).await.map_err(|problem| anyhow!(problem))?;
    failed += secrets.iter().filter(|one| one.record.is_err()).count();
    let records = records(secrets.clone());
    let needed = demands().await?;
    for (name, plane, survey) in &planes {
        let now = context.clock.now();
        let policy = &context.policy;
        let mut removals = decide(now, name, survey, Some(&records), &needed, policy);
        removals.extend(away(now, name, survey, &records, &needed, policy));
        found += removals.len();
        for (number, removal) in removals.iter().enumerate() {
            if dry_run {
                writeln!(out, "would {}", text::to_do(name, removal))?;
                continue;
            }
            tell(&format!(
                "Control plane {name}: {} of {}",
                number + 1,
                removals.len()
            ));
            let removed = remove(context, name, plane, removal, &demands).await;
            failed += usize::from(removed.is_err());
            writeln!(out, "{}", text::outcome(name, removal, removed))?;
        }
    }
    for line in text::left(context.clock.now(), &secrets, &needed, &context.policy) {
        writeln!(out, "{line}")?;
    }
    match found {
        0 if failed == 0 => writeln!(out, "nothing to remove")?,
        0 => {}
        _ if dry_run => writeln!(
            out,
            "{found} to remove; run without --dry-run to remove them"
        )?,
        _ => {}
    }
    out.flush()?;
    if failed > 0 {
        bail!("the cleanup is incomplete: run it again, or leave the rest to Sidescale");
    }
    Ok(())
}

async fn ask(context: &Context, name: &str) -> Result<(Session, Survey), Problem> {
    let plane = Session::connect(context, name).await?;
    let survey = plane.survey().await?;
    Ok((plane, survey))
}

/// Removes an object; a node or a user only if everything, read once more, still shows that it is unused.
async fn remove(
    context: &Context,
    name: &str,
    plane: &Session,
    removal: &Removal<'_>,
    demands: impl AsyncFn() -> Result<Demands>,
) -> Result<Removed> {
    let problem = |problem: Problem| anyhow!(problem.message);
    if let Removal::Node { .. } | Removal::User { .. } = removal {
        let again = Confirmation::read(context, plane).await.map_err(problem)?;
        if !again.confirms(context, name, &demands().await?, removal) {
            return Ok(Removed::StillReferenced);
        }
    }
    sweep::remove(context, name, plane, removal)
        .await
        .map_err(problem)
}

/// Returns the owner tag of the users that rotation creates.
async fn installation(release: &Release) -> Result<Installation> {
    let former = &release.policy.former_installations;
    if let Some(name) = &release.policy.installation {
        return Ok(Installation::new(name, former));
    }
    let api: Api<Namespace> = Api::all(release.client.clone());
    let system = api.get_metadata("kube-system").await;
    let system = system.map_err(|error| refused(error, "get namespace kube-system"))?;
    let Some(uid) = system.metadata.uid else {
        bail!("namespace kube-system has no uid, which identifies the users of this cluster");
    };
    Ok(Installation::new(
        &format!("{uid} {}", release.name),
        former,
    ))
}
