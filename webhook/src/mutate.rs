//! One AdmissionReview in, one out: parsed, decided, patched, answered. Pure.

use std::sync::Arc;

use thiserror::Error;

use crate::annotations::{
    self, Decision, DenyReason, Injection, NamespaceMetadata, PREFIX, Refusal, SkipReason, Subject,
    decide,
};
use crate::patch::{self, write};
use crate::pod::{Annotations, Containers, Labels, Metadata, Pod, Spec};
use crate::profile::{Delivery, Policy};
use crate::review::{
    API_VERSION, AnyReview, AuditAnnotations, KIND, PodReview, Reply, Response, Review, Status,
};
use crate::sidecar::Receipt;
use crate::sidecar::tailscale::{Fit, Needs};
use crate::text::Text;

/// Says which entry of the webhook configuration a review came through, which its path shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptIn {
    /// `/mutate/namespace`: the namespace's label asks for a sidecar in every pod.
    Namespace,
    /// `/mutate/pod`: the pod has an annotation of ours.
    Pod,
}

/// Sums up what became of a pod; counted and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The author has to mend something.
    Deny(DenyReason),
    /// Patched.
    Inject,
    /// Left alone.
    Skip(SkipReason),
}

/// Holds the answer to one review, and what a log line and the metrics need of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The AdmissionReview to send, as JSON.
    pub reply: Vec<u8>,
    /// What became of the pod.
    pub verdict: Verdict,
    /// Bytes of the patch before base64; 0 where there is none.
    pub patch_bytes: usize,
    /// The request's namespace.
    pub namespace: String,
    /// The pod's name, or its `generateName`.
    pub pod: String,
    /// The service, where one was found.
    pub service: Option<String>,
    /// The profile, where the pod was injected.
    pub profile: Option<String>,
    /// What the author of a denied pod is told.
    pub message: Option<String>,
    /// One remark for each key under our prefix that nothing knows, with the nearest that something does.
    pub unknown: Vec<String>,
}

/// Says why a body is no AdmissionReview that can be answered: HTTP 400.
#[derive(Debug, Error)]
pub enum Undecodable {
    /// Not JSON, or not of the form.
    #[error("the body is not an admission.k8s.io/v1 AdmissionReview with a request")]
    Form(#[source] serde_json::Error),
    /// Another kind or version.
    #[error(
        "the body is {kind:?} of {api_version:?}: want AdmissionReview of \"admission.k8s.io/v1\""
    )]
    Kind {
        /// `apiVersion` as sent.
        api_version: String,
        /// `kind` as sent.
        kind: String,
    },
    /// Nothing to echo.
    #[error("request.uid is empty: an answer without it would be refused")]
    NoUid,
}

impl Verdict {
    /// The bounded label `verdict`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny(_) => "deny",
            Self::Inject => "inject",
            Self::Skip(_) => "skip",
        }
    }

    /// The bounded label `reason`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Deny(reason) => reason.as_str(),
            Self::Inject => "requested",
            Self::Skip(reason) => reason.as_str(),
        }
    }
}

/// Answers one review.
///
/// `namespaces` gives what the index holds of a namespace: `None` where it has not seen it yet.
///
/// # Errors
/// If the body is no AdmissionReview with a uid; everything else gets an answer.
pub fn mutate(
    body: &[u8],
    opt_in: OptIn,
    namespaces: &dyn Fn(&str) -> Option<Arc<NamespaceMetadata>>,
    policy: &Policy,
) -> Result<Outcome, Undecodable> {
    let review: PodReview<'_> = match serde_json::from_slice(body) {
        Ok(review) => review,
        Err(error) => return not_a_pod(body, error),
    };
    check(&review)?;
    let request = review.request;
    let uid = &*request.uid;
    if !request.is_pod_create() {
        return Ok(untouched(uid, request.namespace, SkipReason::NotAPodCreate));
    }
    let Some(Pod {
        metadata: Some(metadata),
        spec: Some(spec),
    }) = request.object
    else {
        return Ok(untouched(uid, request.namespace, SkipReason::NotAPodCreate));
    };
    let namespace = request.namespace.unwrap_or_default();
    let known = namespaces(&namespace);
    let subject = Incoming {
        uid,
        namespace: &namespace,
        metadata,
        spec,
        namespace_metadata: known.as_deref(),
        opt_in,
    };
    Ok(subject.answer(policy))
}

/// A review that cannot be read as a pod's is answered all the same, if it is of something else.
fn not_a_pod(body: &[u8], error: serde_json::Error) -> Result<Outcome, Undecodable> {
    let Ok(review) = serde_json::from_slice::<AnyReview<'_>>(body) else {
        return Err(Undecodable::Form(error));
    };
    check(&review)?;
    let request = review.request;
    if request.is_pod_create() {
        return Err(Undecodable::Form(error));
    }
    Ok(untouched(
        &request.uid,
        request.namespace,
        SkipReason::NotAPodCreate,
    ))
}

