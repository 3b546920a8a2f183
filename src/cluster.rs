//! The API server as a whole: a client that logs an outage once, and its end once. I/O.

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use kube::client::ClientBuilder;
use tower::BoxError;
use tower::timeout::TimeoutLayer;
use tower::util::MapResultLayer;
use tracing::{info, warn};

mod body;

pub(crate) use body::{Body, is_end};

use crate::outage::Outage;

/// An API server times out a request after 60 s (`--request-timeout`), and answers a watch at once.
const ANSWERS_WITHIN: Duration = Duration::from_secs(65);

/// The API server closes a watch after 290 s, as the client requests, and the client starts it again.
const QUIET_FOR: Duration = Duration::from_secs(300);

/// An outage of the API server.
#[derive(Debug, Default)]
struct Absence(Mutex<Outage>);

/// Returns a client that monitors all calls: it alone logs an outage, however many parts notice it, and no call waits
/// forever for an answer.
///
/// # Errors
/// The configuration cannot be used.
pub fn client(config: kube::Config) -> Result<Client, kube::Error> {
    patient_client(config, ANSWERS_WITHIN)
}

fn patient_client(
    mut config: kube::Config,
    answers_within: Duration,
) -> Result<Client, kube::Error> {
    // Without these, a lost connection that was never closed blocks a watch forever.
    config.read_timeout = Some(QUIET_FOR);
    config.reset_reader_on_write = true;
    let absence = std::sync::Arc::<Absence>::default();
    let layer = MapResultLayer::new(move |answer: Result<_, BoxError>| {
        absence.note(answer.as_ref().err().map(|error| &**error as &dyn Error));
        answer
    });
    let within = TimeoutLayer::new(answers_within);
    let client = ClientBuilder::try_from(config)?.with_layer(&within);
    Ok(client.with_layer(&layer).build())
}

/// Makes a call, and gives it up after `limit` like one that the API server does not answer.
///
/// # Errors
/// The error of the call, or that it took too long.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let Ok(answer) = tokio::time::timeout(limit, call).await else {
        let late = format!("no answer within {} s", limit.as_secs());
        return Err(kube::Error::Service(late.into()));
    };
    answer
}

/// Returns the flags with which our own commands find an installation that does not have the default names.
#[must_use]
pub fn flags(namespace: &str, release: &str) -> String {
    let flag = |name: &str, value: &str| match value {
        "sidescale" => String::new(),
        value => format!(" --{name} {value}"),
    };
    flag("namespace", namespace) + &flag("release-name", release)
}

/// Whether the API server does not answer at all, which is logged once for all parts and is no error of one call.
#[must_use]
pub fn is_away(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let boxed = error
            .downcast_ref::<Box<kube::Error>>()
            .map(|error| &**error);
        if let Some(
            kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_),
        ) = error.downcast_ref::<kube::Error>().or(boxed)
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// Returns an error with its causes, without duplicates, and without the full Status that the client prints after its
/// message.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    if let Some(end) = text.find(" (Status {") {
        text.truncate(end);
    }
    text
}

impl Absence {
    fn note(&self, error: Option<&dyn Error>) {
        let mut outage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = error {
            if outage.failed() {
                warn!(
                    error = chain(error),
                    "API server unavailable: keys and certificates stay unchanged, retrying"
                );
            }
        } else if let Some(away) = outage.recovered() {
            let away_seconds = away.as_secs();
            info!(away_seconds, "API server available again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    fn refused() -> kube::Error {
        kube::Error::Service(Box::new(std::io::Error::from(
            std::io::ErrorKind::ConnectionRefused,
        )))
    }

    fn reading(source: kube::Error) -> StoreError {
        StoreError::Kubernetes {
            verb: "get",
            namespace: "shop".into(),
            name: "headscale-auth-keys".into(),
            source: Box::new(source),
        }
    }

    #[tokio::test]
    async fn no_call_waits_for_ever() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let config = kube::Config::new(url.parse().unwrap());
        let client = patient_client(config, Duration::from_millis(100)).unwrap();
        let call = client.apiserver_version();
        let answer = tokio::time::timeout(Duration::from_secs(20), call).await;
        let error = answer.expect("it is given up").unwrap_err();
        assert!(is_away(&error), "{error:?}");
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_counts_as_unanswered() {
        let call = std::future::pending::<Result<(), kube::Error>>();
        let error = within(Duration::ZERO, call).await.unwrap_err();
        assert!(is_away(&error), "{error:?}");
        assert_eq!(chain(&error), "ServiceError: no answer within 0 s");
    }

    #[test]
    fn tells_a_server_that_is_away_from_one_that_refuses() {
        assert!(is_away(&refused()));
        assert!(is_away(&reading(refused())));
        assert!(is_away(&kube::runtime::watcher::Error::WatchStartFailed(
            refused()
        )));
        let gone = kube::core::Status::failure("gone", "Expired").with_code(410);
        assert!(!is_away(&reading(kube::Error::Api(gone.boxed()))));
        assert!(!is_away(&std::io::Error::from(
            std::io::ErrorKind::ConnectionRefused
        )));
    }

    #[test]
    fn names_each_cause_once() {
        assert_eq!(
            chain(&reading(refused())),
            "get Secret shop/headscale-auth-keys: ServiceError: connection refused"
        );
        let forbidden = kube::core::Status::failure("pods is forbidden", "Forbidden");
        assert_eq!(
            chain(&reading(kube::Error::Api(forbidden.boxed()))),
            "get Secret shop/headscale-auth-keys: ApiError: pods is forbidden: Forbidden"
        );
    }
}
