//! Authorities that the API server has to trust. Pure.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::der::facts;

/// Certificates, sorted and without duplicates: equal lists have equal text, whichever replica writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle(BTreeSet<Vec<u8>>);

impl Bundle {
    /// Parses PEM; skips everything that is no certificate, as the API server does.
    #[must_use]
    pub fn from_pem(pem: &[u8]) -> Self {
        let certificates = CertificateDer::pem_slice_iter(pem).flatten();
        Self(
            certificates
                .map(|der| der.to_vec())
                .filter(|der| facts(der).is_some())
                .collect(),
        )
    }

    /// Returns the same list with `certificate` in it.
    #[must_use]
    pub fn with(mut self, certificate: &CertificateDer<'_>) -> Self {
        self.0.insert(certificate.to_vec());
        self
    }

    /// Returns the same list without expired certificates: nothing that they signed verifies any more.
    #[must_use]
    pub fn without_ended(mut self, now: Timestamp) -> Self {
        self.0
            .retain(|der| facts(der).is_some_and(|facts| now < facts.not_after));
        self
    }

    /// Returns whether `certificate` is trusted.
    #[must_use]
    pub fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.0.contains(certificate.as_ref())
    }

    /// Returns how many are trusted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether none is trusted, in which case the API server uses the system's roots.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the list as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let mut pem = String::new();
        for certificate in &self.0 {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            let text = STANDARD.encode(certificate);
            for start in (0..text.len()).step_by(64) {
                pem.push_str(&text[start..text.len().min(start + 64)]);
                pem.push('\n');
            }
            pem.push_str("-----END CERTIFICATE-----\n");
        }
        pem
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AUTHORITY_LIFE, Authority};

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn authority() -> Authority {
        Authority::generate("a.b.svc", now()).unwrap()
    }

    #[test]
    fn order_and_repeats_make_no_difference() {
        let (one, two) = (authority(), authority());
        let forth = format!("{}{}", one.certificate_pem(), two.certificate_pem());
        let back = format!(
            "{0}\n# why\n{1}{0}",
            two.certificate_pem(),
            one.certificate_pem()
        );
        let bundle = Bundle::from_pem(forth.as_bytes());
        assert_eq!(bundle, Bundle::from_pem(back.as_bytes()));
        assert_eq!(bundle.len(), 2);
        assert_eq!(Bundle::from_pem(bundle.to_pem().as_bytes()), bundle);
        assert!(bundle.contains(one.certificate()));
    }

    #[test]
    fn leaves_junk_out() {
        let one = authority();
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let bundle = Bundle::from_pem(format!("{junk}{}", one.certificate_pem()).as_bytes());
        assert_eq!(bundle.len(), 1);
        for empty in ["", "junk", junk] {
            assert!(Bundle::from_pem(empty.as_bytes()).is_empty(), "{empty:?}");
        }
    }

    #[test]
    fn drops_what_has_ended_to_the_second() {
        let bundle = Bundle::default().with(authority().certificate());
        let end = now() + AUTHORITY_LIFE;
        assert_eq!(
            bundle
                .clone()
                .without_ended(end - jiff::SignedDuration::from_secs(1))
                .len(),
            1
        );
        assert!(bundle.without_ended(end).is_empty());
    }
}
