//! The webhook's own certificate authority: created, read, written. Pure.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::der::{CertificateFacts, facts, moment};

/// Lifetime of an authority.
pub const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Time by which certificates are backdated, for callers whose clock is behind ours.
pub(crate) const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// Authority that signs the serving certificates of one DNS name, and no other: its name constraint makes a stolen key
/// nearly worthless.
pub struct Authority {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: Zeroizing<String>,
    facts: CertificateFacts,
}

/// Error in creating or reading an authority.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The authority could not be created.
    #[error("make a certificate authority for {dns_name:?}")]
    Generate {
        /// DNS name of the authority.
        dns_name: String,
        /// Error of rcgen.
        #[source]
        source: rcgen::Error,
    },
    /// The certificate cannot be read.
    #[error("the authority's certificate is not one PEM certificate")]
    Certificate,
    /// The key cannot be read.
    #[error("the authority's private key is not a PEM key of a known kind")]
    Key,
    /// The certificate belongs to another key.
    #[error("the authority's private key does not belong to its certificate")]
    Mismatch,
    /// The certificate may not sign.
    #[error("the certificate is not that of a certificate authority")]
    NoAuthority,
}

impl Authority {
    /// Creates an authority for `dns_name`.
    ///
    /// # Errors
    /// If the name is no DNS name, or there is no randomness.
    pub fn generate(dns_name: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let failed = |source| AuthorityError::Generate {
            dns_name: dns_name.to_owned(),
            source,
        };
        let mut params = CertificateParams::default();
        params.not_before = moment(now - BACKDATED);
        params.not_after = moment(now + AUTHORITY_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(dns_name.to_owned())],
            // A name of another kind is permitted unless it is excluded.
            excluded_subtrees: [
                CidrSubnet::V4([0; 4], [0; 4]),
                CidrSubnet::V6([0; 16], [0; 16]),
            ]
            .map(GeneralSubtree::IpAddress)
            .to_vec(),
        });
        // The serial number comes from rcgen: a digest of the public key, and as random as the key.
        let key = KeyPair::generate().map_err(failed)?;
        // Several authorities are trusted at once. If two had one name, a verifier would try the wrong key and report
        // a bad signature.
        let point: String = key
            .public_key_raw()
            .iter()
            .skip(1)
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("sidescale webhook CA {point}"));
        let certificate = params.self_signed(&key).map_err(failed)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// Parses a stored authority.
    ///
    /// # Errors
    /// If either part cannot be parsed, or the two do not belong together. Names and times are checked by
    /// [`authority_verdict`](crate::authority_verdict).
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| AuthorityError::Certificate)?;
        let facts = facts(&certificate).ok_or(AuthorityError::Certificate)?;
        if !facts.is_authority {
            return Err(AuthorityError::NoAuthority);
        }
        let key = KeyPair::from_pem(key_pem).map_err(|_| AuthorityError::Key)?;
        if key.public_key_raw() != facts.public_key {
            return Err(AuthorityError::Mismatch);
        }
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|_| AuthorityError::Certificate)?;
        Ok(Self {
            issuer,
            certificate,
            certificate_pem: certificate_pem.to_owned(),
            key_pem: Zeroizing::new(key_pem.to_owned()),
            facts,
        })
    }

    /// Returns its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Returns its certificate as PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Returns its private key as PEM: for the Secret, never for a log.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Returns when it becomes valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.facts.not_before
    }

    /// Returns when it expires.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.facts.not_after
    }

    /// Returns whether `dns_name` is the one name that it may sign for.
    #[must_use]
    pub fn is_for(&self, dns_name: &str) -> bool {
        self.facts.permitted == [dns_name]
    }
}

/// Shows nothing of the key.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("permitted", &self.facts.permitted)
            .field("not_after", &self.facts.not_after)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "sidescale.sidescale.svc";

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn is_read_back_as_it_was_made() {
        let made = Authority::generate(NAME, now()).unwrap();
        let read = Authority::from_pem(made.certificate_pem(), made.key_pem()).unwrap();
        assert_eq!(read.certificate(), made.certificate());
        assert!(read.is_for(NAME));
        assert!(!read.is_for("other.sidescale.svc"));
        assert_eq!(read.not_before(), now() - SignedDuration::from_hours(1));
        assert_eq!(read.not_after(), now() + AUTHORITY_LIFE);
    }

    #[test]
    fn two_have_different_names_serials_and_keys() {
        let serial = |authority: &Authority| {
            x509_parser::parse_x509_certificate(authority.certificate())
                .unwrap()
                .1
                .raw_serial()
                .to_vec()
        };
        let one = Authority::generate(NAME, now()).unwrap();
        let two = Authority::generate(NAME, now()).unwrap();
        assert_ne!(serial(&one), serial(&two));
        assert!(serial(&one).len() >= 16);
        assert_ne!(one.key_pem(), two.key_pem());
        let subject = |authority: &Authority| {
            x509_parser::parse_x509_certificate(authority.certificate())
                .unwrap()
                .1
                .subject()
                .to_string()
        };
        assert_ne!(subject(&one), subject(&two));
    }

    #[test]
    fn its_name_constraint_is_critical_and_it_signs_leaves_only() {
        let authority = Authority::generate(NAME, now()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(authority.certificate()).unwrap();
        assert!(parsed.name_constraints().unwrap().unwrap().critical);
        assert_eq!(
            parsed
                .basic_constraints()
                .unwrap()
                .unwrap()
                .value
                .path_len_constraint,
            Some(0)
        );
    }

    #[test]
    fn refuses_what_is_no_authority() {
        let one = Authority::generate(NAME, now()).unwrap();
        let two = Authority::generate(NAME, now()).unwrap();
        let plain = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let plain_key = plain.signing_key.serialize_pem();
        let plain_pem = plain.cert.pem();
        let table: [(&str, &str, &str); 5] = [
            (
                "",
                one.key_pem(),
                "the authority's certificate is not one PEM certificate",
            ),
            (
                one.certificate_pem(),
                "",
                "the authority's private key is not a PEM key of a known kind",
            ),
            (
                one.certificate_pem(),
                "junk",
                "the authority's private key is not a PEM key of a known kind",
            ),
            (
                one.certificate_pem(),
                two.key_pem(),
                "the authority's private key does not belong to its certificate",
            ),
            (
                &plain_pem,
                &plain_key,
                "the certificate is not that of a certificate authority",
            ),
        ];
        for (certificate, key, message) in table {
            assert_eq!(
                Authority::from_pem(certificate, key)
                    .unwrap_err()
                    .to_string(),
                message
            );
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let authority = Authority::generate(NAME, now()).unwrap();
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }
}
