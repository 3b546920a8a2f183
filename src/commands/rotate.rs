//! `sidescale rotate --now`: asks the running rotation for new keys, and waits until they are there. I/O.
//!
//! It creates nothing itself: a request is an annotation of the Secret, so that only one process creates keys.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use sidescale_core::secret::{SecretRef, StoredSecret};
use sidescale_rotation::record::Record;
use sidescale_rotation::request::{ANNOTATION, Requests, RotationRequest};

use super::view::inventory::Inventory;
use super::view::progress::Progress;
use super::view::release::{Release, ReleaseArgs, refused};
use choice::{Chosen, choose};

mod choice;

pub use choice::RotateTarget;

const HELP: &str = "\
Sidescale renews a key when it is due. This command asks for a new key now: the running Sidescale creates it, writes it to \
the Secret, and expires the old one after the configured overlap, or at once with --revoke. Nodes that have joined stay; \
pods use the new key when their sidecar next logs in. After a leak, also check which nodes have joined: a node that joined \
with the leaked key stays until you delete it from Headscale.

Rights that your own kubeconfig needs: list configmaps in Sidescale's namespace; list pods and namespaces, and get, list \
and patch the Secrets named headscale-auth-keys, in all namespaces or in the named one. The API key is not needed.

Exit codes: 0 every key was replaced; 1 failed, or not replaced in time; 2 bad usage.";

/// How often to read the Secrets while waiting for a key.
const LOOK: Duration = Duration::from_millis(500);

/// Maximum attempts to write a request while other writers change the Secret.
const TRIES: usize = 10;

/// Flags of `sidescale rotate`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = HELP, after_help = HELP)]
pub struct RotateArgs {
    /// Service, or all services of a namespace
    #[arg(
        value_name = "NAMESPACE[/SERVICE]",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub targets: Vec<RotateTarget>,
    /// All services
    #[arg(long)]
    pub all: bool,
    /// Replace the keys now; required, because Sidescale renews keys without this command when they are due
    #[arg(long, required = true)]
    pub now: bool,
    /// Expire the old keys at once, as after a leak
    #[arg(long)]
    pub revoke: bool,
    /// How long to wait for the new keys; 0s exits after the request
    #[arg(long, default_value = "2m", value_parser = sidescale_core::duration::duration, value_name = "TIME")]
    pub wait: Duration,
    /// Which installation.
    #[command(flatten)]
    pub release: ReleaseArgs,
}

/// Rotates.
///
/// # Errors
/// No key matches, the cluster refused, or a key was not replaced in time.
pub async fn run(args: RotateArgs, out: &mut (dyn Write + Send)) -> Result<()> {
    let RotateArgs {
        targets,
        all: _,
        now: _,
        revoke,
        wait,
        release,
    } = args;
    let progress = Progress::start();
    progress.doing("Reading the configuration");
    let release = Release::open(&release).await?;
    if release.policy.rotation.paused {
        bail!("rotation is paused everywhere: set rotation.paused to false in the configuration");
    }
    let namespaces: BTreeSet<_> = targets
        .iter()
        .map(|target| target.namespace.as_str())
        .collect();
    let only = namespaces
        .first()
        .copied()
        .filter(|_| namespaces.len() == 1);
    progress.doing("Reading Secrets and pods");
    let inventory = Inventory::read(&release, only).await?;
    let (chosen, left_out) = choose(&inventory, &targets)?;
    for (name, why) in left_out {
        progress.done(&format!("{name}: skipped: {why}"));
    }
    let mut waiting = BTreeMap::new();
    for (secret, keys) in chosen {
        progress.doing(&format!(
            "Requesting {} in Secret {secret}",
            count(keys.len())
        ));
        ask(&release, &secret, &keys, revoke).await?;
        waiting.insert(secret, keys);
    }
    if waiting.is_empty() {
        bail!("there is no key to replace: \"sidescale status\" shows all keys");
    }
    let asked: usize = waiting.values().map(Vec::len).sum();
    if wait.is_zero() {
        writeln!(out, "requested {}", count(asked))?;
        return Ok(());
    }
    let began = Instant::now();
    loop {
        let left: usize = waiting.values().map(Vec::len).sum();
        if left == 0 {
            break;
        }
        if began.elapsed() > wait {
            bail!(late(&waiting, wait));
        }
        progress.doing(&format!("{} of {} replaced", asked - left, count(asked)));
        for (secret, keys) in &mut waiting {
            let Some(read) = release.store.read(&secret.namespace, &secret.name).await? else {
                continue;
            };
            let record = record(secret, &read)?;
            let (done, open) = std::mem::take(keys)
                .into_iter()
                .partition::<Vec<_>, _>(|key| key.is_replaced(&record, revoke));
            for key in done {
                writeln!(out, "{}", key.outcome(&secret.namespace, &record, revoke))?;
            }
            *keys = open;
        }
        tokio::time::sleep(LOOK).await;
    }
    out.flush()?;
    Ok(())
}

/// Writes the request; sends only the annotation, with the revision that was read.
async fn ask(release: &Release, name: &SecretRef, keys: &[Chosen], revoke: bool) -> Result<()> {
    let SecretRef {
        namespace,
        name: secret,
    } = name;
    let api: Api<Secret> = Api::namespaced(release.client.clone(), namespace);
    let params = PatchParams {
        field_manager: Some("sidescale-rotate".to_owned()),
        ..PatchParams::default()
    };
    for _ in 0..TRIES {
        let Some(read) = release.store.read(namespace, secret).await? else {
            bail!("Secret {name} was deleted in the meantime: Sidescale creates it again");
        };
        let record = record(name, &read)?;
        // An unreadable one is replaced: it requests nothing.
        let mut requests = Requests::parse(&read.annotations).unwrap_or_default();
        for key in keys {
            let replaces = key.id;
            requests.add(&key.data_key, RotationRequest { replaces, revoke });
        }
        let mut annotations = read.annotations.clone();
        requests.write(&record, &mut annotations)?;
        let body = json!({"metadata": {
            "resourceVersion": read.revision,
            "annotations": {ANNOTATION: annotations.get(ANNOTATION)},
        }});
        match api
            .patch_metadata(secret, &params, &Patch::Merge(body))
            .await
        {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(refused(error, &format!("patch Secret {name}"))),
        }
    }
    Err(anyhow!(
        "Secret {name} was changed by another writer {TRIES} times in a row: find it with kubectl get secret {secret} -n \
         {namespace} -o yaml --show-managed-fields"
    ))
}

fn record(name: &SecretRef, secret: &StoredSecret) -> Result<Record> {
    Record::of(secret).map_err(|error| anyhow::Error::new(error).context(format!("Secret {name}")))
}

fn late(waiting: &BTreeMap<SecretRef, Vec<Chosen>>, wait: Duration) -> String {
    let names = waiting.iter().flat_map(|(secret, keys)| {
        keys.iter()
            .map(move |key| format!("{}/{}", secret.namespace, key.service))
    });
    let names = Vec::from_iter(names).join(", ");
    format!(
        "not replaced within {} s: {names}: the request remains, and Sidescale carries it out as soon as it can; \"sidescale \
         status\" shows the cause",
        wait.as_secs()
    )
}

fn count(keys: usize) -> String {
    format!("{keys} key{}", if keys == 1 { "" } else { "s" })
}
