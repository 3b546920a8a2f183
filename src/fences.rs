//! The fences around our own account: whether each policy refuses what it must, by the answer to a dry run. Pure.
//!
//! RBAC cannot limit the names of Secrets that an account creates, nor the fields that it changes, so the chart
//! installs a ValidatingAdmissionPolicy for each such right. Helm's install order has no place for policies, and anyone
//! with the right can delete one: so the process tests them itself, by requests that change nothing even if they are
//! admitted.

use std::time::Duration;

mod run;

pub use run::{Fences, settled};

/// Reason of the Event about an open fence.
pub const FENCE_OPEN: &str = "FenceOpen";

/// How often an open fence is tested within [`FIRST`], while nothing is reported.
const SOON: Duration = Duration::from_secs(1);

/// A policy takes a second or two to come into force at an installation: a fence that is open after this long is
/// reported.
const FIRST: Duration = Duration::from_secs(60);

/// How often an open fence is tested after that.
const WHILE_OPEN: Duration = Duration::from_secs(10);

/// How often a fence that could not be tested is tested again.
const WHILE_UNKNOWN: Duration = Duration::from_secs(300);

/// How often closed fences are tested.
const WHILE_CLOSED: Duration = Duration::from_secs(3_600);

/// A right of our account, and the policy that limits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fence {
    /// Create and update Secrets: only those on the list, Opaque, with our label.
    Secrets,
    /// Patch our webhook configurations: only `clientConfig.caBundle`.
    Webhooks,
    /// Write Events: only in our own name.
    Events,
    /// Evict pods: none of the cluster's own namespaces and of ours.
    Evictions,
}

impl Fence {
    /// All fences.
    pub const ALL: [Self; 4] = [Self::Secrets, Self::Webhooks, Self::Events, Self::Evictions];

    /// Returns the metric's label, which is the suffix of the policy's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secrets => "secrets",
            Self::Webhooks => "webhooks",
            Self::Events => "events",
            Self::Evictions => "evictions",
        }
    }

    /// Returns the name of its policy, and of that policy's binding, for an installation with that name.
    #[must_use]
    pub fn policy(self, installation: &str) -> String {
        format!("{installation}-{}", self.as_str())
    }

    /// Returns what a stolen token of ours may do while it is open.
    fn danger(self) -> &'static str {
        match self {
            Self::Secrets => {
                "create a Secret of any name and type, including a token of another account"
            }
            Self::Webhooks => "send every object of the cluster to any URL, and change every pod",
            Self::Events => "write Events in the name of any component",
            Self::Evictions => "evict pods of the cluster's own namespaces",
        }
    }
}

/// The API server's answer to a request that a fence must refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DryRunAnswer {
    /// It was admitted.
    Admitted,
    /// It was refused.
    Refused {
        code: u16,
        /// The reason in one word.
        reason: String,
        /// The explanation.
        message: String,
        /// Whether a disruption budget is the cause.
        budget: bool,
    },
    /// There was no answer, and why.
    None(String),
}

/// Whether a fence holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FenceVerdict {
    /// Its policy refused, or Sidescale does not have the right.
    Closed,
    /// Something else refused, so the policy is unknown; the text says what.
    Unknown(String),
    /// The request was admitted: the policy, or its binding, is not in force.
    Open,
}