fn check<O>(review: &Review<'_, O>) -> Result<(), Undecodable> {
    let Review {
        api_version,
        kind,
        request,
    } = review;
    if &**api_version != API_VERSION || &**kind != KIND {
        return Err(Undecodable::Kind {
            api_version: api_version.to_string(),
            kind: kind.to_string(),
        });
    }
    if request.uid.is_empty() {
        Err(Undecodable::NoUid)
    } else {
        Ok(())
    }
}

fn untouched(uid: &str, namespace: Option<Text<'_>>, reason: SkipReason) -> Outcome {
    let response = Response {
        allowed: true,
        ..Response::to(uid)
    };
    Outcome {
        reply: reply(response, None),
        verdict: Verdict::Skip(reason),
        patch_bytes: 0,
        namespace: namespace.unwrap_or_default().0.into_owned(),
        pod: String::new(),
        service: None,
        profile: None,
        message: None,
        unknown: Vec::new(),
    }
}

fn reply(response: Response<'_>, patch: Option<&[u8]>) -> Vec<u8> {
    Reply {
        api_version: API_VERSION,
        kind: KIND,
        response,
    }
    .to_json(patch)
}

/// A pod that is being created.
struct Incoming<'a> {
    uid: &'a str,
    namespace: &'a str,
    metadata: Metadata<'a>,
    spec: Spec<'a>,
    namespace_metadata: Option<&'a NamespaceMetadata>,
    opt_in: OptIn,
}

