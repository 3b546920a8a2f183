//! What an attacker with our token can do: the rights of the release's account, tried with its token on a real API server.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::Case;
use crate::chart::{CHART, LOGIN_SERVER, Release, helm};
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::kubectl::Kubectl;
use crate::support::levels::Level;
use crate::support::wait;

mod evictions;
mod pods;
mod probes;
mod secrets;
mod webhooks;
#[path = "../support/write_verbs.rs"]
mod write_verbs;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "stolen_token::every_write_verb_has_a_test",
        needs: &[Level::Api],
        each: false,
        run: every_write_verb_has_a_test,
    },
    Case {
        name: "stolen_token::it_changes_only_the_ca_bundle",
        needs: &[Level::Api],
        each: false,
        run: webhooks::only_the_ca_bundle,
    },
    Case {
        name: "stolen_token::it_writes_only_secrets_on_the_list",
        needs: &[Level::Api],
        each: false,
        run: secrets::only_the_list,
    },
    Case {
        name: "stolen_token::it_evicts_nothing_of_the_clusters_own",
        needs: &[Level::Api],
        each: false,
        run: evictions::nothing_of_the_clusters_own,
    },
    Case {
        name: "stolen_token::it_changes_one_annotation_of_injected_pods",
        needs: &[Level::Api],
        each: false,
        run: pods::one_annotation,
    },
    Case {
        name: "stolen_token::it_writes_events_in_its_own_name_one_lease_and_one_config_map",
        needs: &[Level::Api],
        each: false,
        run: events_one_lease_and_one_config_map,
    },
    Case {
        name: "stolen_token::a_fence_that_is_open_is_reported",
        needs: &[Level::Api],
        each: false,
        run: probes::open_is_reported,
    },
    Case {
        name: "stolen_token::a_second_release_does_not_rotate",
        needs: &[Level::Api],
        each: false,
        run: probes::second_release_does_not_rotate,
    },
];

const LIMIT: Duration = Duration::from_secs(30);

/// Fails unless the API server refused with these words.
fn refused(what: &str, result: Result<String>, said: &str) -> Result<()> {
    let Err(error) = result else {
        anyhow::bail!("{what}: not refused; want {said:?}")
    };
    let error = format!("{error:#}");
    ensure!(error.contains(said), "{what}: want {said:?}: {error}");
    Ok(())
}

/// Fails for a right in a role of the chart that has no test.
fn every_write_verb_has_a_test(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let helm = helm(context, &api)?;
    let mut rendered = BTreeSet::new();
    for more in ["replicas=1", "config.rotation.onLost=evict"] {
        let set = format!("{LOGIN_SERVER},{more}");
        let text = helm.run(&["template", "one", CHART, "--set", &set])?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
        let roles = objects
            .iter()
            .filter(|object| object["kind"].as_str().is_some_and(is_role));
        rendered.extend(roles.flat_map(write_verbs::writes));
    }
    let listed: BTreeSet<String> = write_verbs::listed().into_iter().collect();
    ensure!(
        rendered == listed,
        "rendered and without a row in tests/support/write_verbs.rs: {:?}; in the table and not rendered: {:?}",
        rendered.difference(&listed).collect::<Vec<_>>(),
        listed.difference(&rendered).collect::<Vec<_>>()
    );
    for write in write_verbs::WRITES {
        let mut cases = crate::CASES.iter().copied().flatten();
        ensure!(
            cases.any(|case| case.name == write.test),
            "no test {}",
            write.test
        );
    }
    Ok(())
}

fn is_role(kind: &str) -> bool {
    ["Role", "ClusterRole"].contains(&kind)
}

