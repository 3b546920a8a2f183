//! Messages for a control plane that does not answer as Headscale does: every one, in full.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_control_plane::{ApiKeyClient, Client, Endpoint, Error};
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::NewPreAuthKey;
use sidescale_simulator::{Call, Embedded, Fault, Flavour};
use tokio::net::{TcpListener, UnixListener};

const MESSAGES: &str = include_str!("control_plane/messages.txt");

/// The messages so far; addresses differ from run to run.
#[derive(Default)]
struct Said(String);

impl Said {
    fn say(&mut self, title: &str, error: &Error, address: &str) {
        let message = error.to_string().replace(address, "ADDRESS");
        let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
        assert!(has(&["control plane \"default\": "]), "{message}");
        let places = ["apiUrl", "caBundle", "API key", "http://ADDRESS/"];
        assert!(has(&places), "nothing says where: {message}");
        let next = [
            "want ",
            "check ",
            "use https",
            "create one ",
            "list the ",
            "set ",
        ];
        assert!(has(&next), "nothing says what comes next: {message}");
        writeln!(self.0, "{title}\n    {message}").unwrap();
    }
}

#[tokio::test]
async fn every_message_says_where_what_came_what_is_wanted_and_what_to_do() {
    let embedded = Embedded::new(Flavour::Main, Timestamp::now);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = embedded.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let endpoint = Endpoint {
        name: "default".to_owned(),
        api_url: format!("http://{address}"),
        api_key: embedded.create_api_key(Duration::from_secs(3600)),
        ca_bundle: None,
        allow_insecure: true,
    };
    let mut said = Said::default();
    unusable(&endpoint, &mut said);
    no_access(&endpoint, &address, &mut said).await;
    let client = Client::with_deadline(endpoint, Duration::from_millis(500)).unwrap();
    odd_answers(&embedded, &client, &address, &mut said).await;
    odd_keys(&embedded, &client, &address, &mut said).await;

    let Said(text) = said;
    assert!(
        !text.contains("secret") && !text.contains("hskey-"),
        "{text}"
    );
    if std::env::var_os("SIDESCALE_BLESS").is_some() {
        std::fs::write("tests/suite/control_plane/messages.txt", &text).unwrap();
    }
    assert!(
        text == MESSAGES,
        "tests/suite/control_plane/messages.txt differs (SIDESCALE_BLESS=1 writes it):\n{text}"
    );
}

/// Checks endpoints that are refused before any call.
fn unusable(endpoint: &Endpoint, said: &mut Said) {
    type Change = fn(&mut Endpoint);
    let rows: [(&str, Change); 6] = [
        ("no URL", |endpoint| {
            endpoint.api_url = "headscale".to_owned()
        }),
        ("plain http", |endpoint| {
            endpoint.api_url = "http://headscale.example.com".to_owned();
            endpoint.allow_insecure = false;
        }),
        ("another scheme", |endpoint| {
            endpoint.api_url = "ftp://headscale.example.com".to_owned()
        }),
        ("a password", |endpoint| {
            endpoint.api_url = "https://a:secret@headscale.example.com".to_owned()
        }),
        ("no certificate", |endpoint| {
            endpoint.ca_bundle = Some("-----BEGIN".to_owned())
        }),
        ("an empty key", |endpoint| {
            endpoint.api_key = KeyValue::new(String::new())
        }),
    ];
    for (title, change) in rows {
        let mut endpoint = endpoint.clone();
        change(&mut endpoint);
        said.say(title, &Client::new(endpoint).unwrap_err(), "ADDRESS");
    }
}

async fn no_access(endpoint: &Endpoint, address: &str, said: &mut Said) {
    // A port that was just free: nothing listens there.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listener.local_addr().unwrap().to_string();
    drop(listener);
    let away = Endpoint {
        api_url: format!("http://{free}"),
        ..endpoint.clone()
    };
    let error = Client::new(away).unwrap().list_users().await.unwrap_err();
    said.say("nobody there", &error, &free);
    let api_key = KeyValue::new("hskey-api-unknown".to_owned());
    let unknown = Endpoint {
        api_key,
        ..endpoint.clone()
    };
    let error = Client::new(unknown)
        .unwrap()
        .list_users()
        .await
        .unwrap_err();
    said.say("an unknown API key", &error, address);
}

