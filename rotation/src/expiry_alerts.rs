//! Keys that should have been renewed but were not: when and how to report them. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_core::key_state::KeyState;
use sidescale_core::notice::{About, Notice};
use sidescale_core::secret::SecretRef;
use sidescale_core::time::after;

use super::demand::KeyDemand;

/// How long a renewal may take after it is due, or half the buffer if that is less.
const GRACE: Duration = Duration::from_secs(3_600);

/// A key that should have been renewed is reported as expiring within this time.
const SOON: Duration = Duration::from_secs(7 * 86_400);

/// How often the same alert is repeated while it lasts.
pub const TELL_EVERY: Duration = Duration::from_secs(3_600);

/// How far a key is past its renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExpiryAlert {
    /// It has been due for an hour, and is still valid.
    Overdue,
    /// It expires within seven days.
    Expiring,
    /// It has expired.
    Expired,
}

/// When a key that pods need is due, and when it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// When it is renewed.
    pub due: Timestamp,
    /// When the key expires.
    pub expires: Timestamp,
}

/// The most urgent alert of one Secret.
#[derive(Debug)]
pub struct MostUrgent<'a> {
    pub(super) ending: ExpiryAlert,
    pub(super) data_key: &'a str,
    pub(super) service: &'a str,
    pub(super) life: Lifetime,
    pub(super) state: KeyState,
    /// How many keys of the Secret have the same alert.
    pub(super) count: usize,
}

impl ExpiryAlert {
    /// Returns the name used in Events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overdue => "KeyOverdue",
            Self::Expiring => "KeyExpiring",
            Self::Expired => "KeyExpired",
        }
    }
}

impl Lifetime {
    /// Returns the lifetime of a key with this expiry.
    #[must_use]
    pub fn new(expires: Timestamp, demand: &KeyDemand) -> Self {
        let buffer = SignedDuration::try_from(demand.buffer).unwrap_or(SignedDuration::MAX);
        let due = expires.checked_sub(buffer).unwrap_or(Timestamp::MIN);
        Self { due, expires }
    }

    /// Returns how far the key is past its renewal; none while all is well.
    #[must_use]
    pub fn ending(self, now: Timestamp) -> Option<ExpiryAlert> {
        let [late, soon, end] = self.thresholds();
        if now >= end {
            Some(ExpiryAlert::Expired)
        } else if now >= soon {
            Some(ExpiryAlert::Expiring)
        } else {
            (now >= late).then_some(ExpiryAlert::Overdue)
        }
    }

    /// Returns when the alert changes next, if the key is not renewed.
    #[must_use]
    pub fn next(self, now: Timestamp) -> Option<Timestamp> {
        let times = self.thresholds().into_iter();
        times.filter(|at| *at > now).min()
    }

    /// Returns when it is overdue, when it expires soon, and when it expires.
    fn thresholds(self) -> [Timestamp; 3] {
        let Self { due, expires } = self;
        let buffer = expires.duration_since(due).unsigned_abs();
        let late = after(due, GRACE.min(buffer / 2));
        let soon = SignedDuration::try_from(SOON).unwrap_or_default();
        let soon = expires.checked_sub(soon).unwrap_or(Timestamp::MIN);
        [late, soon.max(late), expires]
    }
}

/// Returns the Event about the most urgent key of a Secret.
pub fn notice(secret: &SecretRef, worst: &MostUrgent<'_>, flags: &str) -> Notice {
    Notice {
        namespace: secret.namespace.clone(),
        about: About::secret(&secret.name),
        warning: true,
        reason: worst.ending.as_str(),
        note: note(secret, worst, flags),
    }
}

/// Returns the most urgent key of a Secret, and how many keys have the same alert.
pub fn most_urgent<'a>(
    now: Timestamp,
    lives: impl Iterator<Item = (&'a str, &'a KeyDemand, Timestamp, KeyState)>,
) -> Option<MostUrgent<'a>> {
    let mut worst: Option<MostUrgent<'a>> = None;
    for (data_key, demand, expires, state) in lives {
        let life = Lifetime::new(expires, demand);
        let Some(ending) = life.ending(now) else {
            continue;
        };
        let known = worst.as_ref().map(|worst| (worst.ending, worst.count));
        let count = match known {
            Some((known, _)) if known > ending => continue,
            Some((known, count)) if known == ending => count + 1,
            Some(_) | None => 1,
        };
        if count > 1
            && worst
                .as_ref()
                .is_some_and(|worst| worst.life.expires <= expires)
        {
            if let Some(worst) = &mut worst {
                worst.count = count;
            }
            continue;
        }
        worst = Some(MostUrgent {
            ending,
            data_key,
            service: &demand.service,
            life,
            state,
            count,
        });
    }
    worst
}

