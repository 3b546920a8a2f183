//! Finds in a sidecar's log why the control server refused it. Pure.

/// Why the control server refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The key has expired.
    Expired,
    /// The key was valid for one use, and was used.
    Used,
    /// The server does not know the key: it was deleted, belongs to another server, or is not a pre-auth key.
    Unknown,
    /// The key's tags are not permitted.
    Tags,
    /// The server's certificate is not trusted.
    Untrusted,
    /// The server does not answer.
    Unreachable,
}

/// What versions of Headscale and its clients write, in lower case. No word of a line is ever shown.
const WORDS: [(&str, Refused); 13] = [
    ("authkey expired", Refused::Expired),
    ("auth-key expired", Refused::Expired),
    ("authkey already used", Refused::Used),
    ("already been used", Refused::Used),
    ("invalid pre auth key", Refused::Unknown),
    ("auth-key not found", Refused::Unknown),
    ("authkey not found", Refused::Unknown),
    ("requested tags", Refused::Tags),
    ("x509:", Refused::Untrusted),
    ("connection refused", Refused::Unreachable),
    ("no such host", Refused::Unreachable),
    ("i/o timeout", Refused::Unreachable),
    ("deadline exceeded", Refused::Unreachable),
];

/// Returns the last refusal in a log.
pub(super) fn refused(log: &str) -> Option<Refused> {
    log.lines().rev().find_map(|line| {
        let line = line.to_ascii_lowercase();
        let found = WORDS.iter().find(|(words, _)| line.contains(words));
        let (_, refused) = found?;
        // It logs similar lines about other servers, such as relays.
        let transport = matches!(refused, Refused::Untrusted | Refused::Unreachable);
        (!transport || line.contains("control key")).then_some(*refused)
    })
}

impl Refused {
    /// Returns the cause in words.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Expired => "the control server rejects its key: it has expired",
            Self::Used => {
                "the control server rejects its key: it works only once, and was already used"
            }
            Self::Unknown => {
                "the control server does not know its key: it was deleted there, belongs to another server, or is not a \
                 pre-auth key but, for example, an API key"
            }
            Self::Tags => {
                "the control server does not permit its tags: its policy must list them under tagOwners"
            }
            Self::Untrusted => "the sidecar does not trust the control server's certificate",
            Self::Unreachable => "the sidecar cannot reach the control server",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_why_a_sidecar_is_not_let_in() {
        for (log, want) in [
            ("", None),
            ("boot: 2026/01/01 Starting tailscaled", None),
            // As a real sidecar wrote it.
            (
                "2026/11/21 18:20:39 Received error: authkey expired",
                Some(Refused::Expired),
            ),
            ("AuthKey expired", Some(Refused::Expired)),
            ("auth-key expired", Some(Refused::Expired)),
            ("http 401: authkey already used", Some(Refused::Used)),
            ("auth-key has already been used", Some(Refused::Used)),
            ("AuthKey not found", Some(Refused::Unknown)),
            ("auth-key not found", Some(Refused::Unknown)),
            ("http 401: invalid pre auth key", Some(Refused::Unknown)),
            (
                "requested tags [tag:a] are invalid or not permitted",
                Some(Refused::Tags),
            ),
            (
                "fetch control key: Get \"http://hs/key\": dial tcp 10.0.0.1:80: connect: connection refused",
                Some(Refused::Unreachable),
            ),
            (
                "fetch control key: Get \"https://hs/key\": x509: certificate signed by unknown authority",
                Some(Refused::Untrusted),
            ),
            ("derphttp: dial: connection refused", None),
            // The last one counts.
            (
                "authkey expired\nfetch control key: lookup hs: no such host",
                Some(Refused::Unreachable),
            ),
        ] {
            assert_eq!(refused(log), want, "{log}");
        }
    }
}
