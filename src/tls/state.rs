//! Content of the authority's Secret, and what to write there. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sidescale_certs::{
    Authority, AuthorityError, AuthorityVerdict, Bundle, ReplaceReason, authority_verdict,
};
use zeroize::Zeroizing;

const GENERATION: &str = "generation";
const CERTIFICATE: &str = "active.crt";
const KEY: &str = "active.key";
const TRUST: &str = "trust.pem";

/// Data of a Secret.
pub(super) type Data = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// The signing authority and the authorities that are trusted.
#[derive(Debug)]
pub(super) struct Authorities {
    /// Increases with each authority.
    pub(super) generation: u64,
    /// Signs new leaves.
    pub(super) active: Authority,
    /// Trusts the active authority and those whose leaves may still be served.
    pub(super) trust: Bundle,
}

/// What to do with a Secret.
#[derive(Debug)]
pub(super) enum Next {
    /// Use the current content.
    Use(Authorities),
    /// Write this first; the reason is `None` if the Secret was empty.
    Write(Authorities, Option<&'static str>),
}

/// Decides what happens to the Secret's data. `starting`: an authority that is merely old is replaced at a start only.
/// A running process keeps its own, so that each step of a renewal is one restart.
///
/// # Errors
///
/// The authority cannot be created.
pub(super) fn next(
    data: Option<&Data>,
    dns_name: &str,
    now: Timestamp,
    starting: bool,
) -> Result<Next, AuthorityError> {
    let Some(data) = data else {
        return Ok(Next::Write(
            fresh(0, &Bundle::default(), dns_name, now)?,
            None,
        ));
    };
    let generation = text(data, GENERATION).parse().unwrap_or(0);
    // What others trust stays trusted, whatever the rest contains.
    let trust = Bundle::from_pem(text(data, TRUST).as_bytes());
    let Ok(active) = Authority::from_pem(text(data, CERTIFICATE), text(data, KEY)) else {
        let reason = ReplaceReason::Unreadable.as_str();
        return Ok(Next::Write(
            fresh(generation, &trust, dns_name, now)?,
            Some(reason),
        ));
    };
    let trust = trust.with(active.certificate()).without_ended(now);
    match authority_verdict(&active, dns_name, now) {
        AuthorityVerdict::Replace(reason) => Ok(Next::Write(
            fresh(generation, &trust, dns_name, now)?,
            Some(reason.as_str()),
        )),
        AuthorityVerdict::Due if starting => Ok(Next::Write(
            fresh(generation, &trust, dns_name, now)?,
            Some("past two thirds of its life"),
        )),
        AuthorityVerdict::Due | AuthorityVerdict::Usable => Ok(Next::Use(Authorities {
            generation,
            active,
            trust,
        })),
    }
}

impl Authorities {
    /// Returns the Secret's data.
    pub(super) fn to_data(&self) -> Data {
        let entries = [
            (GENERATION, self.generation.to_string()),
            (CERTIFICATE, self.active.certificate_pem().to_owned()),
            (KEY, self.active.key_pem().to_owned()),
            (TRUST, self.trust.to_pem()),
        ];
        entries
            .into_iter()
            .map(|(key, value)| (key.to_owned(), Zeroizing::new(value.into_bytes())))
            .collect()
    }
}

fn fresh(
    generation: u64,
    trust: &Bundle,
    dns_name: &str,
    now: Timestamp,
) -> Result<Authorities, AuthorityError> {
    let active = Authority::generate(dns_name, now)?;
    let trust = trust.clone().without_ended(now).with(active.certificate());
    Ok(Authorities {
        generation: generation.saturating_add(1),
        active,
        trust,
    })
}

fn text<'a>(data: &'a Data, key: &str) -> &'a str {
    data.get(key)
        .and_then(|value| std::str::from_utf8(value).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    const NAME: &str = "sidescale.sidescale.svc";

    fn start() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn first() -> Authorities {
        let Next::Write(authorities, None) = next(None, NAME, start(), true).unwrap() else {
            panic!("nothing was there, and it was not written");
        };
        authorities
    }

    fn days(count: i64) -> SignedDuration {
        SignedDuration::from_hours(24 * count)
    }

    #[test]
    fn makes_the_first_and_uses_it_from_then_on() {
        let made = first();
        assert_eq!((made.generation, made.trust.len()), (1, 1));
        let Next::Use(read) = next(Some(&made.to_data()), NAME, start() + days(100), true).unwrap()
        else {
            panic!("it is usable");
        };
        assert_eq!(read.generation, 1);
        assert_eq!(read.active.certificate(), made.active.certificate());
        assert_eq!(read.trust, made.trust);
    }

    #[test]
    fn replaces_what_cannot_be_used_and_keeps_what_others_trust() {
        let made = first();
        let with = |key: &str, value: Option<&[u8]>| {
            let mut data = made.to_data();
            match value {
                Some(value) => data.insert(key.to_owned(), Zeroizing::new(value.to_vec())),
                None => data.remove(key),
            };
            data
        };
        let other_key = first().active.key_pem().to_owned();
        // data, days later, name, trusted then, reason
        let table = [
            (Data::new(), 1, NAME, 1, "unreadable"),
            (with(CERTIFICATE, None), 1, NAME, 2, "unreadable"),
            (with(KEY, Some(b"junk")), 1, NAME, 2, "unreadable"),
            (with(KEY, Some(&[0xff])), 1, NAME, 2, "unreadable"),
            (
                with(KEY, Some(other_key.as_bytes())),
                1,
                NAME,
                2,
                "unreadable",
            ),
            (made.to_data(), 365, NAME, 1, "expired"),
            (
                made.to_data(),
                1,
                "other.sidescale.svc",
                2,
                "for another name",
            ),
            (
                with(TRUST, None),
                300,
                NAME,
                2,
                "past two thirds of its life",
            ),
        ];
        for (data, later, name, trusted, why) in table {
            let next = next(Some(&data), name, start() + days(later), true).unwrap();
            let Next::Write(written, Some(reason)) = next else {
                panic!("kept: {why}")
            };
            assert_eq!(reason, why);
            assert_eq!(written.trust.len(), trusted, "{why}");
            assert!(written.trust.contains(written.active.certificate()));
            assert!(written.active.is_for(name));
        }
    }

    #[test]
    fn an_old_authority_is_replaced_at_a_start_and_not_before() {
        let data = first().to_data();
        let old = start() + days(300);
        assert!(matches!(
            next(Some(&data), NAME, old, false).unwrap(),
            Next::Use(_)
        ));
        let Next::Write(second, Some(_)) = next(Some(&data), NAME, old, true).unwrap() else {
            panic!("kept")
        };
        assert_eq!((second.generation, second.trust.len()), (2, 2));
    }
}
