//! One call of REST and its answer, complete or not at all. I/O.

use reqwest::{Method, Response, StatusCode, header};
use serde::Serialize;
use zeroize::Zeroizing;

use super::wire::{ListProblem, Rows, WireRow};
use super::{At, Auth, Error, HeadscaleRest, wire};
use crate::RowList;
use crate::text::shown;
use sidescale_core::causes;

/// Maximum size of a list, of which a few fields per row are kept: half a million keys at about 410 bytes each.
const LIST_LIMIT: usize = 256 << 20;

/// Maximum size of any other answer: one object.
const BODY_LIMIT: usize = 1 << 20;

/// Maximum size of a refusal; of a page that is not from Headscale only its length would count.
const REFUSAL_LIMIT: usize = 64 << 10;

/// Maximum length of a server's text in our messages.
const QUOTE_LIMIT: usize = 200;

/// A complete answer.
pub(super) struct HttpAnswer {
    pub(super) at: At,
    pub(super) status: StatusCode,
    /// For messages, such as `text/html`.
    pub(super) content_type: String,
    /// May contain a key.
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl HeadscaleRest {
    pub(super) async fn get(&self, path: &str, auth: Auth) -> Result<HttpAnswer, Error> {
        self.call(Method::GET, path, None::<&()>, auth).await
    }

    pub(super) async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<HttpAnswer, Error> {
        self.call(Method::POST, path, Some(body), Auth::Bearer)
            .await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<HttpAnswer, Error> {
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
    ) -> Result<HttpAnswer, Error> {
        let at = self.at(verb(&method), path);
        let whole = async {
            let response = self.send(&at, method, path, body, auth).await?;
            self.receive(at.clone(), response).await
        };
        self.in_time(&at, whole).await
    }

    /// Reads a list as a stream.
    pub(super) async fn list<T: WireRow>(&self, path: &str) -> Result<Vec<T>, Error> {
        self.list_last(path).await?.whole()
    }

    /// Reads a list as a stream; if it has too many rows, the last of them.
    pub(super) async fn list_last<T: WireRow>(&self, path: &str) -> Result<RowList<T>, Error> {
        let at = self.at("GET", path);
        let whole = async {
            let none = None::<&()>;
            let sent = self.send(&at, Method::GET, path, none, Auth::Bearer).await;
            let mut response = sent?;
            let status = response.status();
            if !status.is_success() {
                let answer = self.receive(at.clone(), response).await?;
                let none = |_: &[u8]| Err("no list".to_owned());
                return self.parse(answer, T::EXPECTED, none);
            }
            let problem = |problem| self.no_list(&at, status, T::EXPECTED, problem);
            let mut rows = Rows::<T>::new();
            loop {
                match response.chunk().await {
                    Ok(Some(chunk)) if rows.length() + chunk.len() > LIST_LIMIT => {
                        let (at, limit) = (at.clone(), LIST_LIMIT);
                        return Err(Error::TooLarge { at, limit });
                    }
                    Ok(Some(chunk)) => rows.push(&chunk).map_err(problem)?,
                    Ok(None) => {
                        let (rows, truncated) = rows.finish().map_err(problem)?;
                        let beyond = truncated.then(|| at.clone());
                        return Ok(RowList { rows, beyond });
                    }
                    Err(_) => return Err(broken(at.clone(), status, rows.length())),
                }
            }
        };
        self.in_time(&at, whole).await
    }

    fn no_list(
        &self,
        at: &At,
        status: StatusCode,
        expected: &'static str,
        problem: ListProblem,
    ) -> Error {
        let at = at.clone();
        match problem {
            ListProblem::TooManyRows => Error::TooManyRows { at },
            ListProblem::TooLarge => Error::TooLarge {
                at,
                limit: REFUSAL_LIMIT,
            },
            ListProblem::Other(answered) => Error::NotHeadscale {
                at,
                status: status.as_u16(),
                answered: self.quote(&answered),
                expected,
            },
        }
    }

    /// Gives a call up after the deadline.
    pub(super) async fn in_time<T>(
        &self,
        at: &At,
        whole: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.deadline, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::TimedOut {
                at: at.clone(),
                after: self.deadline,
            }),
        }
    }

    async fn send(
        &self,
        at: &At,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        auth: Auth,
    ) -> Result<Response, Error> {
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
        let sent = request.send().await;
        sent.map_err(|error| failed(at.clone(), &error))
    }

    /// Reads an answer up to the limit.
    async fn receive(&self, at: At, mut response: Response) -> Result<HttpAnswer, Error> {
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
        let limit = match status.is_success() {
            true => BODY_LIMIT,
            false => REFUSAL_LIMIT,
        };
        let mut body = Zeroizing::new(Vec::new());
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                    if status.is_success() {
                        return Err(Error::TooLarge { at, limit });
                    }
                    let room = limit - body.len();
                    body.extend_from_slice(&chunk[..room]);
                    break;
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(_) => return Err(broken(at, status, body.len())),
            }
        }
        Ok(HttpAnswer {
            at,
            status,
            content_type,
            body,
        })
    }

    /// Returns the content of an answer, if it is the expected one.
    pub(super) fn parse<T>(
        &self,
        answer: HttpAnswer,
        expected: &'static str,
        reader: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, Error> {
        let HttpAnswer {
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

    /// Returns a part of a server's text for a message: short, and without our key if it is echoed.
    fn quote(&self, text: &str) -> String {
        let text = match &self.api_key {
            Some(api_key) => &text.replace(api_key.expose(), "<redacted>"),
            None => text,
        };
        shown(text, QUOTE_LIMIT)
    }
}

/// Reports that an answer broke off.
fn broken(at: At, status: StatusCode, bytes: usize) -> Error {
    Error::NotHeadscale {
        at,
        status: status.as_u16(),
        answered: format!("a body that ends early, after {bytes} bytes"),
        expected: "a complete answer",
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "GET",
    }
}

/// Converts a missing answer into an error.
fn failed(at: At, error: &reqwest::Error) -> Error {
    let cause = causes::innermost(error);
    if cause.contains("certificate") {
        Error::Untrusted { at, cause }
    } else {
        Error::Unreachable { at, cause }
    }
}
