//! Messages of the manager about a check, or a problem: the object, and what to do. Pure.

use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::secret::MANAGED_BY;
use sidescale_rotation::tokens::TokenOwnership;
use sidescale_rotation::tokens::keeper::TokenState;
use sidescale_webhook::keys::{ADOPT, PAUSED};

use crate::api_key::{TokenProblem, TokenResult};
use crate::store::StoreError;

/// Returns the decision in one word.
pub(super) fn decision(settled: &TokenResult) -> &'static str {
    match &settled.rest.state {
        TokenState::Good if settled.renewed => "renewed",
        TokenState::Good => "no rotation needed",
        TokenState::Yields(_) => "left to another replica",
        TokenState::Attended(_) => "left to the replica that checked last",
        TokenState::LeftToOthers(_) => "left to a replica that can",
        TokenState::Contended(_) => "delayed",
        TokenState::Left(_) => "not managed",
    }
}

/// Returns what a person has to do about the outcome, if anything.
pub(super) fn advice(
    state: &TokenState,
    namespace: &str,
    name: &str,
    managed_by: &str,
) -> Option<String> {
    let secret = format!("Secret {namespace}/{name}");
    let other = "or name another one with --secret-name (annotation sidescale.io/api-key-secret)";
    let delete = format!("kubectl delete secret {name} -n {namespace}");
    match state {
        TokenState::Good
        | TokenState::Yields(_)
        | TokenState::Attended(_)
        | TokenState::LeftToOthers(_) => None,
        TokenState::Contended(by) => {
            let by = if by.is_empty() { "another writer" } else { by };
            Some(format!(
                "{secret} was changed repeatedly since this manager last wrote it ({by} wrote its current key): the last key \
                 is restored, and a new one is created at most once an hour; find the other writer (kubectl get secret \
                 {name} -n {namespace} -o yaml --show-managed-fields), and give each Headscale its own Secret"
            ))
        }
        TokenState::Left(TokenOwnership::Ours) => None,
        TokenState::Left(TokenOwnership::Paused) => Some(format!(
            "{secret} has the annotation {PAUSED}: its key is not renewed until you remove it"
        )),
        TokenState::Left(TokenOwnership::NotOurs(label)) => {
            let key = MANAGED_BY.0;
            let has = label.as_ref().map_or_else(
                || format!("no label {key}"),
                |value| format!("the label {key}: {value}"),
            );
            Some(format!(
                "{secret} has {has}, want {key}: {managed_by}: it is not written; hand it over with kubectl annotate secret \
                 {name} -n {namespace} {ADOPT}=true, {other}"
            ))
        }
        TokenState::Left(TokenOwnership::WrongType(kind)) => Some(format!(
            "{secret} is of type {kind}, want Opaque, and a type cannot be changed: {delete}, {other}"
        )),
        TokenState::Left(TokenOwnership::Immutable) => Some(format!(
            "{secret} is immutable, so its key cannot be renewed: {delete}, {other}"
        )),
    }
}

/// Returns the problem, its causes, and what to do.
pub(super) fn problem(problem: TokenProblem) -> String {
    let fix = match &problem {
        TokenProblem::Secret(StoreError::Forbidden {
            namespace, name, ..
        }) => format!(
            ": the pod's ServiceAccount needs get and update on Secret {name} and create on Secrets in {namespace}; the \
             chart's headscale.namespace and headscale.serviceAccount grant it that"
        ),
        TokenProblem::Secret(StoreError::Kubernetes { .. } | StoreError::TimedOut { .. }) => {
            ": retrying".to_owned()
        }
        TokenProblem::Secret(
            StoreError::Conflict { .. }
            | StoreError::File { .. }
            | StoreError::Document(_)
            | StoreError::Name { .. }
            | StoreError::TooLarge { .. },
        )
        | TokenProblem::Headscale { .. }
        | TokenProblem::GivenUp(_)
        | TokenProblem::Restless { .. } => String::new(),
    };
    format!("{:#}{fix}", anyhow::Error::new(problem))
}

/// Formats the remaining time for people: `80d`, `79d23h`, `1h30m`.
pub(super) fn left(now: Timestamp, until: Timestamp) -> String {
    let Ok(left) = Duration::try_from(until.duration_since(now)) else {
        return "0s".to_owned();
    };
    // The fraction of a second that identifies a key does not matter to people, nor a moment of a long time.
    let seconds = match left.as_secs() + u64::from(left.subsec_nanos() > 0) {
        short @ ..3_600 => short,
        long => (long + 30) / 60 * 60,
    };
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let mut rest = seconds;
    let mut text = String::new();
    let mut parts = 0;
    for (unit, length) in units {
        let count = rest / length;
        rest %= length;
        if count > 0 && parts < 2 {
            text.push_str(&format!("{count}{unit}"));
        }
        parts += usize::from(count > 0 || parts > 0);
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_in_two_units() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (seconds, want) in [
            (80 * 86_400, "80d"),
            (80 * 86_400 - 1, "80d"),
            (80 * 86_400 - 60, "79d23h"),
            (86_400 + 60, "1d"),
            (5_400, "1h30m"),
            (59, "59s"),
            (0, "0s"),
            (-5, "0s"),
        ] {
            let until = Timestamp::from_second(1_000_000 + seconds).unwrap();
            assert_eq!(left(now, until), want);
        }
    }

    #[test]
    fn what_somebody_has_to_do_names_the_object_and_the_way_out() {
        for (state, words) in [
            (
                TokenState::Left(TokenOwnership::NotOurs(None)),
                &[
                    "kubectl annotate secret k -n hs sidescale.io/adopt=true",
                    "--secret-name",
                    "no label",
                ][..],
            ),
            (
                TokenState::Left(TokenOwnership::NotOurs(Some("Helm".into()))),
                &["app.kubernetes.io/managed-by: Helm", "hs/k"],
            ),
            (
                TokenState::Left(TokenOwnership::WrongType("kubernetes.io/tls".into())),
                &[
                    "kubernetes.io/tls",
                    "Opaque",
                    "kubectl delete secret k -n hs",
                ],
            ),
            (
                TokenState::Left(TokenOwnership::Immutable),
                &["immutable", "kubectl delete secret k -n hs"],
            ),
            (
                TokenState::Left(TokenOwnership::Paused),
                &["sidescale.io/paused"],
            ),
            (
                TokenState::Contended("headscale-1".into()),
                &["headscale-1", "hs/k", "once an hour"],
            ),
        ] {
            let advice = advice(&state, "hs", "k", "sidescale").unwrap();
            assert!(words.iter().all(|word| advice.contains(word)), "{advice}");
        }
        assert_eq!(advice(&TokenState::Good, "hs", "k", "sidescale"), None);
    }
}
