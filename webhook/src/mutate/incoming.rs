//! A pod that is being created, and its answer. Pure.

use super::fit::{Obstacle, SidecarPlacement, fit, prune, refuse_what_is_too_large};
use super::hostname;
use super::outcome::{OptIn, ReviewOutcome, Verdict};
use super::public_reply::PublicReply;
use super::source::Source;
use crate::annotations::{
    self, Caller, Decision, DenyReason, Injection, Kinds, Lookup, NamespaceMetadata, Refusal,
    SkipReason, Subject, decide,
};
use crate::hostnames::ClaimedHostnames;
use crate::json::write;
use crate::keys::SAFE_TO_EVICT;
use crate::patch;
use crate::pod::{Annotations, Containers, Metadata, ServiceLabels, Spec};
use crate::profile::Policy;
use crate::quote;
use crate::review::{AuditAnnotations, Response, Status, reply};
use crate::sidecar::Receipt;

/// Longest list of volumes for the autoscaler that is added to: the patch repeats it.
const LONGEST_LIST: usize = 16 << 10;

/// A pod that is being created, or that a workload's controller will create.
pub(crate) struct Incoming<'a> {
    /// Source to read more of the pod from.
    pub(crate) source: Source<'a>,
    pub(crate) uid: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) metadata: Metadata<'a>,
    pub(crate) spec: Spec<'a>,
    pub(crate) namespace_metadata: Option<&'a NamespaceMetadata>,
    pub(crate) opt_in: OptIn,
    pub(crate) caller: Caller,
    /// Owners of the hostnames in the tailnets; `None` if the answer reaches no one who could choose another.
    pub(crate) hostnames: Option<&'a ClaimedHostnames>,
    /// Limits what the caller is shown; `None` shows everything.
    pub(crate) told: Option<PublicReply>,
    /// Whether to return all messages, even for a pod that already has our receipt: to find out what may be shown.
    pub(crate) says_all: bool,
}

