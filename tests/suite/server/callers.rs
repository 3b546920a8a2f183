//! Which callers are asked for a certificate, and as what they are classified.

use std::net::Ipv4Addr;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sidescale::server::CallerCertificate;

use super::*;
use crate::client::Identity;

/// An authority of clients, as PEM and as the issuer.
struct Clients {
    pem: String,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl Clients {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    fn authority(&self) -> ClientAuthority {
        ClientAuthority::from_pem(self.pem.as_bytes()).unwrap()
    }

    fn issue(&self, purpose: ExtendedKeyUsagePurpose, until: i32) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![purpose];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        (chain, PrivateKeyDer::Pkcs8(key))
    }
}

async fn asking(clients: Option<ClientAuthority>) -> Server {
    let limits = Limits {
        drain: Duration::ZERO,
        connections: 64,
    };
    let who = async |caller: CallerCertificate| format!("{caller:?}");
    let more = Router::new().route("/who", post(who));
    Server::asking(limits, more, clients).await
}

#[tokio::test]
async fn only_a_certificate_of_the_authority_verifies_a_caller() {
    let (own, other) = (Clients::new("own"), Clients::new("other"));
    let server = asking(Some(own.authority())).await;
    let client = || ExtendedKeyUsagePurpose::ClientAuth;
    let table = [
        ("none", None, "Unverified"),
        ("own", Some(own.issue(client(), 2100)), "Verified"),
        ("another's", Some(other.issue(client(), 2100)), "Unverified"),
        ("over", Some(own.issue(client(), 2021)), "Unverified"),
        (
            "a server's",
            Some(own.issue(ExtendedKeyUsagePurpose::ServerAuth, 2100)),
            "Unverified",
        ),
    ];
    for (what, identity, want) in table {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let identity = identity
                .as_ref()
                .map(|(chain, key)| (chain.clone(), key.clone_key()));
            let config = client::config_of(&server.authority, identity, &[version]);
            let opened = Connection::with(server.address, Ipv4Addr::LOCALHOST, Arc::new(config));
            let mut connection = opened.await.unwrap();
            let who = connection.post("/who", b"").await;
            assert_eq!(who.body, want, "{what}, {version:?}");
            // Pods are reviewed for every caller.
            let answer = connection.post("/mutate/pod", REVIEW.as_bytes()).await;
            assert_eq!(answer.status, 200, "{what}: {answer:?}");
        }
    }
    for (result, count) in [("none", 2), ("verified", 2), ("refused", 6)] {
        let line = format!("sidescale_client_certificates_total{{result=\"{result}\"}} {count}");
        assert!(server.metric(&line), "{line}");
    }
}

#[tokio::test]
async fn nobody_is_asked_and_nobody_verified_without_an_authority() {
    let server = asking(None).await;
    let identity = Clients::new("own").issue(ExtendedKeyUsagePurpose::ClientAuth, 2100);
    let config = client::config(&server.authority, Some(identity));
    let opened = Connection::with(server.address, Ipv4Addr::LOCALHOST, Arc::new(config));
    let mut connection = opened.await.unwrap();
    assert_eq!(connection.post("/who", b"").await.body, "Unverified");
}

/// The key has to belong to the certificate: a copy of the certificate alone is useless.
#[tokio::test]
async fn a_certificate_without_its_key_ends_the_handshake() {
    #[derive(Debug)]
    struct Forged(Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Forged {
        fn resolve(
            &self,
            _hints: &[&[u8]],
            _schemes: &[rustls::SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let own = Clients::new("own");
    let server = asking(Some(own.authority())).await;
    let (chain, _) = own.issue(ExtendedKeyUsagePurpose::ClientAuth, 2100);
    let (_, key) = own.issue(ExtendedKeyUsagePurpose::ClientAuth, 2100);
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let forged = Forged(Arc::new(rustls::sign::CertifiedKey::new(chain, key)));
    let mut config = client::config(&server.authority, None);
    config.client_auth_cert_resolver = Arc::new(forged);
    let opened = Connection::with(server.address, Ipv4Addr::LOCALHOST, Arc::new(config)).await;
    // In TLS 1.3 the client is done before the server has verified it.
    if let Ok(mut connection) = opened {
        connection.closed().await;
    }
    assert!(server.metric(r#"sidescale_tls_handshakes_total{result="failed"} 1"#));
}

#[test]
fn says_what_is_wrong_with_an_authority() {
    let cut = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (pem, want) in [
        ("", "want one or more certificates in PEM form"),
        (
            "no certificate",
            "want one or more certificates in PEM form",
        ),
        (
            cut,
            "certificate 1 of the file is not a certificate authority",
        ),
    ] {
        let error = ClientAuthority::from_pem(pem.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(want), "{pem:?}: {error}");
    }
    let two = Clients::new("a").pem + &Clients::new("b").pem;
    assert!(ClientAuthority::from_pem(two.as_bytes()).is_ok());
}

#[tokio::test]
async fn speaks_http_1_1_and_no_http_2() {
    let server = Server::start().await;
    for (offered, want) in [
        (&["h2", "http/1.1"][..], Some("http/1.1")),
        (&["http/1.1"], Some("http/1.1")),
        (&["h2"], None),
    ] {
        let mut config = client::config(&server.authority, None);
        config.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let opened = Connection::with(server.address, Ipv4Addr::LOCALHOST, Arc::new(config)).await;
        let agreed = opened.ok().map(|connection| {
            let protocol = connection.0.get_ref().1.alpn_protocol();
            protocol.map(|name| String::from_utf8(name.to_vec()).unwrap())
        });
        assert_eq!(
            agreed,
            want.map(|name| Some(name.to_owned())),
            "{offered:?}"
        );
    }
}
