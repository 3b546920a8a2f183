//! Kubernetes' own fixtures of Pod Security: a pod admitted by a level is admitted with our sidecar too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::Case;
use crate::calls::serve;
use crate::support::api::ControlPlane;
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::levels::Level;

pub(crate) const CASES: &[Case] = &[Case {
    name: "security::what_a_level_admits_it_admits_with_our_sidecar",
    needs: &[Level::Api, Level::Corpus],
    each: false,
    run,
}];

const FIXTURES: &str = "kubernetes__pod-security-admission/test/testdata";
const LEVELS: [&str; 2] = ["baseline", "restricted"];

/// Result of the fixtures of one level.
#[derive(Debug, Default)]
struct Count {
    fixtures: usize,
    admitted: usize,
    injected: usize,
}

fn run(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let corpus = context.corpus().context("level corpus is not there")?;
    let api = context.api()?;
    let (_release, _replica) = serve(context, &api, "security")?;
    for level in LEVELS {
        let pods = fixtures(&corpus.join(FIXTURES).join(level))?;
        // At the level they were written for, and at the one that admits everything except what no pod may have.
        for enforced in [level, "privileged"] {
            let Count {
                fixtures,
                admitted,
                injected,
            } = send(
                &api,
                &format!("security-{level}-{enforced}"),
                enforced,
                &pods,
            )?;
            eprintln!(
                "e2e: fixtures of {level} at level {enforced}: {fixtures} pods, {admitted} admitted without our \
                 sidecar, as many when asking for it, {injected} of them got it"
            );
            ensure!(admitted >= 10, "only {admitted} were admitted");
            ensure!(2 * injected > admitted, "only {injected} were injected");
        }
    }
    Ok(())
}

/// Sends all pods unchanged, and again with a request for our sidecar.
fn send(api: &ControlPlane, namespace: &str, level: &str, pods: &[Value]) -> Result<Count> {
    api.namespace(
        namespace,
        &json!({"pod-security.kubernetes.io/enforce": level}),
    )?;
    let placed = |asks: bool| -> Vec<Value> {
        let place = |pod: &Value| {
            let mut pod = pod.clone();
            pod["metadata"]["namespace"] = json!(namespace);
            if asks {
                pod["metadata"]["annotations"]["sidescale.io/inject"] = json!("tailscale");
            }
            pod
        };
        pods.iter().map(place).collect()
    };
    let names = "jsonpath={.metadata.name}{\" \"}{.spec.initContainers[0].name}{\"\\n\"}";
    let before = api.kubectl().dry_run_each(&placed(false), names)?;
    let after = api.kubectl().dry_run_each(&placed(true), names)?;
    let [before, with_us]: [BTreeSet<&str>; 2] = [&before, &after].map(|said| {
        let names = said.lines().map(|line| line.split(' ').next());
        names.map(Option::unwrap_or_default).collect()
    });
    let refused: Vec<_> = before.difference(&with_us).collect();
    ensure!(
        refused.is_empty(),
        "level {level} no longer admits {refused:?}"
    );
    let injected = after.lines().filter(|line| line.ends_with(" tailscale"));
    Ok(Count {
        fixtures: pods.len(),
        admitted: before.len(),
        injected: injected.count(),
    })
}

/// Returns the pods of every file below a folder, each with its own name.
fn fixtures(folder: &Path) -> Result<Vec<Value>> {
    let mut pods = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            pods.extend(fixtures(&path)?);
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let mut pod: Value =
            serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
        let outcome = folder.file_name().unwrap_or_default().to_string_lossy();
        let file = path.file_stem().unwrap_or_default().to_string_lossy();
        pod["metadata"]["name"] = json!(format!("{outcome}-{file}").replace('_', "-"));
        pods.push(pod);
    }
    Ok(pods)
}
