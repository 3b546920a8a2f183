//! `docs/headscale.md` lists every call to Headscale, and each row works as written.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use sidescale_core::key_value::KeyValue;
use sidescale_simulator::{Embedded, Flavour};
use tokio::net::TcpListener;

const PAGE: &str = include_str!("../../docs/headscale.md");

/// Folder of our own calls.
const CLIENT: &str = "control-plane/src";

struct Row {
    method: Method,
    path: String,
    body: String,
}

fn rows() -> Vec<Row> {
    let cells = |line: &str| -> Vec<String> {
        let cells = line.trim_matches('|').split(" |");
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    let mut rows = Vec::new();
    for line in PAGE.lines() {
        let cells = cells(line);
        let [method, path, body, _] = cells.as_slice() else {
            continue;
        };
        if let "GET" | "POST" | "DELETE" = method.as_str() {
            rows.push(Row {
                method: method.parse().unwrap(),
                path: path.trim_matches('`').to_owned(),
                body: body.trim_matches('`').to_owned(),
            });
        }
    }
    rows
}

/// Collects the paths in our client's sources, with `{}` for variable parts.
fn paths_in_sources(folder: &Path, paths: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths_in_sources(&path, paths);
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            let literals = text.split('"');
            let calls = literals.filter(|text| {
                text.starts_with("/api/v1/") || ["/version", "/health"].contains(text)
            });
            paths.extend(calls.map(shape));
        }
    }
}

/// Returns a path with `{}` for variable parts.
fn shape(path: &str) -> String {
    let mut shape = String::new();
    for (number, part) in path.split(['{', '}']).enumerate() {
        shape.push_str(if number % 2 == 0 { part } else { "{}" });
    }
    // Only a message writes it like this.
    shape.replace("/rename/NAME", "/rename/{}")
}

#[test]
fn every_path_that_the_client_asks_for_is_on_the_page() {
    let mut asked = BTreeSet::new();
    paths_in_sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join(CLIENT),
        &mut asked,
    );
    let listed: BTreeSet<String> = rows().iter().map(|row| shape(&row.path)).collect();
    assert!(asked.len() >= 15, "{asked:?}");
    assert_eq!(asked, listed);
}

/// Ids that the rows leave open.
struct Ids {
    user: String,
    key: String,
    node: String,
    apikey: String,
}

impl Ids {
    fn fill(&self, text: &str) -> String {
        let Self {
            user,
            key,
            node,
            apikey,
        } = self;
        let named = [
            ("{user}", user.as_str()),
            ("{key}", key),
            ("{node}", node),
            ("{apikey}", apikey),
            ("{name}", "web"),
        ];
        named
            .iter()
            .fold(text.to_owned(), |text, (name, id)| text.replace(name, id))
    }
}

struct Server {
    embedded: Embedded,
    base: String,
    api_key: KeyValue,
    client: reqwest::Client,
}

impl Server {
    async fn start(flavour: Flavour) -> Self {
        // Of several parallel calls the first one counts.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let embedded = Embedded::new(flavour, Timestamp::now);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let router = embedded.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            api_key: embedded.create_api_key(Duration::from_secs(3600)),
            embedded,
            base,
            client,
        }
    }

    async fn send(&self, method: &Method, path: &str, body: &str) -> (StatusCode, Value) {
        let request = self
            .client
            .request(method.clone(), format!("{}{path}", self.base));
        let request = request
            .bearer_auth(self.api_key.expose())
            .header("Content-Type", "application/json")
            .body(body.to_owned());
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    /// Creates one of each.
    async fn ids(&self) -> Ids {
        let post = async |path: &str, body: Value| {
            let (status, answer) = self.send(&Method::POST, path, &body.to_string()).await;
            assert_eq!(status, StatusCode::OK, "{path}: {answer}");
            answer
        };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let user = async |name: &str| {
            let made = post("/api/v1/user", serde_json::json!({"name": name})).await;
            text(&made["user"]["id"])
        };
        // A user with nodes cannot be deleted: the rows get one without.
        let (owner, user) = (user("shop.api").await, user("shop.empty").await);
        let asked = serde_json::json!({"user": owner, "expiration": "2030-01-01T00:00:00Z"});
        let key = post("/api/v1/preauthkey", asked).await;
        let node = self
            .embedded
            .join(key["preAuthKey"]["key"].as_str().unwrap(), "web-1");
        let life = serde_json::json!({"expiration": "2030-01-01T00:00:00Z"});
        let other = text(&post("/api/v1/apikey", life).await["apiKey"]);
        let listed = self.send(&Method::GET, "/api/v1/apikey", "").await.1;
        let listed = listed["apiKeys"].as_array().unwrap().last().unwrap();
        assert!(other.starts_with("hskey-api-"));
        Ids {
            user,
            key: text(&key["preAuthKey"]["id"]),
            node: node.unwrap().0.to_string(),
            apikey: text(&listed["id"]),
        }
    }
}

#[tokio::test]
async fn every_call_on_the_page_works_as_it_stands_there() {
    for flavour in [Flavour::V0_28, Flavour::V0_29, Flavour::Main] {
        for row in rows() {
            // Each with its own server: some delete what others need.
            let server = Server::start(flavour).await;
            let ids = server.ids().await;
            let (path, body) = (ids.fill(&row.path), ids.fill(&row.body));
            let (status, answer) = server.send(&row.method, &path, &body).await;
            let told_apart = ["/api/v1/openapi.yaml", "/api/v1/auth/register"];
            assert!(
                status == StatusCode::OK || told_apart.contains(&&*row.path),
                "{flavour:?} {} {path} {body}: {status} {answer}",
                row.method
            );
        }
    }
}