fn events_in_its_own_name(admin: &Kubectl, account: &Kubectl) -> Result<()> {
    // About any object, and not under another name.
    let event = |version: &str, by: &str| {
        let (regarding, reporter) = match version {
            "v1" => ("involvedObject", "reportingComponent"),
            _ => ("regarding", "reportingController"),
        };
        let about = json!({"apiVersion": "v1", "kind": "Namespace", "name": "default", "namespace": "default"});
        json!({
            "apiVersion": version, "kind": "Event", "type": "Warning", "reason": "Tried", "action": "Try",
            "metadata": {"namespace": "default", "name": "stolen"}, regarding: about,
            "eventTime": "2026-01-01T00:00:00.000000Z", reporter: by, "reportingInstance": "x",
        })
        .to_string()
    };
    let create = ["create", "--filename=-"];
    let events = "events.k8s.io/v1";
    let own_name = "Events in its own name alone";
    wait::until("the policy is in force", LIMIT, || {
        let forged = account.feed(
            &[&create[..], &["--dry-run=server"]].concat(),
            &event(events, "kubelet"),
        );
        refused("another's", forged, own_name)
    })?;
    refused(
        "another's",
        account.feed(&create, &event(events, "kubelet")),
        own_name,
    )?;
    refused(
        "the older API",
        account.feed(&create, &event("v1", "sidescale")),
        "cannot create resource \"events\" in API group \"\"",
    )?;
    account.feed(&create, &event(events, "sidescale"))?;
    admin.run(&[
        "delete",
        "events.v1.events.k8s.io",
        "stolen",
        "--namespace=default",
    ])?;
    admin.feed(&create, &event(events, "kubelet"))?;
    let take = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--filename=-",
    ];
    // Of an existing Event, the server lets only the series change.
    let mut changed: Value = serde_json::from_str(&event(events, "kubelet"))?;
    changed["series"] = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"});
    let changed = account.feed(&take, &changed.to_string());
    refused("a change", changed, own_name)?;
    // The owner of an Event cannot be changed.
    let taken = account.feed(&take, &event(events, "sidescale"));
    refused("taken over", taken, "field is immutable")?;
    Ok(())
}

fn events_one_lease_and_one_config_map(
    context: &Context,
    _: Option<&headscale::Program>,
) -> Result<()> {
    let api = context.api()?;
    let release = Release::install(context, &api, "stolen-lease")?;
    let (admin, account) = (api.kubectl(), release.account(&api)?);
    let (own, name) = (release.name.as_str(), release.fullname());
    events_in_its_own_name(admin, &account)?;

    // The Lease exists from the installation on, and is the only one.
    let hold = json!({"spec": {"holderIdentity": "thief"}}).to_string();
    let patch = |kubectl: &Kubectl, namespace: &str, lease: &str| {
        let what = ["patch", "lease", lease, "--namespace", namespace];
        kubectl.run(&[&what[..], &["--type=merge", "--patch", &hold]].concat())
    };
    patch(&account, own, &name)?;
    let lease = |namespace: &str, name: &str| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"namespace": namespace, "name": name},
        })
        .to_string()
    };
    for namespace in [own, "kube-system"] {
        admin.feed(
            &["apply", "--filename=-"],
            &lease(namespace, "stolen-other"),
        )?;
        refused(
            "another Lease",
            patch(&account, namespace, "stolen-other"),
            "is forbidden",
        )?;
        refused(
            "a new Lease",
            account.feed(&["create", "--filename=-"], &lease(namespace, "stolen-new")),
            "cannot create resource \"leases\"",
        )?;
        admin.run(&["delete", "lease", "stolen-other", "--namespace", namespace])?;
    }
    refused(
        "our own Lease",
        account.run(&["delete", "lease", &name, "--namespace", own]),
        "cannot delete resource \"leases\"",
    )?;
    let held = admin.json(&["get", "lease", &name, "--namespace", own])?;
    let holder = held["spec"]["holderIdentity"].as_str();
    ensure!(
        holder.context("no holder")? == "thief",
        "the honest patch did nothing"
    );
    one_config_map(&release, admin, &account)
}

/// Only the list of hostnames: neither the configuration nor the ConfigMaps of others.
fn one_config_map(release: &Release, admin: &Kubectl, account: &Kubectl) -> Result<()> {
    let (own, name) = (release.name.as_str(), release.fullname());
    let list = format!("{name}-hostnames");
    let data = json!({"data": {"default": "stolen"}}).to_string();
    let patch = |namespace: &str, map: &str| {
        let what = ["patch", "configmap", map, "--namespace", namespace];
        account.run(&[&what[..], &["--type=merge", "--patch", &data]].concat())
    };
    patch(own, &list)?;
    let map = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": own, "name": name}})
            .to_string()
    };
    admin.feed(&["apply", "--filename=-"], &map("stolen-other"))?;
    for (what, namespace, other) in [
        ("the configuration", own, name.as_str()),
        ("another ConfigMap", own, "stolen-other"),
        ("another namespace's", "kube-system", list.as_str()),
    ] {
        refused(what, patch(namespace, other), "is forbidden")?;
    }
    refused(
        "a new ConfigMap",
        account.feed(&["create", "--filename=-"], &map("stolen-new")),
        "cannot create resource \"configmaps\"",
    )?;
    refused(
        "our own ConfigMap",
        account.run(&["delete", "configmap", &list, "--namespace", own]),
        "cannot delete resource \"configmaps\"",
    )?;
    admin.run(&["delete", "configmap", "stolen-other", "--namespace", own])?;
    let written = admin.json(&["get", "configmap", &list, "--namespace", own])?;
    ensure!(
        written["data"]["default"] == "stolen",
        "the honest patch did nothing"
    );
    Ok(())
}
