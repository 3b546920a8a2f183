//! The server's TLS: which certificate it serves, what it speaks and which clients it verifies. Pure state, no I/O.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConnection, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::tls::ServingKey;

/// Authority of the client certificates of the cluster's API servers.
#[derive(Clone, Debug)]
pub struct ClientAuthority(Arc<dyn ClientCertVerifier>);

/// Why a file contains no authority of clients.
#[derive(Debug, thiserror::Error)]
pub enum ClientAuthorityError {
    /// It contains no certificate, or an unreadable one.
    #[error("want one or more certificates in PEM form, starting with -----BEGIN CERTIFICATE-----")]
    Pem,
    /// A certificate cannot be trusted as an authority.
    #[error("certificate {number} of the file is not a certificate authority that can be trusted")]
    Untrusted {
        /// Its position, from one.
        number: usize,
        /// The error of rustls.
        #[source]
        source: rustls::Error,
    },
    /// The verifier cannot be created.
    #[error("make a verifier of client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl ClientAuthority {
    /// Reads one or more authorities.
    ///
    /// # Errors
    ///
    /// `pem` contains none, or one that cannot be trusted.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ClientAuthorityError> {
        let mut roots = RootCertStore::empty();
        for (number, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
            let certificate = certificate.map_err(|_| ClientAuthorityError::Pem)?;
            roots
                .add(certificate)
                .map_err(|source| ClientAuthorityError::Untrusted {
                    number: number + 1,
                    source,
                })?;
        }
        if roots.is_empty() {
            return Err(ClientAuthorityError::Pem);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()?;
        Ok(Self(verifier))
    }

    fn is_of(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let Some((certificate, intermediates)) = chain.split_first() else {
            return false;
        };
        let verified = self.0.verify_client_cert(certificate, intermediates, now);
        verified.is_ok()
    }
}

/// Accepts any certificate that matches the caller's key. Its issuer is checked after the handshake: an API server with
/// an expired certificate, or one of a new authority, gets shorter answers; a failed handshake would mean pods without
/// sidecars.
#[derive(Debug)]
struct Offered(ClientAuthority);

impl ClientCertVerifier for Offered {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        self.0.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0
            .0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0
            .0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.0.supported_verify_schemes()
    }
}

/// TLS of one port.
pub struct ServerTls {
    pub(super) acceptor: TlsAcceptor,
    clients: Option<ClientAuthority>,
}

/// What a caller has presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// No certificate is requested.
    NotAsked,
    Nothing,
    /// A certificate of an API server.
    Verified,
    /// An expired certificate, or one of another authority.
    Refused,
}

impl Shown {
    /// Returns the metric's label; `None` if no certificate is requested.
    pub(super) fn as_str(self) -> Option<&'static str> {
        match self {
            Self::NotAsked => None,
            Self::Nothing => Some("none"),
            Self::Verified => Some("verified"),
            Self::Refused => Some("refused"),
        }
    }
}

impl ServerTls {
    /// Returns the TLS of a port that serves `key` and, with `clients`, requests a certificate without requiring it.
    ///
    /// # Errors
    ///
    /// The crypto provider lacks TLS 1.2 or 1.3.
    pub fn new(
        key: Arc<ServingKey>,
        clients: Option<ClientAuthority>,
    ) -> Result<Arc<Self>, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::new(Offered(clients.clone()))),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(key);
        // API servers force http/1.1 on webhooks that are Services, so that requests spread over the replicas.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // The API server never resumes a session.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            clients,
        }))
    }

    /// Returns what the caller of `connection` has presented, now that its handshake is complete.
    pub(super) fn shown(&self, connection: &ServerConnection, now: UnixTime) -> Shown {
        match (&self.clients, connection.peer_certificates()) {
            (None, _) => Shown::NotAsked,
            (Some(_), None) => Shown::Nothing,
            (Some(clients), Some(chain)) if clients.is_of(chain, now) => Shown::Verified,
            (Some(_), Some(_)) => Shown::Refused,
        }
    }
}
