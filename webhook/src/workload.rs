//! A workload's template -> the warnings its author reads: the verdict that its pods will get. Pure.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::annotations::{Caller, NamespaceMetadata, SkipReason};
use crate::mutate::{OptIn, Outcome, Undecodable, Verdict, check, mutate, reply};
use crate::profile::Policy;
use crate::quote;
use crate::review::{Response, Review, read};
use crate::text::Text;

/// Holds the answer to the review of a workload, and what a log line and the metrics need of it.
#[derive(Clone, Debug)]
pub struct Advice {
    /// The AdmissionReview to send, as JSON; it always allows.
    pub reply: Vec<u8>,
    /// What its pods will get; none where the object is no workload that can be read.
    pub verdict: Option<Verdict>,
    /// The request's namespace.
    pub namespace: String,
    /// Kind and name.
    pub workload: String,
    /// What its author is told.
    pub warnings: Vec<String>,
}

/// The kinds that are looked at.
#[derive(Clone, Copy)]
enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Workload<'a> {
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    metadata: Named<'a>,
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named<'a> {
    #[serde(borrow)]
    name: Text<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    template: Option<Template>,
    job_template: Option<JobTemplate>,
    volume_claim_templates: Option<Vec<Template>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JobTemplate {
    spec: JobSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JobSpec {
    template: Option<Template>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: Option<Map<String, Value>>,
    spec: Option<Map<String, Value>>,
}

/// Answers the review of a workload: allowed, with the verdict on its pods as warnings, as far as the caller may know.
///
/// # Errors
/// If the body is no AdmissionReview with a uid; everything else gets an answer.
pub fn validate(
    body: &[u8],
    caller: Caller,
    namespaces: &dyn Fn(&str) -> Option<Arc<NamespaceMetadata>>,
    policy: &Policy,
) -> Result<Advice, Undecodable> {
    let review: Review<'_, &RawValue> = read(body).map_err(Undecodable::Form)?;
    check(&review)?;
    let request = review.request;
    let namespace = request.namespace.unwrap_or_default();
    let known = namespaces(&namespace);
    let object = request.object.map(RawValue::get);
    let workload: Workload<'_> = object
        .and_then(|object| serde_json::from_str(object).ok())
        .unwrap_or_default();
    let (name, shown) = (
        &*workload.metadata.name,
        quote::line(&format!("{} {}", &*workload.kind, &*workload.metadata.name)),
    );
    let pod = Kind::of(&workload.kind).and_then(|kind| kind.pod(name, workload.spec));
    let outcome =
        pod.and_then(|pod| outcome(&request.uid, &namespace, &pod, caller, known, policy).ok());
    let warnings: Vec<String> = outcome
        .iter()
        .flat_map(said)
        .map(|warning| format!("{shown}: {}", warning.replace('"', "'")))
        .collect();
    let response = Response {
        allowed: true,
        warnings: &warnings,
        ..Response::to(&request.uid)
    };
    Ok(Advice {
        reply: reply(response, None),
        verdict: outcome.map(|outcome| outcome.verdict),
        namespace: quote::line(&namespace),
        workload: shown,
        warnings,
    })
}

impl Kind {
    fn of(text: &str) -> Option<Self> {
        Some(match text {
            "Deployment" => Self::Deployment,
            "StatefulSet" => Self::StatefulSet,
            "DaemonSet" => Self::DaemonSet,
            "Job" => Self::Job,
            "CronJob" => Self::CronJob,
            _ => return None,
        })
    }

    /// A pod as the controller would make it; none where there is no template.
    fn pod(self, name: &str, spec: Spec) -> Option<Value> {
        let Spec {
            template,
            job_template,
            volume_claim_templates,
        } = spec;
        let template = match self {
            Self::CronJob => job_template?.spec.template?,
            Self::Deployment | Self::StatefulSet | Self::DaemonSet | Self::Job => template?,
        };
        let mut metadata = template.metadata.unwrap_or_default();
        let mut spec = template.spec.unwrap_or_default();
        // The hash and the time of a run stand for those that the controllers will write.
        let (owner, owner_name) = match self {
            Self::Deployment => ("ReplicaSet", format!("{name}-0")),
            Self::StatefulSet => ("StatefulSet", name.to_owned()),
            Self::DaemonSet => ("DaemonSet", name.to_owned()),
            Self::Job => ("Job", name.to_owned()),
            Self::CronJob => ("Job", format!("{name}-00000000")),
        };
        metadata.insert(
            "ownerReferences".to_owned(),
            json!([{"kind": owner, "name": owner_name, "controller": true}]),
        );
        if let Self::Deployment = self {
            let labels = metadata.entry("labels").or_insert_with(|| json!({}));
            if let Some(labels) = labels.as_object_mut() {
                labels.insert("pod-template-hash".to_owned(), json!("0"));
            }
        }
        if let Self::StatefulSet = self {
            metadata.insert("name".to_owned(), json!(format!("{name}-0")));
            claims(&mut spec, volume_claim_templates.unwrap_or_default());
        } else {
            metadata.remove("name");
            let generated = format!("{owner_name}-");
            metadata.insert("generateName".to_owned(), json!(generated));
        }
        // Written before any webhook is asked.
        spec.entry("serviceAccountName")
            .or_insert_with(|| json!("default"));
        Some(json!({"metadata": metadata, "spec": spec}))
    }
}

/// Each claim is a volume of the pods.
fn claims(spec: &mut Map<String, Value>, templates: Vec<Template>) {
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    let Some(volumes) = volumes.as_array_mut() else {
        return;
    };
    for claim in templates {
        let metadata = claim.metadata.unwrap_or_default();
        if let Some(name) = metadata.get("name") {
            volumes.retain(|volume| volume.get("name") != Some(name));
            volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        }
    }
}

/// What the webhook would answer to the creation of this pod.
fn outcome(
    uid: &str,
    namespace: &str,
    pod: &Value,
    caller: Caller,
    known: Option<Arc<NamespaceMetadata>>,
    policy: &Policy,
) -> Result<Outcome, Undecodable> {
    let label = known.as_ref().and_then(|known| known.inject.as_deref());
    let opt_in = match label {
        Some("tailscale" | "true") => OptIn::Namespace,
        _ => OptIn::Pod,
    };
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": uid, "namespace": namespace, "operation": "CREATE",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "object": pod,
        },
    });
    let body = review.to_string();
    let namespaces = |_: &str| known.clone();
    let mut outcome = mutate(body.as_bytes(), opt_in, caller, &namespaces, policy)?;
    if let (Verdict::Skip(SkipReason::Disabled), Some(off @ ("disabled" | "false"))) =
        (outcome.verdict, label)
    {
        outcome.warnings.insert(0, format!(
            "no sidecar: namespace '{namespace}' is labelled 'sidescale.io/inject: {off}', remove the label or the annotations"
        ));
    }
    Ok(outcome)
}

/// What the author has to know; nothing where the pods get what was asked for.
fn said(outcome: &Outcome) -> Vec<String> {
    let Outcome {
        verdict,
        message,
        warnings,
        ..
    } = outcome;
    match (verdict, message) {
        (Verdict::Deny(_), Some(message)) => {
            let refused = format!("its pods will be refused: {message}");
            [&[refused], &warnings[..]].concat()
        }
        (Verdict::Deny(_) | Verdict::Inject | Verdict::Skip(_), _) => warnings.clone(),
    }
}
