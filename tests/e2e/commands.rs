//! The commands that users run, on a real API server and a real Headscale, beside a running `sidescale serve`.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::MutexGuard;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sidescale_control_plane::{self as control_plane, Endpoint};
use sidescale_core::id::KeyId;
use sidescale_core::key_value::KeyValue;

use crate::Case;
use crate::chart::Release;
use crate::serve::{Replica, pod, publish};
use crate::support::api::{ControlPlane, free_ports};
use crate::support::context::Context;
use crate::support::headscale::{self, Headscale};
use crate::support::levels::Level;
use crate::support::processes::Place;
use crate::support::product::{KEYS, label};
use crate::support::wait;

pub(crate) const CASES: &[Case] = &[Case {
    name: "commands::status_tells_and_rotate_replaces",
    needs: &[Level::Api, Level::Headscale],
    each: true,
    run: tells_and_replaces,
}];

const LIMIT: Duration = Duration::from_secs(60);

/// An installation beside a Headscale, and the user who runs commands.
struct World<'a> {
    api: MutexGuard<'a, ControlPlane>,
    headscale: Headscale,
    release: Release,
    _replica: Replica,
    kubeconfig: PathBuf,
    api_key: KeyValue,
    apps: String,
}

impl<'a> World<'a> {
    fn start(context: &'a Context, program: &headscale::Program, test: &str) -> Result<Self> {
        let api = context.api()?;
        let name = label(test, program);
        let [port] = free_ports()?;
        let folder = context.folder.inner(&name)?;
        let address = format!("127.0.0.1:{port}");
        // Its command line reads its configuration again at each call, and the replica has a file with the same name.
        let beside = folder.join("headscale");
        let headscale = Headscale::start(program, Place::Host, &beside, &address)?;
        let release = Release::install(context, &api, &name)?;
        let config = format!(
            "controlPlanes: {{default: {{loginServer: '{}', allowInsecure: true, apiKeySecret: {{namespace: \
             {name}-headscale, name: headscale-api-key}}}}}}\nrotation: {{overlap: 5s}}\n",
            headscale.url()
        );
        let fullname = release.fullname();
        api.kubectl().run(&[
            "patch",
            "configmap",
            &fullname,
            "--namespace",
            &name,
            "--type",
            "merge",
            "--patch",
            &json!({"data": {"config.yaml": config}}).to_string(),
        ])?;
        let api_key = headscale.create_api_key()?;
        api.kubectl().apply(&json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "headscale-api-key", "namespace": format!("{name}-headscale")},
            "stringData": {"api-key": api_key},
        }))?;
        let replica = Replica::start(&api, &release, &folder)?;
        publish(&api, &release, &replica)?;
        let apps = format!("{name}-apps");
        api.namespace(&apps, &json!({}))?;
        let annotated = json!({"sidescale.io/inject": "tailscale"});
        wait::until("pods are patched", LIMIT, || {
            let created = api.kubectl().dry_run(&pod(&apps, "web", &annotated))?;
            ensure!(
                !created["spec"]["initContainers"].is_null(),
                "not patched yet"
            );
            Ok(())
        })?;
        api.kubectl().apply(&deployment(&apps, &annotated))?;
        Ok(Self {
            kubeconfig: api.kubectl().kubeconfig().to_owned(),
            api_key: KeyValue::new(api_key),
            api,
            headscale,
            release,
            _replica: replica,
            apps,
        })
    }

    fn type_in(&self, words: &[&str]) -> Result<Output> {
        Ok(Command::new(env!("CARGO_BIN_EXE_sidescale"))
            .args(words)
            .args(["--namespace", &self.release.name])
            .args(["--release-name", &self.release.name])
            .env("KUBECONFIG", &self.kubeconfig)
            .output()?)
    }

    /// Runs the command, which has to succeed, and returns its output.
    fn done(&self, words: &[&str]) -> Result<String> {
        let output = self.type_in(words)?;
        let (said, complaint) = texts(&output);
        ensure!(
            output.status.success(),
            "{words:?}: {}\n{said}{complaint}",
            output.status
        );
        Ok(said)
    }

    fn row(&self) -> Result<Value> {
        let report: Value =
            serde_json::from_str(&self.done(&["status", &self.apps, "-o", "json"])?)?;
        ensure!(
            report["keys"]
                .as_array()
                .is_some_and(|keys| keys.len() == 1),
            "{report}"
        );
        Ok(report["keys"][0].clone())
    }

    fn value(&self) -> Result<String> {
        let secret =
            self.api
                .kubectl()
                .json(&["get", "secret", KEYS, "--namespace", &self.apps])?;
        Ok(secret["data"]["web-authkey"]
            .as_str()
            .context("no key")?
            .to_owned())
    }

    /// Returns the ids of the keys that Headscale still accepts.
    fn alive(&self) -> Result<Vec<u64>> {
        let now = jiff::Timestamp::now().as_second();
        let alive = self
            .headscale
            .keys()?
            .into_iter()
            .filter(|key| key.expires > now);
        alive.map(|key| Ok(key.id.parse()?)).collect()
    }

    /// Waits until the Events of the Deployment report a new key, looked up as its owner would do.
    fn told_on_the_deployment(&self, key: &str) -> Result<()> {
        wait::until("an Event of the Deployment", LIMIT, || {
            let words = [
                "events",
                "--for",
                "deployment/web",
                "--namespace",
                &self.apps,
            ];
            let told = self.api.kubectl().run(&words)?;
            let told = told
                .lines()
                .any(|line| line.contains("KeyRotated") && line.contains(key));
            ensure!(told, "no Event of key {key}");
            Ok(())
        })
    }

    /// Deletes the Deployment, and waits until its pods are gone.
    fn end_pods(&self) -> Result<String> {
        let words = [
            "delete",
            "deployments",
            "--all",
            "--cascade=foreground",
            "--namespace",
        ];
        self.api
            .kubectl()
            .run(&[&words[..], &[self.apps.as_str()]].concat())
    }

    /// Expires a key outside of any process of Sidescale.
    fn end_by_hand(&self, key: u64) -> Result<()> {
        let client = control_plane::Client::new(Endpoint {
            name: "by hand".into(),
            api_url: self.headscale.url().to_owned(),
            api_key: self.api_key.clone(),
            ca_bundle: None,
            allow_insecure: true,
        })?;
        let runtime = tokio::runtime::Runtime::new()?;
        Ok(runtime.block_on(client.expire_pre_auth_key(KeyId::from(key)))?)
    }
}