impl Incoming<'_> {
    fn answer(&self, policy: &Policy) -> Outcome {
        let annotations = self.metadata.annotations.as_ref();
        if annotations.is_some_and(|annotations| annotations.mirror) {
            return self.quiet(SkipReason::MirrorPod);
        }
        if self.is_ours() {
            return self.quiet(SkipReason::AlreadyInjected);
        }
        let (no_annotations, no_labels) = (Annotations::default(), Labels::default());
        let annotations = annotations.unwrap_or(&no_annotations);
        let subject = Subject {
            namespace: self.namespace,
            name: self.metadata.name.as_deref().unwrap_or_default(),
            annotations,
            labels: self.metadata.labels.as_ref().unwrap_or(&no_labels),
            owner: self.metadata.owner(),
            namespace_metadata: self.namespace_metadata,
            namespace_opted_in: self.opt_in == OptIn::Namespace,
        };
        let unknown = annotations::unknown(annotations, self.namespace_metadata);
        match decide(&subject, policy) {
            Decision::Deny(refusal) => self.deny(refusal, unknown),
            Decision::Skip(reason) => self.skip(reason, unknown),
            Decision::Inject(injection) => match self.fit(&injection) {
                Ok(fit) => self.inject(&injection, fit, unknown),
                Err(Obstacle::Skip(reason)) => self.skip(reason, unknown),
                Err(Obstacle::Deny(refusal)) => self.deny(refusal, unknown),
            },
        }
    }

    /// Whether this is our own output, come back.
    fn is_ours(&self) -> bool {
        let labelled = self
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.sidecar);
        let receipt = self
            .metadata
            .annotations
            .as_ref()
            .and_then(Annotations::status);
        labelled
            && receipt.is_some()
            && self
                .spec
                .init_containers
                .as_ref()
                .is_some_and(|list| list.ours)
    }

    /// What the spec adds to the decision.
    fn fit(&self, injection: &Injection<'_>) -> Result<Fit, Obstacle> {
        let spec = &self.spec;
        if spec.host_network == Some(true) {
            return Err(Obstacle::Skip(SkipReason::HostNetwork));
        }
        if spec.is_windows() {
            return Err(Obstacle::Skip(SkipReason::Windows));
        }
        let lists = [spec.init_containers.as_ref(), spec.containers.as_ref()];
        let name_taken = lists.iter().flatten().any(|list| list.ours);
        if name_taken || spec.volumes.as_ref().is_some_and(|volumes| volumes.ours) {
            return Err(Obstacle::Skip(SkipReason::NameTaken));
        }
        let delivery = if spec.share_process_namespace != Some(true) {
            injection.delivery
        } else if injection.delivery_asked && injection.delivery == Delivery::Env {
            let message = format!(
                "annotation \"{PREFIX}auth-key-delivery\" is \"env\": the pod has shareProcessNamespace, so every container could read the key there: want file, or remove the annotation"
            );
            return Err(Obstacle::Deny(Refusal {
                reason: DenyReason::NotAllowed,
                message,
            }));
        } else {
            Delivery::File
        };
        let health_port = if injection.wait {
            Some(free_port(lists)?)
        } else {
            None
        };
        let needs = if spec.resources.is_some() {
            Needs::OfThePod
        } else if lists.iter().flatten().all(|list| list.guaranteed) {
            Needs::Guaranteed
        } else {
            Needs::Configured
        };
        Ok(Fit {
            delivery,
            health_port,
            needs,
        })
    }

    fn inject(&self, injection: &Injection<'_>, fit: Fit, unknown: Vec<String>) -> Outcome {
        let receipt = Receipt::of_injection(injection, self.namespace_metadata.is_none(), &unknown);
        let patch = patch::injection(&self.metadata, &self.spec, injection, fit, &receipt);
        let response = Response {
            allowed: true,
            warnings: &unknown,
            ..self.audited(Verdict::Inject, Some(injection.profile))
        };
        Outcome {
            reply: reply(response, Some(&patch)),
            patch_bytes: patch.len(),
            service: Some(injection.service.clone()),
            profile: Some(injection.profile.to_owned()),
            unknown,
            ..self.outcome(Verdict::Inject)
        }
    }

    /// Leaves the pod alone; an annotated one is told why.
    fn skip(&self, reason: SkipReason, unknown: Vec<String>) -> Outcome {
        let verdict = Verdict::Skip(reason);
        let annotations = self.metadata.annotations.as_ref();
        let annotated = annotations.is_some_and(Annotations::asks);
        if reason == SkipReason::NotRequested && !annotated {
            return self.quiet(reason);
        }
        let mut text = Vec::new();
        write(
            &mut text,
            &Receipt::of_skip(reason, self.namespace_metadata.is_none(), &unknown),
        );
        let text = String::from_utf8_lossy(&text);
        if annotations.and_then(Annotations::status) == Some(&*text) {
            return self.quiet(SkipReason::AlreadyInjected);
        }
        let patch = if annotated {
            patch::receipt(&self.metadata, &text)
        } else {
            Vec::new()
        };
        let mut warnings = unknown.clone();
        warnings.extend(reason.remark().map(str::to_owned));
        let response = Response {
            allowed: true,
            warnings: &warnings,
            ..self.audited(verdict, None)
        };
        Outcome {
            reply: reply(response, annotated.then_some(&patch)),
            patch_bytes: patch.len(),
            unknown,
            ..self.outcome(verdict)
        }
    }

    fn deny(&self, refusal: Refusal, unknown: Vec<String>) -> Outcome {
        let Refusal { reason, message } = refusal;
        let verdict = Verdict::Deny(reason);
        let status = Status {
            code: 403,
            reason: "Forbidden",
            message: &message,
        };
        let response = Response {
            status: Some(status),
            warnings: &unknown,
            ..self.audited(verdict, None)
        };
        let reply = reply(response, None);
        Outcome {
            reply,
            message: Some(message),
            unknown,
            ..self.outcome(verdict)
        }
    }

    /// Lets the pod pass without a word, not even in the audit log, where a second pass would contradict the first.
    fn quiet(&self, reason: SkipReason) -> Outcome {
        let response = Response {
            allowed: true,
            ..Response::to(self.uid)
        };
        Outcome {
            reply: reply(response, None),
            ..self.outcome(Verdict::Skip(reason))
        }
    }

    fn audited<'r>(&'r self, verdict: Verdict, profile: Option<&'r str>) -> Response<'r> {
        let audit = AuditAnnotations {
            decision: verdict.as_str(),
            reason: verdict.reason(),
            profile,
        };
        Response {
            audit_annotations: Some(audit),
            ..Response::to(self.uid)
        }
    }

    fn outcome(&self, verdict: Verdict) -> Outcome {
        let Metadata {
            name,
            generate_name,
            ..
        } = &self.metadata;
        let pod = name
            .as_deref()
            .or(generate_name.as_deref())
            .unwrap_or_default();
        Outcome {
            reply: Vec::new(),
            verdict,
            patch_bytes: 0,
            namespace: self.namespace.to_owned(),
            pod: pod.to_owned(),
            service: None,
            profile: None,
            message: None,
            unknown: Vec::new(),
        }
    }
}

/// What in a pod's spec stands against the injection that its metadata asks for.
enum Obstacle {
    Deny(Refusal),
    Skip(SkipReason),
}

fn free_port(lists: [Option<&Containers>; 2]) -> Result<u16, Obstacle> {
    Containers::free_port(lists).ok_or_else(|| {
        let message = format!(
            "annotation \"{PREFIX}wait\" is \"true\": the health check needs a port from 9002 to 9065, and the pod's containers use all of them: free one, or remove the annotation"
        );
        Obstacle::Deny(Refusal { reason: DenyReason::NotAllowed, message })
    })
}
