//! Headscale 0.28 and 0.29 by gRPC on its Unix socket: the calls for API keys, and the meaning of each answer. I/O.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sidescale_core::id::Id;
use sidescale_proto::v1;
use sidescale_proto::v1::headscale_service_client::HeadscaleServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::text::shown;
use crate::{At, Error};

mod api_keys;
mod read;

/// Maximum size of an answer: some 80,000 pre-auth keys, which the probe lists, at about 200 bytes each.
const ANSWER_LIMIT: usize = 16 << 20;

/// Maximum length of a server's text in our messages.
const QUOTE_LIMIT: usize = 200;

/// Client of one Headscale.
#[derive(Clone, Debug)]
pub struct HeadscaleGrpc {
    name: String,
    socket: PathBuf,
    deadline: Duration,
}

impl HeadscaleGrpc {
    /// Prepares calls to the Unix socket at `path`; sends none yet.
    pub(crate) fn on_socket(name: &str, path: &Path, deadline: Duration) -> Self {
        Self {
            name: name.to_owned(),
            socket: path.to_owned(),
            deadline,
        }
    }

    /// Returns a connection for one call: Headscale creates a new socket at each start, and an older connection may
    /// lead to its predecessor.
    fn client(&self) -> HeadscaleServiceClient<Channel> {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://headscale").connect_with_connector_lazy(connect);
        HeadscaleServiceClient::new(channel).max_decoding_message_size(ANSWER_LIMIT)
    }

    /// Returns its name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Refuses a release below 0.28. A gRPC server does not report its version: its features show it.
    pub(crate) async fn probe(&self) -> Result<(), Error> {
        let unsupported = |version: &str| Error::Unsupported {
            at: self.at("Health"),
            version: version.to_owned(),
        };
        let mut client = self.client();
        let health = self.call("Health", client.health(v1::HealthRequest {}));
        match health.await {
            Ok(_) => {}
            Err(Error::Refused { status: 501, .. }) => {
                return Err(unsupported("0.26 or older (it does not report its health)"));
            }
            Err(error) => return Err(error),
        }
        // 0.27 lists the keys of one user, and refuses a request without a user.
        let request = v1::ListPreAuthKeysRequest {};
        let list = self.call("ListPreAuthKeys", client.list_pre_auth_keys(request));
        match list.await {
            Err(Error::Refused { .. } | Error::NotFound { .. }) => {
                Err(unsupported("0.27 (it cannot list all pre-auth keys)"))
            }
            listed => listed.map(drop),
        }
    }

    /// Names a call in messages.
    fn at(&self, call: &str) -> At {
        At {
            control_plane: self.name.clone(),
            method: "gRPC",
            url: format!(
                "unix:{}:/headscale.v1.HeadscaleService/{call}",
                self.socket.display()
            ),
        }
    }

    /// Returns an id as a number, as Headscale's are; with any other there is nothing.
    fn number(&self, call: &str, id: Id) -> Result<u64, Error> {
        id.number().ok_or_else(|| Error::NotFound {
            at: self.at(call),
            message: format!("id {id} is not a number"),
        })
    }

    async fn call<T>(
        &self,
        name: &str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(refused(self.at(name), &status)),
            Err(_) => Err(Error::TimedOut {
                at: self.at(name),
                after: self.deadline,
            }),
        }
    }

    /// Returns the content of an answer, if it is the expected one.
    fn expect<T>(
        &self,
        name: &str,
        expected: &'static str,
        read: Result<T, String>,
    ) -> Result<T, Error> {
        read.map_err(|answered| Error::NotHeadscale {
            at: self.at(name),
            status: 200,
            answered: quote(&answered),
            expected,
        })
    }
}

/// Converts a missing answer into an error: by a status from the server, or by one that tonic created here.
fn refused(at: At, status: &Status) -> Error {
    let message = quote(status.message());
    if let Some(cause) = causes(status).last() {
        let text = quote(&cause.to_string());
        return if causes(status).any(is_loss) {
            Error::Unreachable { at, cause: text }
        } else {
            not_grpc(at, text)
        };
    }
    // Texts of tonic: no server sends them.
    if message.starts_with("Error, decoded message length too large") {
        let limit = ANSWER_LIMIT;
        return Error::TooLarge { at, limit };
    }
    if message.starts_with("failed to decode Protobuf message")
        || message.starts_with("grpc-status header missing")
        || message.starts_with("protocol error")
        || message.starts_with("Missing response message")
    {
        return not_grpc(at, message);
    }
    match (status.code(), http_status(status.code())) {
        // The server is shutting down.
        (Code::Unavailable, _) => Error::Unreachable { at, cause: message },
        (Code::Unauthenticated, _) => Error::Unauthorized { at },
        (Code::NotFound, _) => Error::NotFound { at, message },
        (Code::AlreadyExists, status) => Error::Conflict {
            at,
            status,
            message,
        },
        (_, status) => Error::Refused {
            at,
            status,
            message,
        },
    }
}

