//! Turns HTTP requests into webhook calls and back. I/O by axum only.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use sidescale_webhook::annotations::NamespaceMetadata;
use sidescale_webhook::mutate::{OptIn, ReviewOutcome, Undecodable, Verdict, mutate};
use sidescale_webhook::profile::Policy;
use sidescale_webhook::quote;
use sidescale_webhook::workload::{Advice, validate};
use tokio::task::JoinError;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use tracing::{debug, error, info, warn};

use super::body::{self, MemoryBudget, ReadBody, Rejection};
use super::connection::CallerCertificate;
use super::lines::{LONGEST_ERROR, LONGEST_NAME, LineCounts, LineKind, beginning};
use crate::config::Current;
use crate::metrics::Metrics;
use crate::watch::Hostnames;
use sidescale_core::causes;

/// Time limit of one request, including the arrival of its body.
const REQUEST: Duration = Duration::from_secs(10);

/// Explains the expected content to the sender of anything else.
const WANTED: &str = "post what an API server sends to a webhook: \
    {\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"request\":{\"uid\":\"...\",\"object\":{...}}}";

/// Looks up the metadata of a namespace.
pub type NamespaceLookup = dyn Fn(&str) -> Option<Arc<NamespaceMetadata>> + Send + Sync;

#[derive(Clone)]
struct Reviews {
    policy: Current,
    namespaces: Arc<NamespaceLookup>,
    hostnames: Arc<Hostnames>,
    metrics: Arc<Metrics>,
    budget: MemoryBudget,
    lines: Arc<LineCounts>,
}

/// Returns the webhook's routes with all their limits.
pub fn router(
    policy: Current,
    namespaces: Arc<NamespaceLookup>,
    hostnames: Arc<Hostnames>,
    metrics: Arc<Metrics>,
) -> Router {
    let reviews = Reviews {
        policy,
        namespaces,
        hostnames,
        metrics,
        budget: MemoryBudget::default(),
        lines: Arc::default(),
    };
    limited(
        Router::new()
            .route("/mutate/namespace", post(namespace))
            .route("/mutate/pod", post(pod))
            .route("/validate", post(workload))
            .with_state(reviews),
    )
}

/// Adds a time limit and a panic handler to `router`.
pub fn limited(router: Router) -> Router {
    router
        .layer(CatchPanicLayer::custom(panicked))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            REQUEST,
        ))
}

async fn namespace(
    State(reviews): State<Reviews>,
    caller: CallerCertificate,
    body: Body,
) -> Response {
    reviews.answer(body, caller, OptIn::Namespace).await
}

async fn pod(State(reviews): State<Reviews>, caller: CallerCertificate, body: Body) -> Response {
    reviews.answer(body, caller, OptIn::Pod).await
}

async fn workload(
    State(reviews): State<Reviews>,
    caller: CallerCertificate,
    body: Body,
) -> Response {
    reviews.advise(body, caller).await
}

impl Reviews {
    async fn answer(&self, body: Body, caller: CallerCertificate, opt_in: OptIn) -> Response {
        self.with(body, move |reviews, bytes| {
            reviews.mutated(bytes, caller, opt_in)
        })
        .await
    }

    /// Warns the author of a workload; never refuses it.
    async fn advise(&self, body: Body, caller: CallerCertificate) -> Response {
        self.with(body, move |reviews, bytes| reviews.advised(bytes, caller))
            .await
    }

    /// Reads the body and answers it, a large one separately from the small ones.
    async fn with(
        &self,
        body: Body,
        answer: impl FnOnce(&Self, &[u8]) -> Response + Send + 'static,
    ) -> Response {
        let read = match body::read(body, &self.budget).await {
            Ok(read) => read,
            Err(rejection) => return self.rejected(rejection),
        };
        let ReadBody {
            bytes,
            large,
            permit,
        } = read;
        if !large {
            let response = answer(self, &bytes);
            drop((bytes, permit));
            return response;
        }
        let turn = self.budget.turn().await;
        let reviews = self.clone();
        let answered = tokio::task::spawn_blocking(move || {
            let response = answer(&reviews, &bytes);
            drop((bytes, permit, turn));
            response
        });
        match answered.await.map_err(JoinError::try_into_panic) {
            Ok(response) => response,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The process is shutting down.
            Err(Err(_)) => self.rejected(Rejection::Busy),
        }
    }

