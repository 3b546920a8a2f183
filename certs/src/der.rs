//! The parts of a certificate that Sidescale reads. Pure.

use jiff::Timestamp;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Facts that decide whether a certificate can stay in use.
pub(crate) struct CertificateFacts {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) is_authority: bool,
    /// Names that its name constraint permits.
    pub(crate) permitted: Vec<String>,
    /// The public key, as its algorithm writes it.
    pub(crate) public_key: Vec<u8>,
}

/// Parses a certificate; `None` if it is not one.
pub(crate) fn facts(der: &[u8]) -> Option<CertificateFacts> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let permitted = match certificate.name_constraints() {
        Ok(Some(constraints)) => constraints
            .value
            .permitted_subtrees
            .iter()
            .flatten()
            .filter_map(|tree| match tree.base {
                GeneralName::DNSName(name) => Some(name.to_owned()),
                _ => None,
            })
            .collect(),
        Ok(None) | Err(_) => Vec::new(),
    };
    Some(CertificateFacts {
        not_before: Timestamp::from_second(certificate.validity().not_before.timestamp()).ok()?,
        not_after: Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?,
        is_authority: certificate.is_ca(),
        permitted,
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
    })
}

/// Returns the same moment, to the second, in rcgen's type.
pub(crate) fn moment(at: Timestamp) -> OffsetDateTime {
    // jiff's range lies inside that of `time`.
    OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