fn deployment(namespace: &str, annotations: &Value) -> Value {
    let labels = json!({"app": "web"});
    let mut template = pod(namespace, "web", annotations);
    template["metadata"] = json!({"labels": labels, "annotations": annotations});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": "web"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
    })
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn tells_and_replaces(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let world = World::start(context, program, "typed")?;
    let outcome = tell(&world)
        .and_then(|()| replace(&world))
        .and_then(|()| clean(&world));
    // The next run shares the cluster.
    let _ = world.end_pods();
    outcome
}

fn tell(world: &World<'_>) -> Result<()> {
    wait::until("status shows the first key", LIMIT, || {
        let row = world.row()?;
        ensure!(row["state"] == "Ready" && !row["keyId"].is_null(), "{row}");
        Ok(())
    })?;
    let row = world.row()?;
    ensure!(row["user"] == format!("{}.web", world.apps), "{row}");
    ensure!(
        row["owners"] == json!(["deployment/web"]) && row["pods"] == 1,
        "{row}"
    );
    ensure!(
        row["verified"].is_null() && row["problems"] == json!([]),
        "{row}"
    );

    // The cluster is shared: other tests leave Secrets of keys behind.
    let table = world.done(&["status", "--verify", &world.apps])?;
    // No node runs the pod, and on a slow machine it is late by now; only the key matters here.
    ensure!(
        table.contains("0 of 1") && !table.contains("sidescale rotate"),
        "{table}"
    );
    let value = world.value()?;
    ensure!(!table.contains(&value), "it shows a key");

    let wrong_name = world.type_in(&["rotate", "--now", &format!("{}/api", world.apps)])?;
    let (_, complaint) = texts(&wrong_name);
    ensure!(wrong_name.status.code() == Some(1), "{}", wrong_name.status);
    ensure!(
        complaint.contains(&format!("want one of {}/web", world.apps)),
        "{complaint}"
    );
    let unsure = world.type_in(&["rotate", "--all"])?;
    ensure!(unsure.status.code() == Some(2), "{}", unsure.status);
    Ok(())
}

