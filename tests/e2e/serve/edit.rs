//! The configuration edited under a running `sidescale serve`: the webhook and rotation both use the last valid one.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{LIMIT, Replica, pod};
use crate::calls;
use crate::support::api::{ControlPlane, free_ports};
use crate::support::context::Context;
use crate::support::headscale::{self, Headscale, Key};
use crate::support::processes::Place;
use crate::support::product::KEYS;
use crate::support::wait;

const APPS: &str = "reached-apps";
const DAY: i64 = 24 * 3600;

/// Writes the configuration by a rename, like the kubelet: no reader sees half a file.
fn edit(replica: &Replica, text: &str) -> Result<()> {
    let fresh = replica.folder.join("config.fresh");
    fs::write(&fresh, text)?;
    Ok(fs::rename(fresh, replica.folder.join("config.yaml"))?)
}

pub(super) fn follows_its_configuration(
    context: &Context,
    _: Option<&headscale::Program>,
) -> Result<()> {
    let api = context.api()?;
    let (release, replica) = calls::serve(context, &api, "edit")?;
    let text = fs::read_to_string(replica.folder.join("config.yaml"))?;
    let edit = |text: &str| edit(&replica, text);
    let tagged = json!({"sidescale.io/inject": "tailscale", "sidescale.io/tags": "tag:late"});
    let tagged = pod("edit-apps", "tagged", &tagged);
    let Err(refused) = api.kubectl().dry_run(&tagged) else {
        anyhow::bail!("a tag that no profile allows was taken")
    };
    ensure!(format!("{refused:#}").contains("tag:late"), "{refused:#}");

    edit(&format!(
        "{text}\nprofiles: {{default: {{allowedTags: ['tag:late']}}}}\n"
    ))?;
    wait::until("the tag is allowed", LIMIT, || {
        api.kubectl().dry_run(&tagged).map(drop)
    })?;
    // The watches of rotation start again.
    wait::until("rotation goes on", LIMIT, || {
        let page = replica.get("/readyz")?;
        ensure!(page.contains("configuration"), "{page}");
        ensure!(
            replica.metric("sidescale_config_in_force", &[])? > 0.5,
            "{page}"
        );
        Ok(())
    })?;

    edit(&format!(
        "{text}\nprofiles: {{default: {{allowedTagz: []}}}}\n"
    ))?;
    wait::until("the mistake is told", LIMIT, || {
        let events = api
            .kubectl()
            .list(&["get", "events", "--namespace", &release.name])?;
        let told = events.iter().any(|event| {
            let note = event["message"].as_str().unwrap_or_default();
            event["reason"] == "ConfigurationRefused"
                && event["involvedObject"]["kind"] == "ConfigMap"
                && event["involvedObject"]["name"] == release.fullname().as_str()
                && note.contains("profiles.default.allowedTagz is unknown")
                && note.contains("did you mean allowedTags?")
        });
        ensure!(told, "{events:?}");
        Ok(())
    })?;
    api.kubectl().dry_run(&tagged)?;
    let answer = replica.get("/readyz")?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

/// Another control plane, another lifetime of keys and another allowed tag, each by an edit and without a restart.
pub(super) fn rotates_by_the_last_edit(
    context: &Context,
    program: Option<&headscale::Program>,
) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let api = context.api()?;
    let (release, replica) = calls::serve(context, &api, "reached")?;
    let began = Instant::now();
    let folder = context.folder.inner("reached-headscale")?;
    let [port] = free_ports()?;
    let headscale = Headscale::start(program, Place::Host, &folder, &format!("127.0.0.1:{port}"))?;
    api.kubectl().apply(&json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "headscale-api-key", "namespace": format!("{}-headscale", release.name)},
        "stringData": {"api-key": headscale.create_api_key()?},
    }))?;

    // No server answered at the address that the chart was installed with: the first key is created at the edited one.
    let text = fs::read_to_string(replica.folder.join("config.yaml"))?;
    let mut config: Value = serde_saphyr::from_str(&text)?;
    let plane = &mut config["controlPlanes"]["default"];
    plane["apiUrl"] = json!(headscale.url());
    plane["allowInsecure"] = json!(true);
    edit(&replica, &config.to_string())?;
    api.kubectl().apply(&pod(
        APPS,
        "early",
        &json!({"sidescale.io/inject": "tailscale"}),
    ))?;
    let early = minted(&api, &headscale, "early", &[])?;
    ensure!((89..=90).contains(&days_left(&early)), "{early:?}");

    config["profiles"]["default"] = json!({
        "allowedTags": ["tag:late"],
        "annotations": {"auth-key-expiration": "48h", "auth-key-rotation-buffer": "1h"},
    });
    edit(&replica, &config.to_string())?;
    let tagged = json!({"sidescale.io/inject": "tailscale", "sidescale.io/tags": "tag:late"});
    let tagged = pod(APPS, "late", &tagged);
    wait::until("the tag is allowed", LIMIT, || {
        api.kubectl().apply(&tagged).map(drop)
    })?;
    let late = minted(&api, &headscale, "late", std::slice::from_ref(&early.id))?;
    ensure!((1..=2).contains(&days_left(&late)), "{late:?}");
    // Another lifetime creates no new key before the old one is due.
    let keys = headscale.keys()?;
    ensure!(keys.contains(&early) && keys.len() == 2, "{keys:?}");
    eprintln!("e2e: rotation by the last edit, in {:.1?}", began.elapsed());
    // A running replica would write its Secret again; and the next Headscale of this cluster gives the same ids to keys that
    // such a Secret would seem to know.
    drop(replica);
    for things in ["pods", "secrets"] {
        let delete = ["delete", things, "--all", "--namespace", APPS];
        api.kubectl().run(&delete)?;
    }
    Ok(())
}

/// Returns the key of the service's pods, and checks that the server lists it beside those known.
fn minted(
    api: &ControlPlane,
    headscale: &Headscale,
    service: &str,
    known: &[String],
) -> Result<Key> {
    let data_key = format!("{service}-authkey");
    wait::until(&format!("{data_key} is written"), LIMIT, || {
        let secret = api
            .kubectl()
            .json(&["get", "secret", KEYS, "--namespace", APPS])?;
        ensure!(secret["data"][&data_key].is_string(), "not yet");
        Ok(())
    })?;
    let keys = headscale.keys()?.into_iter();
    let mut fresh = keys.filter(|key| !known.contains(&key.id));
    let key = fresh.next().context("the server lists no key of it")?;
    ensure!(fresh.next().is_none(), "the server lists more than one");
    Ok(key)
}

/// Returns whole days until the key expires.
fn days_left(key: &Key) -> i64 {
    (key.expires - jiff::Timestamp::now().as_second()) / DAY
}