/// Judges an answer to a request that `policy` must refuse.
pub(crate) fn judge(policy: &str, answer: &DryRunAnswer) -> FenceVerdict {
    let (code, reason, message, budget) = match answer {
        DryRunAnswer::Admitted => return FenceVerdict::Open,
        DryRunAnswer::None(why) => return FenceVerdict::Unknown(why.clone()),
        DryRunAnswer::Refused {
            code,
            reason,
            message,
            budget,
        } => (*code, reason.as_str(), message.as_str(), *budget),
    };
    let by_policy = message.contains(&format!("ValidatingAdmissionPolicy '{policy}' "));
    // `secrets is forbidden: User "..." cannot create resource "secrets" in API group ""`: RBAC's own words.
    let by_rbac = code == 403
        && message.contains(" is forbidden: User \"")
        && message.contains(" cannot ")
        && message.contains(" resource \"");
    if by_policy || by_rbac {
        return FenceVerdict::Closed;
    }
    // Both checks run after admission: the object would have been written, or the pod evicted.
    if reason == "AlreadyExists" || code == 429 && budget {
        return FenceVerdict::Open;
    }
    FenceVerdict::Unknown(format!("denied with {code} {reason}: {}", cut(message)))
}

/// Returns the worst of several verdicts on one fence.
pub(crate) fn worst(verdicts: impl IntoIterator<Item = FenceVerdict>) -> FenceVerdict {
    verdicts.into_iter().max().unwrap_or(FenceVerdict::Closed)
}

/// The consequences of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextRound {
    /// Whether work that needs the rights may begin.
    pub(crate) settled: bool,
    /// Whether open fences are reported.
    pub(crate) report: bool,
    /// When the fences are tested again.
    pub(crate) after: Duration,
}

/// Decides the consequences of a round that ended this long after the start.
pub(crate) fn next(since_start: Duration, worst: &FenceVerdict) -> NextRound {
    let first = since_start < FIRST;
    let (settled, report, after) = match worst {
        FenceVerdict::Open if first => (false, false, SOON),
        FenceVerdict::Open => (true, true, WHILE_OPEN),
        FenceVerdict::Unknown(_) => (true, true, WHILE_UNKNOWN),
        FenceVerdict::Closed => (true, true, WHILE_CLOSED),
    };
    NextRound {
        settled,
        report,
        after,
    }
}

/// Describes an open fence and what to do, for an Event and the log.
pub(crate) fn notice(fence: Fence, installation: &str) -> String {
    let policy = fence.policy(installation);
    format!(
        "ValidatingAdmissionPolicy {policy} does not deny what it must: with a stolen token of Sidescale, an attacker \
         could {}. Run helm upgrade with the release's values, then kubectl get \
         validatingadmissionpolicies,validatingadmissionpolicybindings {policy}",
        fence.danger()
    )
}

