//! Decides when a certificate has to be replaced. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::authority::Authority;

/// Whether an authority may still sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityVerdict {
    /// It may sign.
    Usable,
    /// It may sign, and two thirds of its lifetime have passed: replace it at the next start.
    Due,
    /// It may not sign: create another at once.
    Replace(ReplaceReason),
}

/// Reason why an authority has to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceReason {
    /// The stored authority cannot be parsed.
    Unreadable,
    /// It has expired.
    Expired,
    /// It is for another DNS name: the Service or the namespace was renamed.
    WrongName,
}

impl ReplaceReason {
    /// Returns its text in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Expired => "expired",
            Self::WrongName => "for another name",
        }
    }
}

/// Judges an authority that could be parsed.
///
/// One that becomes valid in the future because of a clock error is usable: two replicas whose clocks differ would
/// otherwise replace each other's.
#[must_use]
pub fn authority_verdict(
    authority: &Authority,
    dns_name: &str,
    now: Timestamp,
) -> AuthorityVerdict {
    if now >= authority.not_after() {
        return AuthorityVerdict::Replace(ReplaceReason::Expired);
    }
    if !authority.is_for(dns_name) {
        return AuthorityVerdict::Replace(ReplaceReason::WrongName);
    }
    if now >= two_thirds(authority.not_before(), authority.not_after()) {
        return AuthorityVerdict::Due;
    }
    AuthorityVerdict::Usable
}

/// Returns whether a leaf with these times has to be replaced: after two thirds of its lifetime.
#[must_use]
pub fn leaf_is_due(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> bool {
    now >= two_thirds(not_before, not_after)
}

fn two_thirds(not_before: Timestamp, not_after: Timestamp) -> Timestamp {
    let life = SignedDuration::from_secs(not_after.as_second() - not_before.as_second());
    not_before + life * 2 / 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::AUTHORITY_LIFE;

    const NAME: &str = "a.b.svc";

    #[test]
    fn judges_an_authority_by_name_and_time() {
        let made: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let authority = Authority::generate(NAME, made).unwrap();
        let second = SignedDuration::from_secs(1);
        let hour = SignedDuration::from_hours(1);
        let end = made + AUTHORITY_LIFE;
        // Its lifetime is 365 d and the hour before it was created.
        let due = made - hour + (AUTHORITY_LIFE + hour) * 2 / 3;
        let expired = AuthorityVerdict::Replace(ReplaceReason::Expired);
        let table = [
            (NAME, made, AuthorityVerdict::Usable),
            (NAME, made - hour * 24, AuthorityVerdict::Usable),
            (NAME, due - second, AuthorityVerdict::Usable),
            (NAME, due, AuthorityVerdict::Due),
            (NAME, end - second, AuthorityVerdict::Due),
            (NAME, end, expired),
            (
                "c.b.svc",
                made,
                AuthorityVerdict::Replace(ReplaceReason::WrongName),
            ),
            (
                "b.svc",
                made,
                AuthorityVerdict::Replace(ReplaceReason::WrongName),
            ),
            ("c.b.svc", end, expired),
        ];
        for (name, now, verdict) in table {
            assert_eq!(
                authority_verdict(&authority, name, now),
                verdict,
                "{name} at {now}"
            );
        }
    }

    #[test]
    fn a_leaf_is_due_at_two_thirds_of_its_life() {
        let begin: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let end = begin + SignedDuration::from_secs(300);
        for (after, due) in [
            (0, false),
            (199, false),
            (200, true),
            (300, true),
            (-10, false),
        ] {
            assert_eq!(
                leaf_is_due(begin, end, begin + SignedDuration::from_secs(after)),
                due,
                "{after}"
            );
        }
    }
}