async fn odd_answers(embedded: &Embedded, client: &Client, address: &str, said: &mut Said) {
    client.create_user("shop.web", "").await.unwrap();
    let error = client.create_user("shop.web", "").await.unwrap_err();
    said.say("a taken name", &error, address);
    let faults = [
        ("a login page", Fault::Html),
        ("a redirect", Fault::Redirect),
        ("a proxy's 502", Fault::Status(502)),
        ("a proxy's 404", Fault::Status(404)),
        ("a slow server", Fault::Slow(Duration::from_secs(30))),
    ];
    for (title, fault) in faults {
        embedded.break_calls(None, fault);
        said.say(title, &client.list_users().await.unwrap_err(), address);
    }
    let old = serde_json::json!("v0.27.1");
    embedded.break_calls(Some(Call::Version), Fault::Field("/version", Some(old)));
    said.say(
        "an old version",
        &client.probe().await.unwrap_err(),
        address,
    );
    embedded.mend();
}

async fn odd_keys(embedded: &Embedded, client: &Client, address: &str, said: &mut Said) {
    let new = NewPreAuthKey {
        user: client.create_user("shop.keys", "").await.unwrap().id,
        reusable: true,
        ephemeral: true,
        expiration: "2099-01-01T00:00:00Z".parse().unwrap(),
        tags: Vec::new(),
    };
    for pointer in [
        "/preAuthKey/id",
        "/preAuthKey/key",
        "/preAuthKey/expiration",
    ] {
        embedded.break_calls(Some(Call::CreatePreAuthKey), Fault::Field(pointer, None));
        let error = client.create_pre_auth_key(&new).await.unwrap_err();
        said.say(&format!("a new key without {pointer}"), &error, address);
    }
}

#[tokio::test]
async fn a_socket_asks_for_no_api_key_and_is_found_again_after_a_restart() {
    for flavour in Flavour::ALL {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headscale.sock");
        let embedded = Embedded::new(flavour, Timestamp::now);
        let serve = || {
            // As Headscale does at each start: a new file with the same name.
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path).unwrap();
            let embedded = embedded.clone();
            tokio::spawn(async move { embedded.serve_socket(listener).await })
        };
        let first = serve();
        let client = ApiKeyClient::on_socket(&path).await.unwrap();
        let end = "2099-01-01T00:00:00Z".parse().unwrap();
        let minted = client.create(end).await.unwrap();
        first.abort();
        let _ = first.await;
        let error = client.list().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        let second = serve();
        let keys = client.list().await.unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].prefix, minted.prefix);
        // And without a call in between, while an earlier connection is still open.
        second.abort();
        let _ = second.await;
        let _third = serve();
        client.expire(keys[0].id).await.unwrap();
        let keys = client.list().await.unwrap();
        let ended = keys[0].expiration.unwrap();
        assert!(ended <= jiff::Timestamp::now(), "{keys:?}");
    }
}

#[tokio::test]
async fn a_socket_without_headscale_says_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("headscale.sock");
    let probe = async |want: &str| {
        let error = ApiKeyClient::on_socket(&path).await.unwrap_err();
        assert_eq!(error.as_str(), want, "{error}");
        let said = error.to_string();
        assert!(
            said.contains("unix:") && said.contains("headscale.sock:"),
            "{said}"
        );
        said
    };
    let said = probe("unreachable").await;
    assert!(said.contains("unix_socket_permission"), "{said}");

    // A file left behind: nothing accepts connections.
    drop(UnixListener::bind(&path).unwrap());
    probe("unreachable").await;

    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let other = axum::Router::new();
    let server = tokio::spawn(async move { axum::serve(listener, other).await });
    let said = probe("not_headscale").await;
    assert!(
        said.contains("check that it is Headscale's socket"),
        "{said}"
    );
    server.abort();

    // A server that speaks neither.
    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut first = [0; 16];
            let _ = stream.read(&mut first).await;
            let _ = stream.write_all(b"220 mail.example.com\r\n").await;
        }
    });
    let error = ApiKeyClient::on_socket(&path).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotHeadscale { .. } | Error::Unreachable { .. }
        ),
        "{error:?}"
    );
}
