//! The serving certificate of one replica: in memory only, never stored. Pure.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;

use crate::authority::{Authority, BACKDATED};
use crate::der::moment;
use crate::renewal::leaf_is_due;

/// Lifetime of a leaf, if its authority is valid as long.
pub const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A serving certificate with its key.
#[derive(Clone, Debug)]
pub struct Leaf {
    key: Arc<CertifiedKey>,
    authority: CertificateDer<'static>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Error in issuing a leaf.
#[derive(Debug, Error)]
pub enum LeafError {
    /// The certificate could not be signed.
    #[error("sign a serving certificate for {dns_name:?}")]
    Sign {
        /// DNS name of the leaf.
        dns_name: String,
        /// Error of rcgen.
        #[source]
        source: rcgen::Error,
    },
    /// rustls does not accept the key.
    #[error("load the serving certificate's key")]
    Key(#[source] rustls::Error),
}

impl Leaf {
    /// Has `authority` sign a certificate for `dns_name`; it never outlives the authority.
    ///
    /// # Errors
    /// If it cannot be signed or loaded.
    pub fn issue(authority: &Authority, dns_name: &str, now: Timestamp) -> Result<Self, LeafError> {
        let failed = |source| LeafError::Sign {
            dns_name: dns_name.to_owned(),
            source,
        };
        // The API server asks for this one name; another would violate the authority's name constraint.
        let mut params = CertificateParams::new([dns_name.to_owned()]).map_err(failed)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "sidescale webhook");
        let not_before = (now - BACKDATED).max(authority.not_before());
        let not_after = (now + LEAF_LIFE).min(authority.not_after());
        params.not_before = moment(not_before);
        params.not_after = moment(not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &authority.issuer).map_err(failed)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signing =
            rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private).map_err(LeafError::Key)?;
        Ok(Self {
            key: Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing)),
            authority: authority.certificate().clone(),
            not_before,
            not_after,
        })
    }

    /// Returns the certificate and its key, in rustls' form.
    #[must_use]
    pub fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }

    /// Returns the authority that signed it.
    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// Returns when it expires.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Returns whether it has to be replaced.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        leaf_is_due(self.not_before, self.not_after, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    use std::time::Duration;

    const NAME: &str = "sidescale.sidescale.svc";

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn verify(
        authority: &Authority,
        leaf: &Leaf,
        name: &str,
        at: Timestamp,
    ) -> Result<(), rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let at =
            UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().try_into().unwrap()));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier
            .verify_server_cert(leaf.key().end_entity_cert().unwrap(), &[], &name, &[], at)
            .map(drop)
    }

    #[test]
    fn is_trusted_through_its_authority_for_its_name_and_time() {
        let authority = Authority::generate(NAME, now()).unwrap();
        let leaf = Leaf::issue(&authority, NAME, now()).unwrap();
        assert_eq!(leaf.not_after(), now() + LEAF_LIFE);
        verify(&authority, &leaf, NAME, now()).unwrap();
        verify(
            &authority,
            &leaf,
            NAME,
            now() - SignedDuration::from_mins(59),
        )
        .unwrap();
        verify(&authority, &leaf, "kubernetes.default.svc", now()).unwrap_err();
        verify(
            &authority,
            &leaf,
            NAME,
            now() + LEAF_LIFE + SignedDuration::from_secs(1),
        )
        .unwrap_err();
        let other = Authority::generate(NAME, now()).unwrap();
        verify(&other, &leaf, NAME, now()).unwrap_err();
    }

    #[test]
    fn another_name_breaks_the_constraint_of_the_authority() {
        let authority = Authority::generate(NAME, now()).unwrap();
        let leaf = Leaf::issue(&authority, "kubernetes.default.svc", now()).unwrap();
        let error = verify(&authority, &leaf, "kubernetes.default.svc", now()).unwrap_err();
        assert!(error.to_string().contains("NameConstraint"), "{error}");
    }

    #[test]
    fn no_address_is_within_the_constraint_of_the_authority() {
        let authority = Authority::generate(NAME, now()).unwrap();
        for address in ["10.0.0.1", "2001:db8::1"] {
            let leaf = Leaf::issue(&authority, address, now()).unwrap();
            let error = verify(&authority, &leaf, address, now()).unwrap_err();
            assert!(error.to_string().contains("NameConstraint"), "{error}");
        }
    }

    #[test]
    fn does_not_outlive_its_authority() {
        let authority = Authority::generate(NAME, now()).unwrap();
        let late = authority.not_after() - SignedDuration::from_hours(24);
        let leaf = Leaf::issue(&authority, NAME, late).unwrap();
        assert_eq!(leaf.not_after(), authority.not_after());
        verify(&authority, &leaf, NAME, late).unwrap();
    }

    #[test]
    fn is_due_at_two_thirds() {
        let authority = Authority::generate(NAME, now()).unwrap();
        let leaf = Leaf::issue(&authority, NAME, now()).unwrap();
        assert!(!leaf.is_due(now() + SignedDuration::from_hours(24 * 4)));
        assert!(leaf.is_due(now() + SignedDuration::from_hours(24 * 5)));
    }
}