    fn mutated(&self, bytes: &[u8], caller: CallerCertificate, opt_in: OptIn) -> Response {
        let start = Instant::now();
        let policy = self.policy();
        match mutate(bytes, opt_in, caller.into(), &*self.namespaces, &policy) {
            Ok(outcome) => {
                self.metrics
                    .review_seconds
                    .observe(start.elapsed().as_secs_f64());
                self.note(&outcome, caller);
                json(outcome.reply)
            }
            Err(error) => self.undecodable(&error),
        }
    }

    fn advised(&self, bytes: &[u8], caller: CallerCertificate) -> Response {
        let (hostnames, policy) = (self.hostnames.get(), self.policy());
        match validate(bytes, caller.into(), &*self.namespaces, &hostnames, &policy) {
            Ok(advice) => {
                let Advice {
                    reply,
                    verdict,
                    namespace,
                    workload,
                    warnings,
                } = advice;
                let (verdict, reason) = verdict.map_or(("none", "notAWorkload"), |verdict| {
                    (verdict.as_str(), verdict.reason())
                });
                self.metrics
                    .workload_reviews
                    .with_label_values(&[verdict, reason])
                    .inc();
                debug!(
                    namespace,
                    workload,
                    verdict,
                    reason,
                    warnings = warnings.len(),
                    caller = caller.as_str(),
                    "Reviewed workload"
                );
                json(reply)
            }
            Err(error) => self.undecodable(&error),
        }
    }

    /// Returns the current policy, for one decision.
    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.borrow())
    }

    fn rejected(&self, rejection: Rejection) -> Response {
        self.metrics.rejected(rejection.as_str());
        rejection.into_response()
    }

    fn undecodable(&self, error: &Undecodable) -> Response {
        self.metrics.rejected("undecodable");
        let text = format!("{}; {WANTED}", quote::line(&causes::all(error)));
        if let Some(omitted) = self.lines.admit(LineKind::Undecodable, Instant::now()) {
            let error = beginning(&text, LONGEST_ERROR);
            warn!(error, omitted, "Request rejected: not an AdmissionReview");
        }
        (StatusCode::BAD_REQUEST, text).into_response()
    }

    /// Returns whether a line of `kind` may be written now, with the number omitted before it. An API server is
    /// trusted.
    fn admit(&self, kind: LineKind, caller: CallerCertificate) -> Option<u64> {
        match caller {
            CallerCertificate::Verified => Some(0),
            CallerCertificate::Unverified => self.lines.admit(kind, Instant::now()),
        }
    }

    /// Counts the outcome, and logs a line if the pod was affected.
    fn note(&self, outcome: &ReviewOutcome, caller: CallerCertificate) {
        let ReviewOutcome {
            reply: _,
            verdict,
            kinds,
            patch_bytes,
            namespace,
            pod,
            service,
            profile,
            message,
            withheld,
            unknown,
            warnings: _,
        } = outcome;
        let message = withheld.as_ref().or(message.as_ref());
        let sidecar = kinds.as_str();
        self.metrics
            .reviews
            .with_label_values(&[verdict.as_str(), verdict.reason(), sidecar])
            .inc();
        if *patch_bytes > 0 {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a patch is far below 2^52 bytes"
            )]
            self.metrics.patch_bytes.observe(*patch_bytes as f64);
        }
        let namespace = beginning(namespace, LONGEST_NAME);
        let pod = beginning(pod, LONGEST_NAME);
        let whose = caller.as_str();
        for remark in unknown {
            if let Some(omitted) = self.admit(LineKind::Remark, caller) {
                info!(namespace, pod, remark, omitted, "Unknown annotation");
            }
        }
        match verdict {
            Verdict::Inject => {
                if let Some(omitted) = self.admit(LineKind::Injected, caller) {
                    info!(
                        namespace,
                        pod,
                        sidecar,
                        service,
                        profile,
                        caller = whose,
                        omitted,
                        "Injected pod"
                    );
                }
            }
            Verdict::Deny(reason) => {
                if let Some(omitted) = self.admit(LineKind::Denied, caller) {
                    let reason = reason.as_str();
                    info!(
                        namespace,
                        pod,
                        reason,
                        message,
                        caller = whose,
                        omitted,
                        "Denied pod"
                    );
                }
            }
            Verdict::Skip(reason) => {
                debug!(namespace, pod, reason = reason.as_str(), "Skipped pod")
            }
        }
    }
}

fn json(reply: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], reply).into_response()
}

/// Answers for a handler that panicked: the API server then applies the failurePolicy.
fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let what = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    // The text is from our own source; a review's bytes are never formatted into a panic.
    error!(
        panic = what,
        "Handler panicked: this is a bug in Sidescale, please report it"
    );
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal error in Sidescale: see its log",
    )
        .into_response()
}