fn replace(world: &World<'_>) -> Result<()> {
    let web = format!("{}/web", world.apps);
    let (first, value) = (world.alive()?, world.value()?);
    ensure!(first.len() == 1, "{first:?}");
    let said = world.done(&["rotate", "--now", &web])?;
    let second = world.row()?["keyId"].as_u64().context("no key")?;
    ensure!(
        said.contains(&format!(
            "key {} was replaced by {second}, and expires at",
            first[0]
        )),
        "{said}"
    );
    ensure!(world.value()? != value, "the value stayed");
    world.told_on_the_deployment(&format!("id {second} "))?;
    wait::until("the old key ends after the overlap", LIMIT, || {
        let alive = world.alive()?;
        ensure!(alive == [second], "{alive:?}");
        Ok(())
    })?;

    let said = world.done(&["rotate", "--now", "--revoke", &web])?;
    let third = world.row()?["keyId"].as_u64().context("no key")?;
    ensure!(
        said.contains(&format!(
            "key {second} was replaced by {third}, and has expired"
        )),
        "{said}"
    );
    let alive = world.alive()?;
    ensure!(
        alive == [third],
        "{alive:?}: want the revoked key to be over when the command is"
    );

    // The key expires behind our back: only the server knows.
    world.end_by_hand(third)?;
    ensure!(world.row()?["state"] == "Ready", "nobody was asked");
    let verified = world.type_in(&["status", "--verify", &world.apps])?;
    let (said, complaint) = texts(&verified);
    ensure!(
        verified.status.code() == Some(1),
        "{}\n{said}{complaint}",
        verified.status
    );
    let fix = format!("fix: sidescale rotate --now {web} --namespace");
    ensure!(
        said.contains("has expired") && said.contains(&fix),
        "{said}"
    );
    world.done(&["rotate", "--now", &web])?;
    let fourth = world.row()?["keyId"].as_u64().context("no key")?;
    ensure!(world.alive()?.contains(&fourth), "want a key that works");
    Ok(())
}

/// Checks that `cleanup` keeps keys that are young or in a Secret; the suite has the rest, with ages of days.
fn clean(world: &World<'_>) -> Result<()> {
    let before = world.alive()?;
    let said = world.done(&["cleanup", "--dry-run"])?;
    ensure!(
        said.ends_with("nothing to remove\n") && !said.contains(&world.apps),
        "{said}"
    );
    world.end_pods()?;
    let current = world.row()?["keyId"].as_u64().context("no key")?;
    let left = format!(
        "left to Sidescale: no pod needs key {current} of service web in Secret {}/{KEYS}",
        world.apps
    );
    for words in [&["cleanup", "--dry-run"][..], &["cleanup"]] {
        let said = world.done(words)?;
        ensure!(said.contains(&left), "{words:?}: {said}");
    }
    let after = world.alive()?;
    ensure!(
        after.contains(&current) && after.iter().all(|key| before.contains(key)),
        "{before:?}, then {after:?}"
    );
    Ok(())
}