fn note(secret: &SecretRef, worst: &MostUrgent<'_>, flags: &str) -> String {
    let MostUrgent {
        ending,
        data_key,
        service,
        life: Lifetime { due, expires },
        state,
        count,
    } = worst;
    let SecretRef { namespace, name } = secret;
    let others = match count {
        0 | 1 => String::new(),
        2 => " (and one more of this Secret)".to_owned(),
        n => format!(" (and {} more of this Secret)", n - 1),
    };
    let what = match ending {
        ExpiryAlert::Overdue => {
            format!("should have been renewed at {due:.0} and was not; it expires at {expires:.0}")
        }
        ExpiryAlert::Expiring => format!(
            "expires within seven days, at {expires:.0}, and should have been renewed at {due:.0}: once it has expired, no \
             new pod can join"
        ),
        ExpiryAlert::Expired => format!(
            "expired at {expires:.0} and was not renewed: new pods cannot join, and running pods stay connected"
        ),
    };
    format!(
        "key {data_key}{others} {what}. Its state is {}: kubectl events -n {namespace} --for secret/{name} shows the cause; \
         once that is fixed, Sidescale renews the key by itself, or at once with sidescale rotate --now \
         {namespace}/{service}{flags}",
        state.as_str()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::KeySpec;

    const DAY: u64 = 86_400;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_second(i64::try_from(second).unwrap()).unwrap()
    }

    fn demand(buffer: u64) -> KeyDemand {
        KeyDemand {
            service: "web".into(),
            control_plane: "default".into(),
            asked: KeySpec {
                user: "shop.web".into(),
                tags: Vec::new(),
                reusable: true,
                ephemeral: true,
            },
            expiration: Duration::from_secs(90 * DAY),
            hostname: None,
            buffer: Duration::from_secs(buffer),
            pods: 1,
            differing: 0,
            since: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_key_is_overdue_after_an_hour_expiring_in_its_last_week_and_expired_at_its_end() {
        let end = 90 * DAY;
        let table = [
            // Buffer, then seconds before the expiry, and the alert.
            (10 * DAY, 10 * DAY, None),
            (10 * DAY, 10 * DAY - 3_599, None),
            (10 * DAY, 10 * DAY - 3_600, Some(ExpiryAlert::Overdue)),
            (10 * DAY, 7 * DAY + 1, Some(ExpiryAlert::Overdue)),
            (10 * DAY, 7 * DAY, Some(ExpiryAlert::Expiring)),
            (10 * DAY, 1, Some(ExpiryAlert::Expiring)),
            (10 * DAY, 0, Some(ExpiryAlert::Expired)),
            // A short buffer begins within the last week: being due causes no alert.
            (DAY, 7 * DAY, None),
            (DAY, DAY - 3_599, None),
            (DAY, DAY - 3_600, Some(ExpiryAlert::Expiring)),
            (20, 11, None),
            (20, 10, Some(ExpiryAlert::Expiring)),
            (0, 1, None),
            (0, 0, Some(ExpiryAlert::Expired)),
        ];
        for (buffer, before, ending) in table {
            let life = Lifetime::new(at(end), &demand(buffer));
            assert_eq!(life.ending(at(end - before)), ending, "{buffer} {before}");
        }
    }

    #[test]
    fn there_is_a_time_for_each_thing_to_say_and_none_after_the_end() {
        let life = Lifetime::new(at(90 * DAY), &demand(10 * DAY));
        let mut now = at(0);
        let mut times = Vec::new();
        while let Some(next) = life.next(now) {
            times.push(life.ending(next));
            now = next;
        }
        let all = [
            ExpiryAlert::Overdue,
            ExpiryAlert::Expiring,
            ExpiryAlert::Expired,
        ];
        assert_eq!(times, all.map(Some));
    }

    #[test]
    fn the_worst_key_of_a_secret_is_told_with_what_to_do() {
        let secret = SecretRef::new("shop", "headscale-auth-keys");
        let demand = demand(10 * DAY);
        let keys = [("a", 95), ("b", 90), ("c", 91), ("d", 300)];
        let tell = |now: Timestamp| {
            let lives = keys
                .iter()
                .map(|(key, day)| (*key, &demand, at(day * DAY), KeyState::Degraded));
            let worst = most_urgent(now, lives)?;
            Some(notice(&secret, &worst, " --release-name prod"))
        };
        assert_eq!(tell(at(79 * DAY)), None);
        let overdue = tell(at(82 * DAY)).unwrap();
        assert_eq!((overdue.reason, overdue.warning), ("KeyOverdue", true));
        for part in [
            "key b (and one more of this Secret)",
            "1970-03-22T00:00:00Z",
            "state is Degraded",
            "kubectl events -n shop --for secret/headscale-auth-keys",
            "sidescale rotate --now shop/web --release-name prod",
        ] {
            assert!(overdue.note.contains(part), "{part}: {}", overdue.note);
        }
        assert_eq!(tell(at(84 * DAY)).unwrap().reason, "KeyExpiring");
        let expired = tell(at(90 * DAY)).unwrap();
        assert_eq!(expired.reason, "KeyExpired");
        assert!(
            expired.note.starts_with("key b expired"),
            "{}",
            expired.note
        );
    }
}
