//! One call of REST and its answer, whole or not at all. I/O.

use reqwest::{Method, Response, StatusCode, header};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{At, Error, HeadscaleRest, wire};

/// Longest answer that is read: ten thousand nodes at about 1.5 KB each.
const BODY_LIMIT: usize = 16 << 20;

/// Longest piece of a server's own words in a message of ours.
const QUOTE_LIMIT: usize = 200;

/// Whether a call carries the API key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Auth {
    Bearer,
    None,
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) at: At,
    pub(super) status: StatusCode,
    /// For messages, such as `text/html`.
    pub(super) content_type: String,
    /// May hold a key.
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl HeadscaleRest {
    pub(super) async fn get(&self, path: &str, auth: Auth) -> Result<Answer, Error> {
        self.call(Method::GET, path, None::<&()>, auth).await
    }

    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Error> {
        self.call(Method::POST, path, Some(body), Auth::Bearer)
            .await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Answer, Error> {
        self.call(Method::DELETE, path, None::<&()>, Auth::Bearer)
            .await
    }

    /// Names a call in messages.
    pub(super) fn at(&self, method: &'static str, path: &str) -> At {
        let path = path.split('?').next().unwrap_or_default();
        At {
            control_plane: self.name.clone(),
            method,
            url: format!("{}{path}", self.shown),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        auth: Auth,
    ) -> Result<Answer, Error> {
        let at = self.at(verb(&method), path);
        let url = format!("{}{path}", self.base);
        let mut request = self
            .client
            .request(method, url)
            .header(header::ACCEPT, "application/json");
        if let (Auth::Bearer, Some(api_key)) = (auth, &self.api_key) {
            request = request.bearer_auth(api_key.expose());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let whole = async {
            let response = request
                .send()
                .await
                .map_err(|error| failed(at.clone(), &error))?;
            self.receive(at.clone(), response).await
        };
        match tokio::time::timeout(self.deadline, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::TimedOut {
                at,
                after: self.deadline,
            }),
        }
    }

    /// Reads an answer, never more of it than the limit.
    async fn receive(&self, at: At, mut response: Response) -> Result<Answer, Error> {
        let status = response.status();
        let text = |name| {
            let value = response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            self.quote(value.split(['?', '#', ';']).next().unwrap_or_default())
        };
        if status.is_redirection() {
            return Err(Error::Redirected {
                at,
                status: status.as_u16(),
                location: text(header::LOCATION),
            });
        }
        let content_type = match text(header::CONTENT_TYPE) {
            none if none.is_empty() => "no content type".to_owned(),
            some => some,
        };
        let mut body = Zeroizing::new(Vec::new());
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > BODY_LIMIT => {
                    return Err(Error::TooLarge {
                        at,
                        limit: BODY_LIMIT,
                    });
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => {
                    return Ok(Answer {
                        at,
                        status,
                        content_type,
                        body,
                    });
                }
                Err(_) => {
                    let answered = format!("a body that breaks off after {} bytes", body.len());
                    let (status, expected) = (status.as_u16(), "a whole answer");
                    return Err(Error::NotHeadscale {
                        at,
                        status,
                        answered,
                        expected,
                    });
                }
            }
        }
    }

    /// What an answer says, if it is the one that was expected.
    pub(super) fn parse<T>(
        &self,
        answer: Answer,
        expected: &'static str,
        reader: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, Error> {
        let Answer {
            at,
            status,
            content_type,
            body,
        } = answer;
        let code = status.as_u16();
        if status.is_success() {
            return reader(&body).map_err(|answered| Error::NotHeadscale {
                at,
                status: code,
                answered: self.quote(&answered),
                expected,
            });
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(Error::Unauthorized { at });
        }
        let Some(message) = wire::message(&body).map(|text| self.quote(&text)) else {
            let answered = format!("{} bytes of {content_type}", body.len());
            return Err(match status {
                StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => Error::Away {
                    at,
                    status: code,
                    answered,
                },
                _ if status.is_server_error() => Error::Refused {
                    at,
                    status: code,
                    message: answered,
                },
                _ => Error::NotHeadscale {
                    at,
                    status: code,
                    answered,
                    expected,
                },
            });
        };
        Err(match status {
            StatusCode::NOT_FOUND => Error::NotFound { at, message },
            StatusCode::CONFLICT => Error::Conflict {
                at,
                status: code,
                message,
            },
            _ => Error::Refused {
                at,
                status: code,
                message,
            },
        })
    }

    /// A piece of a server's own words for a message: short, and without our key should it be echoed.
    fn quote(&self, text: &str) -> String {
        let text = match &self.api_key {
            Some(api_key) => text.replace(api_key.expose(), "<redacted>"),
            None => text.to_owned(),
        };
        text.chars().take(QUOTE_LIMIT).collect()
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "GET",
    }
}

/// Sorts out why no answer began.
fn failed(at: At, error: &reqwest::Error) -> Error {
    let cause = causes(error);
    if cause.contains("certificate") {
        Error::Untrusted { at, cause }
    } else {
        Error::Unreachable { at, cause }
    }
}

/// The innermost cause, which is what a reader can act on.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
