//! Headscale by REST v1 over TCP: the calls we make, and what each answer means. I/O.

use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode, Url, header};
use serde::Serialize;
use zeroize::Zeroizing;

use super::version::{Age, age};
use super::{
    Api, At, Endpoint, Error, KeyId, MintedKey, NewPreAuthKey, Node, PreAuthKey, User, Version,
    wire,
};
use crate::key_value::KeyValue;

/// Longest answer that is read: ten thousand nodes at about 1.5 KB each.
const BODY_LIMIT: usize = 16 << 20;

/// Time for one call, from the connection to the last byte; each call checks a slow hash on the server.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest piece of a server's own words in a message of ours.
const QUOTE_LIMIT: usize = 200;

/// Calls one Headscale.
#[derive(Clone, Debug)]
pub struct HeadscaleRest {
    name: String,
    /// Ends without a slash.
    base: String,
    api_key: KeyValue,
    client: Client,
    deadline: Duration,
}

/// Whether a call carries the API key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    Bearer,
    None,
}

/// A whole answer.
struct Answer {
    at: At,
    status: StatusCode,
    /// For messages, such as `text/html`.
    content_type: String,
    /// May hold a key.
    body: Zeroizing<Vec<u8>>,
}

impl HeadscaleRest {
    /// Prepares calls to `endpoint`; makes none yet.
    pub(super) fn new(endpoint: Endpoint) -> Result<Self, Error> {
        let Endpoint {
            name,
            api_url,
            api_key,
            ca_bundle,
            allow_insecure,
        } = endpoint;
        let invalid = |problem: String| Error::InvalidEndpoint {
            control_plane: name.clone(),
            problem,
        };
        let base = base_url(&api_url, allow_insecure).map_err(invalid)?;
        if header::HeaderValue::from_str(api_key.expose()).is_err()
            || api_key.expose().trim().is_empty()
        {
            return Err(invalid(
                "the API key is empty or has bytes that no HTTP header may hold: want what \"headscale apikeys create\" printed; put it into the Secret that apiKeySecret names"
                    .to_owned(),
            ));
        }
        // Whoever was first wins; every entry of ours installs the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("sidescale/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = ca_bundle {
            let authorities =
                reqwest::Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
            if authorities.is_empty() {
                return Err(invalid(format!(
                    "caBundle holds no certificate ({} bytes): want PEM that begins with -----BEGIN CERTIFICATE-----",
                    pem.len()
                )));
            }
            builder = builder.tls_certs_only(authorities);
        }
        let client = builder
            .build()
            .map_err(|error| invalid(format!("no TLS client: {}", causes(&error))))?;
        Ok(Self {
            name,
            base,
            api_key,
            client,
            deadline: DEADLINE,
        })
    }

    /// Bounds each call by `deadline`.
    pub(super) fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    pub(super) async fn probe(&self) -> Result<Version, Error> {
        let answer = self.get("/version", Auth::None).await?;
        let at = answer.at.clone();
        let unsupported = |version: String| Error::Unsupported {
            at: at.clone(),
            version,
        };
        if answer.status == StatusCode::NOT_FOUND && self.tells_health().await? {
            return Err(unsupported(
                "0.26 or older (it does not tell its version)".to_owned(),
            ));
        }
        let text = self.parse(answer, "Headscale's version as JSON", wire::version)?;
        let known = age(&text);
        if known == Age::TooOld {
            return Err(unsupported(text));
        }
        // 0.30 shows its description to anybody; before, everything under /api wants a key.
        let description = self.get("/api/v1/openapi.yaml", Auth::None).await?;
        if description.status == StatusCode::OK
            && !description.content_type.starts_with("text/html")
        {
            return Ok(Version {
                text,
                api: Api::Problem,
            });
        }
        if known == Age::Unknown {
            // 0.27 lists the keys of one user, and answers 500 where none is named.
            match self.list_pre_auth_keys().await {
                Ok(_) => {}
                Err(Error::Refused { .. } | Error::NotFound { .. }) => {
                    return Err(unsupported(format!(
                        "{text:?}, which cannot list all pre-auth keys"
                    )));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Version {
            text,
            api: Api::Gateway,
        })
    }

    pub(super) async fn list_users(&self) -> Result<Vec<User>, Error> {
        let answer = self.get("/api/v1/user", Auth::Bearer).await?;
        self.parse(answer, "a list of users", wire::users)
    }

    pub(super) async fn create_user(&self, name: &str, display_name: &str) -> Result<User, Error> {
        let answer = self
            .post("/api/v1/user", &wire::CreateUser { name, display_name })
            .await?;
        let at = answer.at.clone();
        match self.parse(answer, "the new user", |body| {
            wire::created_user(body, name)
        }) {
            // Before 0.30 a taken name is a 500 like any other trouble: only a look tells.
            Err(Error::Refused {
                status: 500,
                message,
                ..
            }) if self
                .list_users()
                .await?
                .iter()
                .any(|user| user.name == name && !user.from_provider) =>
            {
                Err(Error::Conflict {
                    at,
                    status: 500,
                    message,
                })
            }
            other => other,
        }
    }

    pub(super) async fn list_pre_auth_keys(&self) -> Result<Vec<PreAuthKey>, Error> {
        let answer = self.get("/api/v1/preauthkey", Auth::Bearer).await?;
        self.parse(answer, "a list of pre-auth keys", wire::pre_auth_keys)
    }

    pub(super) async fn create_pre_auth_key(
        &self,
        new: &NewPreAuthKey,
    ) -> Result<MintedKey, Error> {
        let answer = self
            .post("/api/v1/preauthkey", &wire::create_pre_auth_key(new))
            .await?;
        self.parse(answer, "the new pre-auth key as it was asked for", |body| {
            wire::minted(body, new)
        })
    }

    pub(super) async fn expire_pre_auth_key(&self, id: KeyId) -> Result<(), Error> {
        let answer = self
            .post(
                "/api/v1/preauthkey/expire",
                &wire::ExpirePreAuthKey::new(id),
            )
            .await?;
        match self.parse(answer, "an empty JSON object", wire::nothing) {
            // 0.30 says that there is no such key, older ones say that it is done.
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn list_nodes(&self) -> Result<Vec<Node>, Error> {
        let answer = self.get("/api/v1/node", Auth::Bearer).await?;
        self.parse(answer, "a list of nodes", wire::nodes)
    }

    /// Whether `/health` answers as every Headscale since 0.23 does.
    async fn tells_health(&self) -> Result<bool, Error> {
        let answer = self.get("/health", Auth::None).await?;
        Ok(wire::is_health(&answer.body))
    }

    async fn get(&self, path: &str, auth: Auth) -> Result<Answer, Error> {
        self.call(Method::GET, path, None::<&()>, auth).await
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Error> {
        self.call(Method::POST, path, Some(body), Auth::Bearer)
            .await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        auth: Auth,
    ) -> Result<Answer, Error> {
        let url = format!("{}{path}", self.base);
        let verb = if method == Method::POST {
            "POST"
        } else {
            "GET"
        };
        let at = At {
            control_plane: self.name.clone(),
            method: verb,
            url: url.clone(),
        };
        let mut request = self
            .client
            .request(method, url)
            .header(header::ACCEPT, "application/json");
        if auth == Auth::Bearer {
            request = request.bearer_auth(self.api_key.expose());
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
    fn parse<T>(
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
            return Err(if status.is_server_error() {
                let message = format!("{} bytes of {content_type}", body.len());
                Error::Refused {
                    at,
                    status: code,
                    message,
                }
            } else {
                let answered = format!("{} bytes of {content_type}", body.len());
                Error::NotHeadscale {
                    at,
                    status: code,
                    answered,
                    expected,
                }
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
        text.replace(self.api_key.expose(), "<redacted>")
            .chars()
            .take(QUOTE_LIMIT)
            .collect()
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
fn causes(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Checks a base URL and takes its last slashes off.
fn base_url(text: &str, allow_insecure: bool) -> Result<String, String> {
    const WANT: &str = "want https://HOST[:PORT][/PATH], for example https://headscale.example.com";
    let url =
        Url::parse(text).map_err(|error| format!("apiUrl {text:?} is no URL ({error}): {WANT}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!(
            "apiUrl names a user or password: {WANT}; the API key goes into the Secret"
        ));
    }
    if url.host_str().is_none_or(str::is_empty) || url.query().is_some() || url.fragment().is_some()
    {
        return Err(format!(
            "apiUrl {text:?} has no host, or a query or fragment: {WANT}"
        ));
    }
    match url.scheme() {
        "https" => {}
        "http" if allow_insecure => {}
        "http" => {
            return Err(format!(
                "apiUrl {text:?} would send the API key unencrypted: use https://, or set allowInsecure: true where the network itself is trusted"
            ));
        }
        _ => return Err(format!("apiUrl {text:?} is no https:// URL: {WANT}")),
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::base_url;

    #[test]
    fn takes_https_and_where_allowed_http() {
        for (text, insecure, want) in [
            (
                "https://hs.example.com",
                false,
                Ok("https://hs.example.com"),
            ),
            (
                "https://hs.example.com/tailnet/",
                false,
                Ok("https://hs.example.com/tailnet"),
            ),
            (
                "http://hs.headscale:8080",
                true,
                Ok("http://hs.headscale:8080"),
            ),
            (
                "http://hs.headscale:8080",
                false,
                Err("allowInsecure: true"),
            ),
            ("hs.example.com", false, Err("is no URL")),
            ("unix:///var/run/headscale.sock", true, Err("has no host")),
            ("ftp://hs.example.com", true, Err("is no https:// URL")),
            (
                "https://a:b@hs.example.com",
                false,
                Err("names a user or password"),
            ),
            (
                "https://hs.example.com/?key=1",
                false,
                Err("a query or fragment"),
            ),
        ] {
            match (base_url(text, insecure), want) {
                (Ok(base), Ok(want)) => assert_eq!(base, want),
                (Err(problem), Err(want)) => assert!(problem.contains(want), "{text}: {problem}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }
}
