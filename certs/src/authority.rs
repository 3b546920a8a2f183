//! The webhook's own certificate authority: made, read, written. Pure.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::der::{CertificateFacts, facts, moment};

/// Is an authority's life.
pub const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Lets callers whose clock is behind ours accept what we have just made.
pub(crate) const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// Signs the serving certificates of one DNS name, and of no other: its name constraint makes a stolen key of it
/// nearly worthless.
pub struct Authority {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: Zeroizing<String>,
    facts: CertificateFacts,
}

/// Says why there is no authority.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// Something could not be made.
    #[error("make a certificate authority for {dns_name:?}")]
    Generate {
        /// The name it should have been for.
        dns_name: String,
        /// What rcgen says.
        #[source]
        source: rcgen::Error,
    },
    /// The certificate cannot be read.
    #[error("the authority's certificate is not one PEM certificate")]
    Certificate,
    /// The key cannot be read.
    #[error("the authority's private key is not a PEM key of a known kind")]
    Key,
    /// The certificate is another key's.
    #[error("the authority's private key does not belong to its certificate")]
    Mismatch,
    /// It may not sign.
    #[error("the certificate is not a certificate authority's")]
    NoAuthority,
}

impl Authority {
    /// Makes an authority for `dns_name`.
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
            excluded_subtrees: Vec::new(),
        });
        // The serial number is rcgen's own: a digest of the public key, so as random as the key.
        let key = KeyPair::generate().map_err(failed)?;
        // Several authorities are trusted at once. Two of one name would make a verifier try the wrong key and speak
        // of a bad signature.
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

    /// Reads an authority back.
    ///
    /// # Errors
    /// If either part cannot be read, or the two do not belong together. Names and times are for
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

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate, as written.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its private key, as written: for the Secret, never for a log.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// When it begins.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.facts.not_before
    }

    /// When it ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.facts.not_after
    }

    /// Whether `dns_name` is the one name that it may sign for.
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
                "the certificate is not a certificate authority's",
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
