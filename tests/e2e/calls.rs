//! Which pods make the API server call the webhook at all, counted on both sides, and that a second call changes nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::Case;
use crate::chart::Release;
use crate::serve::{Replica, pod, publish};
use crate::support::api::ControlPlane;
use crate::support::context::Context;
use crate::support::levels::Level;
use crate::support::stranger::{self, Stranger};
use crate::support::{headscale, metrics, pods, wait};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "calls::only_pods_that_opt_in_make_a_call",
        needs: &[Level::Api],
        each: false,
        run: counts_calls,
    },
    Case {
        name: "calls::a_second_pass_patches_nothing",
        needs: &[Level::Api],
        each: false,
        run: passes_twice,
    },
];

const LIMIT: Duration = Duration::from_secs(30);
const REVIEWS: &str = "sidescale_reviews_total";

fn counts_calls(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let (_release, replica) = serve(context, &api, "calls")?;
    for (namespace, label) in [("calls-off", "disabled"), ("calls-on", "tailscale")] {
        api.namespace(namespace, &json!({"sidescale.io/inject": label}))?;
    }
    let (none, asks) = (json!({}), json!({"sidescale.io/inject": "tailscale"}));
    let (foreign, typo) = (
        json!({"example.com/inject": "tailscale"}),
        json!({"sidescale.io/injekt": "tailscale"}),
    );
    let table = [
        ("calls-apps", &none, 0.0),
        ("calls-apps", &foreign, 0.0),
        ("calls-off", &none, 0.0),
        ("calls-off", &asks, 0.0),
        ("kube-system", &asks, 0.0),
        ("calls-apps", &asks, 1.0),
        // A mistake in this annotation has to be reported.
        ("calls-apps", &typo, 1.0),
        ("calls-on", &none, 1.0),
    ];
    let (ours_before, mut theirs) = (replica.metric(REVIEWS, &[])?, made(&api)?);
    for (n, (namespace, annotations, calls)) in table.into_iter().enumerate() {
        let pod = pod(namespace, &format!("calls-{n}"), annotations);
        api.kubectl().apply(&pod)?;
        let now = made(&api)?;
        ensure!(
            (now - theirs - calls).abs() < 0.1,
            "{annotations} in {namespace}: the API server made {} calls, want {calls}",
            now - theirs
        );
        theirs = now;
        api.kubectl()
            .run(&["delete", "pod", &format!("calls-{n}"), "-n", namespace])?;
    }
    let total: f64 = table.iter().map(|(_, _, calls)| calls).sum();
    wait::until("our own count is the API server's", LIMIT, || {
        let ours = replica.metric(REVIEWS, &[])? - ours_before;
        ensure!((ours - total).abs() < 0.1, "{ours} reviews, want {total}");
        Ok(())
    })
}

fn passes_twice(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let (_release, replica) = serve(context, &api, "twice")?;
    let annotated = pod(
        "twice-apps",
        "web",
        &json!({"sidescale.io/inject": "tailscale"}),
    );
    let alone = api.kubectl().dry_run(&annotated)?;

    // Our own output, sent as if someone else had written it.
    let before = seen(&replica)?;
    let again = api.kubectl().dry_run(&alone)?;
    let different = pods::differences(&comparable(&alone), &comparable(&again));
    ensure!(different.is_empty(), "{}", different.join("\n"));
    expect(&replica, before, (0.0, 1.0))?;

    // A webhook that is called after ours changes the pod, and the API server calls ours again.
    let stranger = Stranger::start()?;
    let name = "zz-stranger";
    let configuration = stranger.configuration(name, "twice-apps");
    api.kubectl().apply(&configuration)?;
    let both = wait::until("the other webhook is asked too", LIMIT, || {
        let both = api.kubectl().dry_run(&annotated)?;
        let containers = both["spec"]["containers"]
            .as_array()
            .context("no container")?;
        let added = containers
            .iter()
            .any(|container| container["name"] == stranger::CONTAINER);
        ensure!(added, "{}", both["spec"]["containers"]);
        Ok(both)
    });
    let both = both.and_then(|_| {
        let before = seen(&replica)?;
        let both = api.kubectl().dry_run(&annotated)?;
        expect(&replica, before, (1.0, 1.0))?;
        Ok(both)
    });
    api.kubectl()
        .run(&["delete", "mutatingwebhookconfiguration", name])?;
    let mut both = both?;
    both["spec"]["containers"]
        .as_array_mut()
        .context("no container")?
        .retain(|container| container["name"] != stranger::CONTAINER);
    let different = pods::differences(&comparable(&alone), &comparable(&both));
    ensure!(different.is_empty(), "{}", different.join("\n"));
    Ok(())
}

/// Installs the chart, serves its webhook, and waits until it patches a pod.
pub(crate) fn serve(
    context: &Context,
    api: &ControlPlane,
    name: &str,
) -> Result<(Release, Replica)> {
    let release = Release::install(context, api, name)?;
    let replica = Replica::start(api, &release, &context.folder.inner(name)?)?;
    publish(api, &release, &replica)?;
    let apps = format!("{name}-apps");
    api.namespace(&apps, &json!({}))?;
    let annotated = pod(&apps, "first", &json!({"sidescale.io/inject": "tailscale"}));
    // The API server has to see the endpoint first: until then it fails open, and the pod stays as it was.
    wait::until("a pod is patched", LIMIT, || {
        let created = api.kubectl().dry_run(&annotated)?;
        let first = &created["spec"]["initContainers"][0]["name"];
        ensure!(first == "tailscale", "{}", created["spec"]);
        Ok(())
    })?;
    Ok((release, replica))
}

/// Returns how often the API server has called one of our webhooks, whatever the result.
fn made(api: &ControlPlane) -> Result<f64> {
    let page = api.kubectl().raw("/metrics")?;
    metrics::sum(
        &page,
        "apiserver_admission_webhook_request_total",
        &["sidescale.io"],
    )
}

/// Returns how many pods were injected, and how many second calls there were.
fn seen(replica: &Replica) -> Result<(f64, f64)> {
    Ok((
        replica.metric(REVIEWS, &["verdict=\"inject\""])?,
        replica.metric(REVIEWS, &["reason=\"reinvoked\""])?,
    ))
}

fn expect(replica: &Replica, before: (f64, f64), want: (f64, f64)) -> Result<()> {
    wait::until("the calls are counted", LIMIT, || {
        let now = seen(replica)?;
        let got = (now.0 - before.0, now.1 - before.1);
        let same = (got.0 - want.0).abs() < 0.1 && (got.1 - want.1).abs() < 0.1;
        ensure!(same, "injected and reinvoked: {got:?}, want {want:?}");
        Ok(())
    })
}

/// Returns the pod without what an API server generates for each pod.
fn comparable(pod: &Value) -> Value {
    let mut pod = pod.clone();
    for key in [
        "uid",
        "creationTimestamp",
        "managedFields",
        "resourceVersion",
    ] {
        if let Some(metadata) = pod["metadata"].as_object_mut() {
            metadata.remove(key);
        }
    }
    let text = pod.to_string();
    let token = pod["spec"]["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with("kube-api-access-"));
    let text = token.map_or_else(
        || text.clone(),
        |token| text.replace(token, "kube-api-access-"),
    );
    serde_json::from_str(&text).unwrap_or(pod)
}
