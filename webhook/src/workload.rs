//! A workload's template -> the warnings for its author: the verdict that its pods will get. Pure.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::annotations::{Caller, NamespaceMetadata, SkipReason};
use crate::bounded::parse;
use crate::hostnames::ClaimedHostnames;
use crate::mutate::{
    Incoming, OptIn, ReviewOutcome, Source, Template, Undecodable, Verdict, check,
};
use crate::profile::Policy;
use crate::quote;
use crate::review::{Response, Review, read, reply};
use crate::text::Name;

/// Answer to the review of a workload, with what a log line and the metrics need.
#[derive(Clone, Debug)]
pub struct Advice {
    /// The AdmissionReview to send, as JSON; it always allows.
    pub reply: Vec<u8>,
    /// Verdict on its pods; `None` if the object is no workload that can be parsed.
    pub verdict: Option<Verdict>,
    /// The request's namespace.
    pub namespace: String,
    /// Kind and name of the workload.
    pub workload: String,
    /// Warnings for its author.
    pub warnings: Vec<String>,
}

/// Supported kinds of workload.
#[derive(Clone, Copy)]
enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReviewedWorkload<'a> {
    #[serde(borrow)]
    kind: Name<'a>,
    #[serde(borrow)]
    metadata: NamedWorkload<'a>,
    #[serde(borrow)]
    spec: WorkloadSpec<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedWorkload<'a> {
    #[serde(borrow)]
    name: Name<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WorkloadSpec<'a> {
    #[serde(borrow)]
    template: Option<TemplateParts<'a>>,
    #[serde(borrow)]
    job_template: Option<JobTemplate<'a>>,
    #[serde(borrow)]
    volume_claim_templates: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JobTemplate<'a> {
    #[serde(borrow)]
    spec: JobSpec<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JobSpec<'a> {
    #[serde(borrow)]
    template: Option<TemplateParts<'a>>,
}

/// A template as raw JSON: most workloads ask for nothing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TemplateParts<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
}

/// Answers the review of a workload: allowed, with the verdict on its pods as warnings, as far as the caller may know.
/// `hostnames` lists the owners of hostnames in the tailnets: a verified caller is warned of another's hostname.
///
/// # Errors
/// If the body is no AdmissionReview with a uid; everything else gets an answer.
pub fn validate(
    body: &[u8],
    caller: Caller,
    namespaces: &dyn Fn(&str) -> Option<Arc<NamespaceMetadata>>,
    hostnames: &ClaimedHostnames,
    policy: &Policy,
) -> Result<Advice, Undecodable> {
    let review: Review<'_, &RawValue> = read(body).map_err(Undecodable::Form)?;
    check(&review)?;
    let request = review.request;
    let namespace = request.namespace.unwrap_or_default();
    let known = namespaces(&namespace);
    let object = request.object.map(RawValue::get);
    let workload: ReviewedWorkload<'_> = object
        .and_then(|object| parse(object).ok())
        .unwrap_or_default();
    let (name, shown) = (
        &*workload.metadata.name,
        quote::line(&format!("{} {}", &*workload.kind, &*workload.metadata.name)),
    );
    let template =
        WorkloadKind::of(&workload.kind).and_then(|kind| kind.template(name, workload.spec));
    let outcome = template.and_then(|template| {
        let about = (&*request.uid, &*namespace);
        let seen = (known.as_deref(), hostnames);
        outcome(about, &template, caller, seen, policy).ok()
    });
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

impl WorkloadKind {
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

    /// Returns what the controller would create pods from; `None` without a template.
    fn template<'a>(self, name: &str, spec: WorkloadSpec<'a>) -> Option<Template<'a>> {
        let WorkloadSpec {
            template,
            job_template,
            volume_claim_templates,
        } = spec;
        let TemplateParts { metadata, spec } = match self {
            Self::CronJob => job_template?.spec.template?,
            Self::Deployment | Self::StatefulSet | Self::DaemonSet | Self::Job => template?,
        };
        // The hash and the time of a run are placeholders for those that the controllers will write.
        let owner = match self {
            Self::Deployment => ("ReplicaSet", format!("{name}-0")),
            Self::StatefulSet => ("StatefulSet", name.to_owned()),
            Self::DaemonSet => ("DaemonSet", name.to_owned()),
            Self::Job => ("Job", name.to_owned()),
            Self::CronJob => ("Job", format!("{name}-00000000")),
        };
        let (claims, name) = match self {
            Self::StatefulSet => (volume_claim_templates, Some(format!("{name}-0"))),
            Self::Deployment | Self::DaemonSet | Self::Job | Self::CronJob => (None, None),
        };
        Some(Template {
            metadata,
            spec,
            claims,
            owner,
            name,
            hashed: matches!(self, Self::Deployment),
        })
    }
}

/// Returns the webhook's answer to the creation of a pod from this template.
fn outcome(
    (uid, namespace): (&str, &str),
    template: &Template<'_>,
    caller: Caller,
    (known, hostnames): (Option<&NamespaceMetadata>, &ClaimedHostnames),
    policy: &Policy,
) -> serde_json::Result<ReviewOutcome> {
    let label = known.and_then(|known| known.inject.as_deref());
    let opt_in = match label {
        Some("tailscale" | "true") => OptIn::Namespace,
        _ => OptIn::Pod,
    };
    let pod = Incoming {
        source: Source::Template(template),
        uid,
        namespace,
        metadata: template.metadata()?,
        spec: template.spec()?,
        namespace_metadata: known,
        opt_in,
        caller,
        hostnames: Some(hostnames),
        told: None,
        says_all: false,
    };
    let mut outcome = pod.answer(policy)?;
    if let (Verdict::Skip(SkipReason::Disabled), Some(off @ ("disabled" | "false"))) =
        (outcome.verdict, label)
    {
        outcome.warnings.insert(0, format!(
            "no sidecar: namespace '{namespace}' is labelled 'sidescale.io/inject: {off}', remove the label or the annotations"
        ));
    }
    Ok(outcome)
}

/// Returns what the author has to know; nothing if the pods get what was asked for.
fn said(outcome: &ReviewOutcome) -> Vec<String> {
    let ReviewOutcome {
        verdict,
        message,
        warnings,
        ..
    } = outcome;
    match (verdict, message) {
        (Verdict::Deny(_), Some(message)) => {
            let refused = format!("its pods will be denied: {message}");
            [&[refused], &warnings[..]].concat()
        }
        (Verdict::Deny(_) | Verdict::Inject | Verdict::Skip(_), _) => warnings.clone(),
    }
}
