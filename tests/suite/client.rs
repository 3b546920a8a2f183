//! An HTTP/1.1 client over TLS that exposes each byte: the server tests send what no library would.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sidescale_certs::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// DNS name in the tests' certificates.
pub(crate) const NAME: &str = "sidescale.sidescale.svc";

/// One connection.
pub(crate) struct Connection(pub(crate) TlsStream<TcpStream>);

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Client certificate with its key; `identity` answers the server's request for it.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Returns a client's TLS configuration.
pub(crate) fn config(authority: &Authority, identity: Option<Identity>) -> ClientConfig {
    config_of(authority, identity, rustls::DEFAULT_VERSIONS)
}

/// Returns one that speaks only these versions.
pub(crate) fn config_of(
    authority: &Authority,
    identity: Option<Identity>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
        None => config.with_no_client_auth(),
    }
}

/// Connects from an address of this machine.
pub(crate) async fn dial(address: SocketAddr, from: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(address).await
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, authority: &Authority) -> Self {
        let config = Arc::new(config(authority, None));
        Self::with(address, Ipv4Addr::LOCALHOST, config)
            .await
            .unwrap()
    }

    /// Connects from `from`, with the TLS handshake of `config`.
    pub(crate) async fn with(
        address: SocketAddr,
        from: Ipv4Addr,
        config: Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let tcp = dial(address, from).await?;
        let name = ServerName::try_from(NAME).unwrap();
        Ok(Self(TlsConnector::from(config).connect(name, tcp).await?))
    }

    pub(crate) async fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(head.as_bytes()).await;
        self.send(body).await;
        self.answer().await.expect("an answer")
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Reads one answer; `None` if the connection ends first.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.split("content-length: ").nth(1).map_or(0, |rest| {
            rest.split("\r\n").next().unwrap().parse().unwrap()
        });
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.ok()?;
        Some(Answer {
            status,
            head,
            body: String::from_utf8(body).unwrap(),
        })
    }

    /// Waits until the server closes; the caller limits the time.
    pub(crate) async fn closed(&mut self) {
        let mut rest = Vec::new();
        let read =
            tokio::time::timeout(Duration::from_secs(30), self.0.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "the server kept the connection");
    }
}
