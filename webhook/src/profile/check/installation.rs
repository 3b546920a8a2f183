//! The mark of this installation's users, and hostnames in the tailnet that the operator reserves. Pure.

use std::collections::BTreeMap;

use super::value::value;
use crate::forms;
use crate::identity;
use crate::profile::{HostnameOwner, PolicyError};

/// Longest mark: the uid of a namespace and the longest name of a release have less.
const LONGEST: usize = 128;

const INSTALLATION: &str = "want letters, digits, dashes, dots and _, in one word or two words separated by a space, at most 128 characters, such as prod-1";

/// Checks the mark of the users that this release creates.
pub(super) fn installation(text: Option<String>) -> Result<Option<String>, PolicyError> {
    match text {
        Some(text) if !is_installation(&text) => {
            Err(value("installation".to_owned(), &text, INSTALLATION))
        }
        text => Ok(text),
    }
}

/// Checks earlier marks.
pub(super) fn former(texts: Vec<String>) -> Result<Vec<String>, PolicyError> {
    match texts.iter().find(|text| !is_installation(text)) {
        Some(wrong) => Err(value("formerInstallations".to_owned(), wrong, INSTALLATION)),
        None => Ok(texts),
    }
}

/// Checks the services that own reserved hostnames.
pub(super) fn reserved_hostnames(
    owners: BTreeMap<String, String>,
) -> Result<BTreeMap<String, HostnameOwner>, PolicyError> {
    let owners = owners.into_iter().map(|(hostname, owner)| {
        if !forms::is_dns_label(&hostname) {
            let want = "want a hostname of lower-case letters, digits and dashes, at most 63 characters, such as vault";
            return Err(value("reservedHostnames".to_owned(), &hostname, want));
        }
        let named = owner.split_once('/').filter(|(namespace, service)| {
            forms::is_dns_label(namespace) && identity::is_service(service)
        });
        let Some((namespace, service)) = named else {
            let want = "want <namespace>/<service>, such as prod/vault";
            return Err(value(format!("reservedHostnames.{hostname}"), &owner, want));
        };
        let owner = HostnameOwner {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
        };
        Ok((hostname, owner))
    });
    owners.collect()
}

/// Returns whether `text` may mark users: their display name begins with it, before a space, a namespace and a service.
fn is_installation(text: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    text.len() <= LONGEST && text.split(' ').count() <= 2 && text.split(' ').all(word)
}