fn not_grpc(at: At, answered: String) -> Error {
    Error::NotHeadscale {
        at,
        status: 200,
        answered,
        expected: "a gRPC answer",
    }
}

/// Returns the causes of a status that was created here, from the outside in; none for one from the server.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |cause| cause.source())
}

/// Whether there is no connection, or it was lost.
fn is_loss(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<std::io::Error>()
        || cause.downcast_ref::<hyper::Error>().is_some_and(|error| {
            error.is_canceled() || error.is_closed() || error.is_incomplete_message()
        })
}

/// Returns the status of Headscale's own REST gateway for a code, so that both protocols read alike.
fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    }
}

fn quote(text: &str) -> String {
    shown(text, QUOTE_LIMIT)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use axum::Router;
    use axum::body::{Body, Bytes};
    use axum::http::{HeaderMap, HeaderValue, Response};
    use axum::routing::post;
    use http_body_util::{BodyExt as _, Full};
    use tonic::Status;

    use super::{Error, HeadscaleGrpc, refused};

    /// Returns a refusal with a code.
    fn code(code: &'static str) -> Response<Body> {
        let mut reply = grpc(Body::empty());
        let code = HeaderValue::from_static(code);
        reply.headers_mut().insert("grpc-status", code);
        reply
    }

    /// Returns a message without a field.
    fn empty() -> Response<Body> {
        let done = HeaderMap::from_iter([(
            "grpc-status".parse().unwrap(),
            HeaderValue::from_static("0"),
        )]);
        let message = Full::new(Bytes::from_static(&[0; 5]));
        grpc(Body::new(message.with_trailers(async { Some(Ok(done)) })))
    }

    fn grpc(body: Body) -> Response<Body> {
        let mut reply = Response::new(body);
        let kind = HeaderValue::from_static("application/grpc");
        reply.headers_mut().insert("content-type", kind);
        reply
    }

    #[tokio::test]
    async fn refuses_what_is_too_old_by_its_name() {
        const PATH: &str = "/headscale.v1.HeadscaleService/";
        let health = Router::new().route(&format!("{PATH}Health"), post(async || empty()));
        let lists = format!("{PATH}ListPreAuthKeys");
        for (server, want) in [
            (Router::new(), Some("Headscale 0.26 or older")),
            (health.clone(), Some("Headscale 0.27")),
            (health.route(&lists, post(async || empty())), None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("headscale.sock");
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let server = server.fallback(async || code("12"));
            tokio::spawn(async move { axum::serve(listener, server).await });
            let client = HeadscaleGrpc::on_socket("default", &path, Duration::from_secs(60));
            match (client.probe().await, want) {
                (Ok(()), None) => {}
                (Err(error @ Error::Unsupported { .. }), Some(want)) => {
                    assert!(error.to_string().contains(want), "{error}");
                }
                (got, want) => panic!("{got:?}, want {want:?}"),
            }
        }
    }

    #[tokio::test]
    async fn tells_a_refusal_from_an_answer_that_is_none() {
        let client = HeadscaleGrpc::on_socket("default", Path::new("/s"), Duration::ZERO);
        for (status, want) in [
            (Status::unknown("user not found"), "refused"),
            (Status::internal("creating user: UNIQUE"), "refused"),
            (Status::invalid_argument("invalid tag"), "refused"),
            (Status::unimplemented("unknown method"), "refused"),
            (Status::not_found("node not found"), "not_found"),
            (Status::already_exists("user"), "conflict"),
            (Status::unauthenticated("invalid token"), "unauthorized"),
            (Status::unavailable("shutting down"), "unreachable"),
            (
                Status::out_of_range("Error, decoded message length too large: found 17 bytes"),
                "too_large",
            ),
            (
                Status::internal("failed to decode Protobuf message: invalid tag"),
                "not_headscale",
            ),
            (
                Status::from_error(Box::new(std::io::Error::from(
                    std::io::ErrorKind::ConnectionRefused,
                ))),
                "unreachable",
            ),
        ] {
            let error = refused(client.at("ListApiKeys"), &status);
            assert_eq!(error.as_str(), want, "{status:?}: {error}");
            assert!(
                error
                    .to_string()
                    .contains("gRPC unix:/s:/headscale.v1.HeadscaleService/ListApiKeys"),
                "{error}"
            );
        }
    }
}
