//! The conformance suite over the embedded Headscale: each flavour, over HTTP and HTTPS. Real ones: `tests/e2e`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sidescale_core::release::HeadscaleRelease;
use sidescale_simulator::{Embedded, Flavour};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

#[path = "../support/conformance.rs"]
mod cases;

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_headscale_conforms() {
    let mut running = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    for flavour in Flavour::ALL {
        for way in [Way::Http, Way::Https, Way::Socket] {
            let socket = folder.path().join(flavour.as_str());
            running.push(tokio::spawn(async move {
                let embedded = Embedded::new(flavour, Timestamp::now);
                cases::run(&serve(flavour, embedded, way, socket).await).await
            }));
        }
    }
    let mut columns = Vec::new();
    for column in running {
        columns.push(column.await.unwrap());
    }
    println!("{}", cases::print(&columns));
    let failures: Vec<String> = columns.iter().flat_map(cases::Column::failures).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Transport of our client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Http,
    Https,
    Socket,
}

async fn serve(flavour: Flavour, embedded: Embedded, way: Way, socket: PathBuf) -> cases::Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = embedded.router();
    let mut ca_bundle = None;
    let tls = way == Way::Https;
    if tls {
        let (pem, acceptor) = acceptor();
        ca_bundle = Some(pem);
        tokio::spawn(async move { axum::serve(Tls { listener, acceptor }, router).await });
    } else {
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
    let scheme = if tls { "https" } else { "http" };
    let suffix = match way {
        Way::Http => "http",
        Way::Https => "https",
        Way::Socket => "socket",
    };
    let release = match flavour {
        Flavour::V0_28 => HeadscaleRelease::V0_28,
        Flavour::V0_29 => HeadscaleRelease::V0_29,
        Flavour::Main => HeadscaleRelease::V0_30,
    };
    let on_socket = embedded.clone();
    let server = cases::Server::new(
        format!("embedded {} {suffix}", flavour.as_str()),
        format!("{scheme}://{address}"),
        embedded.create_api_key(Duration::from_secs(3600)),
        ca_bundle,
        release,
        Some(embedded),
    );
    if way != Way::Socket {
        return server;
    }
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move { on_socket.serve_socket(listener).await });
    server.on_socket(socket)
}

/// Accepts TLS for axum; drops a client that does not speak it.
struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = tokio_rustls::server::TlsStream<TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

fn acceptor() -> (String, TlsAcceptor) {
    let (authority, issuer) = cases::table::authority("an authority of the tests").unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (authority, TlsAcceptor::from(Arc::new(config)))
}