fn cut(message: &str) -> String {
    const SHOWN: usize = 200;
    message.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "sidescale-secrets";

    fn refused(code: u16, reason: &str, message: &str) -> DryRunAnswer {
        DryRunAnswer::Refused {
            code,
            reason: reason.into(),
            message: message.into(),
            budget: false,
        }
    }

    #[test]
    fn only_its_own_policy_or_a_missing_right_closes_a_fence() {
        let by_policy = "secrets \"x\" is forbidden: ValidatingAdmissionPolicy 'sidescale-secrets' with binding \
                         'sidescale-secrets' denied request: Secret sidescale/x is not on the list";
        let by_rbac = "secrets is forbidden: User \"system:serviceaccount:sidescale:sidescale\" cannot create resource \
                       \"secrets\" in API group \"\" in the namespace \"sidescale\"";
        let by_another = by_policy.replace("sidescale-secrets", "no-secrets-today");
        let quota = "secrets \"x\" is forbidden: exceeded quota: few, requested: count/secrets=1, used: 1, limited: 1";
        let unknown = |code: u16, reason: &str, message: &str| {
            FenceVerdict::Unknown(format!("denied with {code} {reason}: {message}"))
        };
        let table = [
            (DryRunAnswer::Admitted, FenceVerdict::Open),
            (refused(403, "Forbidden", by_policy), FenceVerdict::Closed),
            (refused(422, "Invalid", by_policy), FenceVerdict::Closed),
            (refused(403, "Forbidden", by_rbac), FenceVerdict::Closed),
            (
                refused(403, "Forbidden", &by_another),
                unknown(403, "Forbidden", &by_another),
            ),
            (
                refused(403, "Forbidden", quota),
                unknown(403, "Forbidden", quota),
            ),
            // A policy whose name only begins with it is another one.
            (
                refused(
                    403,
                    "Forbidden",
                    "ValidatingAdmissionPolicy 'sidescale-secrets-2' denied",
                ),
                unknown(
                    403,
                    "Forbidden",
                    "ValidatingAdmissionPolicy 'sidescale-secrets-2' denied",
                ),
            ),
            (
                refused(401, "Unauthorized", "Unauthorized"),
                unknown(401, "Unauthorized", "Unauthorized"),
            ),
            (
                refused(404, "NotFound", "pods \"x\" not found"),
                unknown(404, "NotFound", "pods \"x\" not found"),
            ),
            (
                refused(409, "AlreadyExists", "secrets \"x\" already exists"),
                FenceVerdict::Open,
            ),
            (
                refused(
                    409,
                    "Conflict",
                    "the object has been modified; please apply your changes",
                ),
                unknown(
                    409,
                    "Conflict",
                    "the object has been modified; please apply your changes",
                ),
            ),
            (
                refused(429, "TooManyRequests", "too many requests"),
                unknown(429, "TooManyRequests", "too many requests"),
            ),
            (
                refused(500, "InternalError", "etcd"),
                unknown(500, "InternalError", "etcd"),
            ),
            (
                DryRunAnswer::None("no answer within 10 s".into()),
                FenceVerdict::Unknown("no answer within 10 s".into()),
            ),
        ];
        for (answer, want) in table {
            assert_eq!(judge(POLICY, &answer), want, "{answer:?}");
        }
    }

    #[test]
    fn a_disruption_budget_is_asked_only_after_the_fence() {
        let budget = DryRunAnswer::Refused {
            code: 429,
            reason: "TooManyRequests".into(),
            message: "Cannot evict pod as it would violate the pod's disruption budget.".into(),
            budget: true,
        };
        assert_eq!(judge(POLICY, &budget), FenceVerdict::Open);
    }

    #[test]
    fn the_worst_answer_counts() {
        let unknown = || FenceVerdict::Unknown("no answer".into());
        assert_eq!(worst([]), FenceVerdict::Closed);
        assert_eq!(worst([FenceVerdict::Closed, unknown()]), unknown());
        assert_eq!(
            worst([FenceVerdict::Open, unknown(), FenceVerdict::Closed]),
            FenceVerdict::Open
        );
    }

    #[test]
    fn an_open_fence_is_tried_each_second_for_a_minute_and_then_reported() {
        let unknown = FenceVerdict::Unknown(String::new());
        let table = [
            (0, FenceVerdict::Open, (false, false, SOON)),
            (59, FenceVerdict::Open, (false, false, SOON)),
            (60, FenceVerdict::Open, (true, true, WHILE_OPEN)),
            (9_000, FenceVerdict::Open, (true, true, WHILE_OPEN)),
            (0, unknown.clone(), (true, true, WHILE_UNKNOWN)),
            (9_000, unknown, (true, true, WHILE_UNKNOWN)),
            (0, FenceVerdict::Closed, (true, true, WHILE_CLOSED)),
            (9_000, FenceVerdict::Closed, (true, true, WHILE_CLOSED)),
        ];
        for (seconds, worst, (settled, report, after)) in table {
            let want = NextRound {
                settled,
                report,
                after,
            };
            assert_eq!(
                next(Duration::from_secs(seconds), &worst),
                want,
                "{seconds} {worst:?}"
            );
        }
    }

    #[test]
    fn a_notice_names_the_policy_and_fits_an_event() {
        for fence in Fence::ALL {
            let text = notice(fence, &"a".repeat(40));
            assert!(text.contains(&fence.policy(&"a".repeat(40))), "{text}");
            assert!(text.len() < 1000, "{}", text.len());
        }
    }
}
