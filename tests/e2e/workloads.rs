//! Warnings that `kubectl apply` prints for a workload: the verdict that its pods will get, from a real API server.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::Case;
use crate::calls::serve;
use crate::support::api::ControlPlane;
use crate::support::context::Context;
use crate::support::levels::Level;
use crate::support::{headscale, wait};

pub(crate) const CASES: &[Case] = &[Case {
    name: "workloads::whoever_applies_one_is_told_what_its_pods_will_get",
    needs: &[Level::Api],
    each: false,
    run,
}];

const LIMIT: Duration = Duration::from_secs(30);
const APPS: &str = "told-apps";
const KINDS: [&str; 5] = ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"];

fn run(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let (_release, replica) = serve(context, &api, "told")?;
    let wrong = json!({"sidescale.io/inject": "tailscale", "sidescale.io/wait": "perhaps"});
    let right = json!({"sidescale.io/inject": "tailscale"});
    let warned =
        "its pods will be denied: annotation 'sidescale.io/wait' is 'perhaps': want true or false";

    wait::until("the API server asks about workloads", LIMIT, || {
        says(&api, &workload("Deployment", "first", &wrong), warned)
    })?;
    for kind in KINDS {
        let name = kind.to_lowercase();
        says(
            &api,
            &workload(kind, &name, &wrong),
            &format!("Warning: {kind} {name}: {warned}"),
        )?;
        silent(&api, &workload(kind, &format!("{name}-right"), &right))?;
        silent(&api, &workload(kind, &format!("{name}-other"), &json!({})))?;
    }

    // Only a change of the spec is reviewed: not of a label, and not of what controllers write.
    let mut labelled = workload("Deployment", "deployment", &wrong);
    labelled["metadata"]["labels"] = json!({"team": "shop"});
    silent(&api, &labelled)?;
    labelled["spec"]["replicas"] = json!(0);
    says(&api, &labelled, warned)?;

    // If a namespace is disabled, nothing else would report it.
    api.namespace(APPS, &json!({"sidescale.io/inject": "disabled"}))?;
    wait::until("the label is seen", LIMIT, || {
        says(
            &api,
            &workload("Job", &format!("off-{}", uuid::Uuid::new_v4()), &right),
            "no sidecar: namespace 'told-apps' is labelled 'sidescale.io/inject: disabled'",
        )
    })?;
    let counted = replica.metric("sidescale_workload_reviews_total", &["verdict=\"deny\""])?;
    ensure!(counted >= 6.0, "{counted} denials were counted");
    Ok(())
}

fn says(api: &ControlPlane, object: &Value, want: &str) -> Result<()> {
    let said = api.kubectl().apply(object)?;
    ensure!(said.contains(want), "want {want:?}, kubectl said: {said}");
    Ok(())
}

fn silent(api: &ControlPlane, object: &Value) -> Result<()> {
    let said = api.kubectl().apply(object)?;
    ensure!(!said.contains("Warning: "), "kubectl said: {said}");
    Ok(())
}

fn workload(kind: &str, name: &str, annotations: &Value) -> Value {
    let labels = json!({"app": name});
    let mut template = json!({
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "busybox"}]},
    });
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"namespace": APPS, "name": name},
    });
    let spec = match kind {
        "Job" | "CronJob" => {
            object["apiVersion"] = json!("batch/v1");
            template["spec"]["restartPolicy"] = json!("Never");
            let job = json!({"template": template});
            match kind {
                "CronJob" => json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job}}),
                _ => job,
            }
        }
        "StatefulSet" => {
            json!({"serviceName": name, "selector": {"matchLabels": labels}, "template": template})
        }
        _ => json!({"selector": {"matchLabels": labels}, "template": template}),
    };
    object["spec"] = spec;
    object
}
