//! The command in the message about a missing API key, pasted into a shell with the real kubectl.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::Case;
use crate::chart::Release;
use crate::serve::Replica;
use crate::support::api::free_ports;
use crate::support::context::Context;
use crate::support::headscale::{self, Headscale};
use crate::support::kubectl::Kubectl;
use crate::support::levels::Level;
use crate::support::processes::Place;
use crate::support::wait;

pub(crate) const CASES: &[Case] = &[Case {
    name: "paste::the_command_for_an_api_key_is_all_it_takes",
    needs: &[Level::Api, Level::Headscale],
    each: false,
    run,
}];

const LIMIT: Duration = Duration::from_secs(60);

/// `exec` needs a node; this one prints the key that a Headscale created, or fails. All else is the real kubectl's.
const KUBECTL: &str = r#"#!/bin/sh
if [ "$1" = exec ]; then
  [ "$*" = "exec -n $NAMESPACE deploy/headscale -c headscale -- headscale apikeys create -e 90d" ] || exit 2
  [ -s "$API_KEY_FILE" ] || { echo 'error: no such deployment' >&2; exit 1; }
  cat "$API_KEY_FILE"
else
  case "$*" in *hskey-*) echo 'a key in an argument' >&2; exit 3 ;; esac
  exec "$REAL_KUBECTL" "$@"
fi
"#;

fn run(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let api = context.api()?;
    let name = "paste";
    let folder = context.folder.inner(name)?;
    let [port] = free_ports()?;
    let address = format!("127.0.0.1:{port}");
    let beside = context.folder.inner("paste-headscale")?;
    let headscale = Headscale::start(program, Place::Host, &beside, &address)?;
    let values = [
        format!("controlPlane.loginServer={}", headscale.url()),
        "controlPlane.allowInsecure=true".to_owned(),
    ];
    let values: Vec<_> = values.iter().flat_map(|value| ["--set", value]).collect();
    let release = Release::install_with(context, &api, name, &values)?;
    let replica = Replica::start(&api, &release, &folder)?;
    let command = wait::until("the command is told", LIMIT, || {
        let page = replica.get("/readyz")?;
        let (_, command) = page
            .split_once("without one, run this once: ")
            .context(page.clone())?;
        Ok(command.lines().next().unwrap_or_default().to_owned())
    })?;
    let (kubectl, keys) = (api.kubectl(), format!("{name}-headscale"));
    let (bin, api_key) = (folder.join("bin"), folder.join("api-key"));
    std::fs::create_dir_all(&bin)?;
    std::fs::write(bin.join("kubectl"), KUBECTL)?;
    std::fs::set_permissions(bin.join("kubectl"), PermissionsExt::from_mode(0o755))?;
    let paste = || paste(&command, kubectl, &keys, (&bin, &api_key));
    let value = || {
        let secret = kubectl.json(&["get", "secret", "headscale-api-key", "--namespace", &keys])?;
        anyhow::Ok(secret["data"]["api-key"].as_str().map(str::to_owned))
    };

    // Headscale is absent: nothing is written.
    std::fs::write(&api_key, "")?;
    let failed = paste()?;
    ensure!(!failed.status.success(), "{failed:?}");
    ensure!(value()?.is_none(), "a Secret without a key was written");

    std::fs::write(&api_key, headscale.create_api_key()? + "\n")?;
    let pasted = paste()?;
    ensure!(pasted.status.success(), "{pasted:?}");
    ensure!(value()?.is_some(), "no key was written");
    wait::until("the API key is used", LIMIT, || {
        let page = replica.get("/readyz")?;
        ensure!(!page.contains("NoCredentials"), "{page}");
        let calls = ["call=\"list_users\"", "result=\"ok\""];
        let listed = replica.metric("sidescale_control_plane_calls_total", &calls)?;
        ensure!(listed > 0.0, "{page}");
        Ok(())
    })?;
    std::fs::remove_file(&api_key)?;
    Ok(())
}

fn paste(
    command: &str,
    kubectl: &Kubectl,
    namespace: &str,
    (bin, api_key): (&Path, &Path),
) -> Result<Output> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-c", command])
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("KUBECONFIG", kubectl.kubeconfig())
        .env("NAMESPACE", namespace)
        .env("API_KEY_FILE", api_key)
        .env("REAL_KUBECTL", kubectl.program())
        .output()?;
    Ok(output)
}