impl Incoming<'_> {
    /// Decides, and answers with what the caller may know.
    ///
    /// # Errors
    /// If a field read later from the pod is of the wrong kind.
    pub(crate) fn answer(self, policy: &Policy) -> serde_json::Result<ReviewOutcome> {
        let outcome = self.decided(policy)?;
        let says = outcome.message.is_some() || !outcome.warnings.is_empty();
        let Some(metadata) = self.namespace_metadata.filter(|metadata| {
            self.caller == Caller::Unverified && says && !metadata.annotations.is_empty()
        }) else {
            return Ok(outcome);
        };
        // The answer to the same pod in a namespace without annotations depends on no annotation of a namespace.
        let bare = NamespaceMetadata {
            annotations: [].into(),
            ..metadata.clone()
        };
        let mut pod = Incoming {
            namespace_metadata: Some(&bare),
            says_all: true,
            ..self
        };
        let told = PublicReply::of(pod.decided(policy)?);
        if told.covers(&outcome) {
            return Ok(outcome);
        }
        pod.namespace_metadata = Some(metadata);
        pod.told = Some(told);
        pod.says_all = false;
        pod.decided(policy)
    }

    fn decided(&self, policy: &Policy) -> serde_json::Result<ReviewOutcome> {
        let annotations = self.metadata.annotations.as_ref();
        if annotations.is_some_and(|annotations| annotations.mirror) {
            return Ok(self.quiet(SkipReason::MirrorPod));
        }
        if self.is_ours() {
            return Ok(self.quiet(SkipReason::AlreadyInjected));
        }
        let (no_annotations, no_labels) = (Annotations::default(), ServiceLabels::default());
        let annotations = annotations.unwrap_or(&no_annotations);
        // A selector may ask for any label, which is rare: only then the pod is parsed a second time.
        let all = if policy.has_pod_selectors() && self.opt_in == OptIn::Namespace {
            let wanted: Vec<&str> = policy.pod_labels().into_iter().collect();
            Some(self.source.labels(&wanted)?)
        } else {
            None
        };
        let labels: &dyn Lookup = match &all {
            Some(all) => all,
            None => self.metadata.labels.as_ref().unwrap_or(&no_labels),
        };
        let subject = Subject {
            namespace: self.namespace,
            name: self.metadata.name.as_deref().unwrap_or_default(),
            annotations,
            labels,
            owner: self.metadata.owner(),
            namespace_metadata: self.namespace_metadata,
            namespace_opted_in: self.opt_in == OptIn::Namespace,
            profile: None,
            caller: self.caller,
            request: self.uid,
        };
        let unknown = annotations::unknown(annotations, self.namespace_metadata);
        let decision = match decide(&subject, policy) {
            Decision::Skip(reason) => Decision::Skip(reason),
            _ if !policy.inject => Decision::Skip(SkipReason::SwitchedOff),
            decision => decision,
        };
        let mut injection = match decision {
            Decision::Deny(refusal) => return Ok(self.deny(refusal, unknown)),
            Decision::Skip(reason) => {
                let remark = reason.remark().map(str::to_owned);
                return Ok(self.skip(reason, unknown, remark.as_slice()));
            }
            Decision::Warn(refusal) => return Ok(self.warn(refusal, unknown)),
            Decision::Inject(injection) => injection,
        };
        // The answer depends on the named namespace: only for a caller that may know that.
        if let (Some(hostnames), Caller::Verified) = (self.hostnames, self.caller) {
            let remark = hostname::remark(&injection, self.namespace, hostnames, policy);
            injection.remarks.extend(remark);
        }
        let too_large =
            refuse_what_is_too_large(&self.spec).and_then(|()| refuse_a_long_list(annotations));
        if let Err(refusal) = too_large {
            return Ok(self.refuse(refusal, policy, injection.profile, unknown));
        }
        // Such a pod gets its key as a file, whose mode depends on the pod's group.
        let shares = self.spec.share_process_namespace == Some(true);
        let details = if injection.needs_details() || shares {
            self.source.details()?
        } else {
            None
        };
        let fit = prune(&mut injection, &self.spec, details.as_ref())
            .and_then(|()| fit(&mut injection, &self.spec, details.as_ref()));
        Ok(match fit {
            Ok(fit) => self.inject(&injection, &fit, unknown),
            Err(Obstacle::Skip(reason)) => {
                self.skip(reason, unknown, &self.told(&injection.remarks))
            }
            Err(Obstacle::Deny(refusal)) => {
                self.refuse(refusal, policy, injection.profile, unknown)
            }
        })
    }

    /// Denies the pod, or allows it with a warning if the profile says so.
    fn refuse(
        &self,
        refusal: Refusal,
        policy: &Policy,
        profile: &str,
        unknown: Vec<String>,
    ) -> ReviewOutcome {
        if policy.tolerates(profile) {
            self.warn(refusal, unknown)
        } else {
            self.deny(refusal, unknown)
        }
    }

    /// Returns whether the pod is our own output, submitted again.
    fn is_ours(&self) -> bool {
        let labels = self.metadata.labels.as_ref();
        let label = labels.and_then(|labels| labels.sidecar.as_deref());
        let annotations = self.metadata.annotations.as_ref();
        if annotations.and_then(Annotations::status).is_none() {
            return false;
        }
        let has = |list: Option<&Containers>, is: fn(&Containers) -> bool| list.is_some_and(is);
        let Spec {
            init_containers,
            containers,
            ..
        } = &self.spec;
        label.and_then(Kinds::of_label).is_some_and(|kinds| {
            let Kinds {
                tailscale,
                apikey_manager,
                server_keys,
            } = kinds;
            let volumes = self.spec.volumes.as_ref();
            (!server_keys || volumes.is_some_and(|volumes| volumes.server_keys))
                && (!tailscale
                    || has(init_containers.as_ref(), |list| list.tailscale)
                    || has(containers.as_ref(), |list| list.tailscale))
                && (!apikey_manager || has(containers.as_ref(), |list| list.manager))
        })
    }

    fn inject(
        &self,
        injection: &Injection<'_>,
        fit: &SidecarPlacement<'_>,
        unknown: Vec<String>,
    ) -> ReviewOutcome {
        let Self {
            metadata,
            spec,
            namespace,
            ..
        } = self;
        let told = self.told(&unknown);
        let receipt = Receipt::of_injection(injection, self.namespace_unknown(), &told);
        let patch = patch::injection(metadata, spec, injection, fit, &receipt, namespace);
        let warnings = self.told(&[&unknown[..], &injection.remarks, &fit.remarks].concat());
        let response = Response {
            allowed: true,
            warnings: &warnings,
            ..self.audited(Verdict::Inject, Some(injection.profile))
        };
        ReviewOutcome {
            reply: reply(response, Some(&patch)),
            patch_bytes: patch.len(),
            kinds: injection.kinds(),
            service: injection
                .tailscale
                .as_ref()
                .map(|sidecar| sidecar.service.to_owned()),
            profile: Some(injection.profile.to_owned()),
            unknown,
            warnings,
            ..self.outcome(Verdict::Inject)
        }
    }

    /// Skips the pod; an annotated one gets the reason.
    fn skip(&self, reason: SkipReason, unknown: Vec<String>, remarks: &[String]) -> ReviewOutcome {
        let verdict = Verdict::Skip(reason);
        let annotations = self.metadata.annotations.as_ref();
        let annotated = annotations.is_some_and(Annotations::asks);
        if reason == SkipReason::NotRequested && !annotated {
            return self.quiet(reason);
        }
        let mut text = Vec::new();
        let told = self.told(&unknown);
        write(
            &mut text,
            &Receipt::of_skip(reason, self.namespace_unknown(), &told),
        );
        let text = String::from_utf8_lossy(&text);
        if annotations.and_then(Annotations::status) == Some(&*text) && !self.says_all {
            return self.quiet(SkipReason::AlreadyInjected);
        }
        let patch = if annotated {
            patch::receipt(&self.metadata, &text)
        } else {
            Vec::new()
        };
        let warnings = [&told[..], remarks].concat();
        let response = Response {
            allowed: true,
            warnings: &warnings,
            ..self.audited(verdict, None)
        };
        ReviewOutcome {
            reply: reply(response, annotated.then_some(&patch)),
            patch_bytes: patch.len(),
            unknown,
            warnings,
            ..self.outcome(verdict)
        }
    }

    /// Skips a pod whose author has to correct something.
    fn warn(&self, refusal: Refusal, unknown: Vec<String>) -> ReviewOutcome {
        let (message, withheld) = self.message(refusal.message);
        // Helm escapes double quotes in what it shows.
        let remark = format!("no sidecar: {}", message.replace('"', "'"));
        let outcome = self.skip(SkipReason::Invalid, unknown, &[remark]);
        ReviewOutcome {
            message: Some(message),
            withheld,
            ..outcome
        }
    }

    fn deny(&self, refusal: Refusal, unknown: Vec<String>) -> ReviewOutcome {
        let Refusal { reason, message } = refusal;
        let (message, withheld) = self.message(message);
        let told = self.told(&unknown);
        let verdict = Verdict::Deny(reason);
        let status = Status {
            code: 403,
            reason: "Forbidden",
            message: &message,
        };
        let response = Response {
            status: Some(status),
            warnings: &told,
            ..self.audited(verdict, None)
        };
        let reply = reply(response, None);
        ReviewOutcome {
            reply,
            message: Some(message),
            withheld,
            warnings: told,
            unknown,
            ..self.outcome(verdict)
        }
    }

    /// Returns the message of a mistake for the caller, and the withheld one for the log.
    fn message(&self, message: String) -> (String, Option<String>) {
        let Some(told) = &self.told else {
            return (message, None);
        };
        let said = told.message(&message, self.namespace);
        let withheld = (said != message).then_some(message);
        (said, withheld)
    }

    /// Returns those of the texts that the caller may see.
    fn told(&self, texts: &[String]) -> Vec<String> {
        match &self.told {
            Some(told) => told.texts(texts),
            None => texts.to_vec(),
        }
    }

    /// Returns whether the receipt says that the namespace was not known.
    fn namespace_unknown(&self) -> bool {
        match self.caller {
            Caller::Verified => self.namespace_metadata.is_none(),
            Caller::Unverified => false,
        }
    }

    /// Allows the pod without a message, not even in the audit log, where a second pass would contradict the first.
    fn quiet(&self, reason: SkipReason) -> ReviewOutcome {
        let response = Response {
            allowed: true,
            ..Response::to(self.uid)
        };
        ReviewOutcome {
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

    fn outcome(&self, verdict: Verdict) -> ReviewOutcome {
        let Metadata {
            name,
            generate_name,
            ..
        } = &self.metadata;
        let pod = name
            .as_deref()
            .or(generate_name.as_deref())
            .unwrap_or_default();
        ReviewOutcome {
            reply: Vec::new(),
            verdict,
            kinds: Kinds::default(),
            patch_bytes: 0,
            namespace: quote::line(self.namespace),
            pod: quote::line(pod),
            service: None,
            profile: None,
            message: None,
            withheld: None,
            unknown: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// Refuses a list of volumes that is longer than any that makes sense.
fn refuse_a_long_list(annotations: &Annotations<'_>) -> Result<(), Refusal> {
    let list = annotations.safe_to_evict.as_deref().unwrap_or_default();
    if list.len() <= LONGEST_LIST {
        return Ok(());
    }
    let message = format!(
        "annotation \"{SAFE_TO_EVICT}\" has {} bytes: want at most {LONGEST_LIST}, the names of the pod's volumes",
        list.len()
    );
    Err(Refusal {
        reason: DenyReason::TooLarge,
        message,
    })
}
