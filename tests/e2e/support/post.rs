//! Posts to the webhook over TLS, as a pod without an account does (I/O).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longer than any answer takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Opens connections from one address of this machine.
#[derive(Clone)]
pub(crate) struct Poster {
    connector: TlsConnector,
    name: ServerName<'static>,
    from: Ipv4Addr,
}

/// One connection.
pub(crate) struct Connection(TlsStream<TcpStream>);

impl Poster {
    /// Trusts the authorities of a caBundle, for a server with that name.
    pub(crate) fn new(bundle: &str, name: &str, from: Ipv4Addr) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&STANDARD.decode(bundle)?) {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: ServerName::try_from(name.to_owned())?,
            from,
        })
    }

    /// Connects and sends nothing.
    pub(crate) async fn dial(&self, to: SocketAddr) -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.from, 0).into())?;
        Ok(timeout(LIMIT, socket.connect(to)).await??)
    }

    /// Connects and completes the TLS handshake.
    pub(crate) async fn connect(&self, to: SocketAddr) -> Result<Connection> {
        let tcp = self.dial(to).await?;
        let shaken = self.connector.connect(self.name.clone(), tcp);
        Ok(Connection(timeout(LIMIT, shaken).await??))
    }
}

impl Connection {
    /// Posts a body and returns the answer's.
    pub(crate) async fn post(&mut self, path: &str, body: &[u8]) -> Result<String> {
        let exchange = async {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            self.0.write_all(head.as_bytes()).await?;
            self.0.write_all(body).await?;
            self.0.flush().await?;
            let mut answer = Vec::new();
            let read = self.0.read_to_end(&mut answer).await;
            ensure!(read.is_ok() || !answer.is_empty(), "no answer");
            Ok(String::from_utf8(answer)?)
        };
        let answer = timeout(LIMIT, exchange).await??;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        Ok(body.to_owned())
    }

    /// Waits until the server closes it.
    pub(crate) async fn closed(&mut self) {
        let _ = self.0.read_to_end(&mut Vec::new()).await;
    }
}
