//! Headscale's own keys, given in a Secret: its pod has them as files, and it serves with them (I/O).

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::beside::Beside;
use crate::support::context::Context;
use crate::support::headscale::{Headscale, NOISE_KEY, Program};
use crate::support::product::LIMIT;
use crate::support::wait;

const SECRET: &str = "headscale-keys";
const NOISE: &str = "noise_private.key";
const FILES: [&str; 2] = [NOISE, "derp_server_private.key"];
/// Headscale's folder, which contains its database and the keys.
const DATA: &str = "/var/lib/headscale";

/// Keys that were never used before.
pub(super) struct ServerKeys(BTreeMap<&'static str, String>);

impl ServerKeys {
    pub(super) fn new() -> Self {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        let key = || format!("privkey:{}{}", random(), random());
        Self(FILES.map(|file| (file, key())).into())
    }

    /// Waits until the pod waits for the Secret, with nothing started.
    pub(super) fn are_missed(&self, headscale: &Beside<'_>) -> Result<()> {
        let get = ["get", "events", "--field-selector", "reason=FailedMount"];
        let own = ["--namespace", &headscale.namespace];
        let want = format!("secret \"{SECRET}\" not found");
        wait::until("the pod waits for its keys", LIMIT, || {
            let events = headscale.node.kubectl().list(&[&get[..], &own].concat())?;
            let says = |event: &Value| event["message"].as_str().map(|said| said.contains(&want));
            ensure!(
                events.iter().filter_map(says).any(|says| says),
                "{events:?}"
            );
            let pod = headscale.pod()?;
            let statuses = pod["status"]["containerStatuses"].as_array();
            let states = statuses
                .into_iter()
                .flatten()
                .map(|status| &status["state"]);
            let states: Vec<_> = states.collect();
            let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
            ensure!(states == [&waiting; 2], "{states:?}");
            Ok(())
        })
    }

    /// Creates the Secret.
    pub(super) fn give(&self, headscale: &Beside<'_>) -> Result<()> {
        headscale.node.kubectl().apply(&json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": headscale.namespace},
            "stringData": self.0,
        }))?;
        Ok(())
    }

    /// Checks that each is its own mount, readable for Headscale's user and read-only, in a directory writable for that user.
    pub(super) fn are_in(&self, headscale: &Beside<'_>, pod: &Value) -> Result<()> {
        let node = headscale.node;
        let pid = node.pid_of(pod, "headscale")?;
        let context = &pod["spec"]["securityContext"];
        let (user, group) = (&context["runAsUser"], &context["fsGroup"]);
        let its = format!("setpriv --reuid={user} --regid={group} --groups={group} --");
        // Into the container's folder as root: only root can access that path.
        let there = |line: &str| {
            node.shell(&format!(
                "export LC_ALL=C; cd /proc/{pid}/root{DATA}; {line}"
            ))
        };

        let table = node.shell(&format!("cat /proc/{pid}/mountinfo"))?;
        let below = format!("{DATA}/");
        let mut mounted = BTreeMap::new();
        for line in table.lines() {
            let mut fields = line.split(' ').skip(4);
            let (path, options) = (fields.next(), fields.next().context("no options")?);
            if let Some(file) = path.and_then(|path| path.strip_prefix(&below)) {
                mounted.insert(file, options.split(',').any(|option| option == "ro"));
            }
        }
        let want: BTreeMap<_, _> = FILES.map(|file| (file, true)).into();
        ensure!(mounted == want, "read-only below {below}: {mounted:?}");

        for (file, key) in &self.0 {
            let said = there(&format!("stat --format='%a %u:%g' {file}"))?;
            ensure!(said.trim() == format!("440 0:{group}"), "{file} is {said}");
            let said = there(&format!("{its} sha256sum {file}"))?;
            let hash = format!("{:x}", Sha256::digest(key));
            ensure!(said.starts_with(&hash), "{file} is not the key given");
            for (who, why) in [
                ("", "Read-only file system"),
                (its.as_str(), "Permission denied"),
            ] {
                let written = there(&format!("echo | {who} tee --append {file}"));
                let refused = written.err().map(|error| format!("{error:#}"));
                let refused = refused.with_context(|| format!("{who} writes {file}"))?;
                ensure!(refused.contains(why), "{refused}");
            }
        }
        let database = there("test -s db.sqlite; stat --format='%F %u' db.sqlite")?;
        ensure!(
            database.trim() == format!("regular file {user}"),
            "db.sqlite is {database}"
        );
        Ok(())
    }

    /// Checks that it shows the same public key as another Headscale with the same file.
    pub(super) fn are_used(
        &self,
        context: &Context,
        headscale: &Beside<'_>,
        program: &Program,
    ) -> Result<()> {
        let node = headscale.node;
        let folder = context.folder.inner(&headscale.namespace)?;
        fs::write(folder.join(NOISE_KEY), &self.0[NOISE])?;
        let other = Headscale::start(program, node.place(), &folder, &context.gateway_address())?;
        let public = |url: &str| node.shell(&format!("busybox wget -q -O - '{url}/key?v=100'"));
        let (want, shown) = (public(other.url())?, public(&headscale.url())?);
        ensure!(want.contains("mkey:"), "no public key: {want}");
        ensure!(shown == want, "{shown} is shown, {want} belongs to the key");
        Ok(())
    }
}
