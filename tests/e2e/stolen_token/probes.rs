//! How a running process checks its fences, and finds another release.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{LIMIT, refused};
use crate::chart::{CHART, Release, create};
use crate::serve::Replica;
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::wait;

/// A minute, in which a policy may still take effect, and time for a busy machine.
const REPORTED: Duration = Duration::from_secs(100);

/// Other releases are searched for every half minute.
const LOOKED: Duration = Duration::from_secs(60);

pub(super) fn open_is_reported(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let release = Release::install(context, &api, "stolen-open")?;
    let (admin, account) = (api.kubectl(), release.account(&api)?);
    let (own, policy) = (
        release.name.as_str(),
        format!("{}-secrets", release.fullname()),
    );
    let folder = context.folder.inner("stolen-open")?;
    wait::until("the policy is in force", LIMIT, || {
        let made = create(&account, own, "other", "Opaque", true);
        refused("probe", made, "is not on the list")
    })?;
    {
        // Legitimate: all fences hold, and nothing waits for them.
        let replica = Replica::start(&api, &release, &folder)?;
        wait::until("the fences were tried", LIMIT, || {
            let page = replica.get("/readyz")?;
            ensure!(
                page.contains("fences ok: secrets is closed; webhooks is closed; events is closed"),
                "{page}"
            );
            Ok(())
        })?;
    }

    admin.run(&["delete", "validatingadmissionpolicybinding", &policy])?;
    let probe = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": own, "name": "another"},
    });
    let create = ["create", "--dry-run=server", "--filename=-"];
    wait::until("the policy is out of force", LIMIT, || {
        account.feed(&create, &probe.to_string())
    })?;
    // It serves anyway, a little later.
    let replica = Replica::start(&api, &release, &folder)?;
    ensure!(
        replica
            .metric("sidescale_fence_open", &["secrets"])
            .is_err()
            || replica.metric("sidescale_fence_open", &["secrets"])? == 0.0,
        "reported at once"
    );
    wait::until("the open fence is reported", REPORTED, || {
        let open = replica.metric("sidescale_fence_open", &["secrets"])?;
        ensure!(open == 1.0, "{open}");
        Ok(())
    })?;
    let page = replica.get("/readyz")?;
    ensure!(
        page.starts_with("HTTP/1.1 200"),
        "an open fence stops nothing: {page}"
    );
    ensure!(page.contains("fences problem: secrets is open"), "{page}");
    ensure!(
        replica.metric("sidescale_fence_open", &["webhooks"])? == 0.0,
        "{page}"
    );
    let log = replica.log();
    let lines = log
        .matches("Fence is open: the policy does not restrict Sidescale's own account")
        .count();
    ensure!(lines == 1 && log.contains(&policy), "{lines} lines: {log}");
    wait::until("the Event is there", LIMIT, || {
        let events = admin.list(&["get", "events", "--namespace", own])?;
        let told = events.iter().any(|event| event["reason"] == "FenceOpen");
        ensure!(told, "{events:?}");
        Ok(())
    })?;
    let found = admin.run(&["get", "secret", "sidescale-fence-probe", "--namespace", own]);
    ensure!(found.is_err(), "a dry run left a Secret");

    // The remedy in the notice works, and is noticed.
    let upgrade = ["upgrade", own, CHART, "--namespace", own, "--reuse-values"];
    release.helm.run(&upgrade)?;
    wait::until("the fence holds again", LIMIT, || {
        let open = replica.metric("sidescale_fence_open", &["secrets"])?;
        ensure!(open == 0.0, "{open}");
        Ok(())
    })
}

pub(super) fn second_release_does_not_rotate(
    context: &Context,
    _: Option<&headscale::Program>,
) -> Result<()> {
    let api = context.api()?;
    let mut first = Release::install(context, &api, "stolen-first")?;
    let second = Release::install(context, &api, "stolen-second")?;
    // The second one's process starts before the first one's.
    let late = Replica::start(&api, &second, &context.folder.inner("stolen-second")?)?;
    let said = "stolen-first/stolen-first";
    wait::until("the second release says so", LIMIT, || {
        let page = late.get("/readyz")?;
        let line = format!("rotation problem: release {said} was installed first");
        ensure!(page.contains(&line), "{page}");
        Ok(())
    })?;
    let leads = |replica: &Replica| replica.metric("sidescale_leader", &[]);
    {
        let replica = Replica::start(&api, &first, &context.folder.inner("stolen-first")?)?;
        wait::until("the first release rotates", LIMIT, || {
            let leads = leads(&replica)?;
            ensure!(leads == 1.0, "{leads}");
            Ok(())
        })?;
    }
    ensure!(leads(&late)? == 0.0, "the second release rotates as well");
    let log = late.log();
    let lines = log.matches("Another release of Sidescale rotates").count();
    ensure!(lines == 1 && log.contains(said), "{lines} lines: {log}");
    ensure!(!log.contains("Rotating keys"), "{log}");
    let secrets = api.kubectl().list(&[
        "get",
        "secrets",
        "--all-namespaces",
        "--field-selector=metadata.name=headscale-auth-keys",
    ])?;
    ensure!(
        secrets
            .iter()
            .all(|secret| secret["metadata"]["namespace"] != "stolen-second"),
        "{} Secrets",
        secrets.len()
    );

    first.uninstall()?;
    wait::until("the second release rotates then", LOOKED, || {
        let leads = leads(&late)?;
        ensure!(leads == 1.0, "{leads}");
        Ok(())
    })
}
