//! Lifetime of a key and how long before expiry it is renewed, within the operator's limits. Pure.

use std::time::Duration;

use super::asked::{Annotation, AnnotationValue, Asked, ValuePlace};
use super::{Refusal, Subject};
use crate::forms;
use crate::keys::PREFIX;
use crate::profile::SHORTEST_LIFE;
use crate::profile::{Profile, Rotation};

const EXPIRATION: Duration = Duration::from_secs(2160 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const BUFFER: Duration = Duration::from_secs(240 * 3600);

/// Lifetime of a key, how long before expiry it is renewed, and the remarks on both.
pub(super) struct KeyLifetime<'a> {
    pub(super) expiration: Duration,
    pub(super) buffer: Duration,
    /// The buffer as its author wrote it, unless the operator set it.
    asked: Option<(&'static str, &'a str)>,
    /// The lifetime as its author wrote it, if it is more than a year.
    long: Option<(&'static str, &'a str)>,
    /// Remark on a value of the author that has no effect.
    vain: Option<String>,
}

/// The operator's limits on the lifetime of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<'p> {
    least: Duration,
    most: Duration,
    /// Shortest time before a renewal, unless a third of the lifetime is shorter.
    gap: Duration,
    /// Profile whose `maxAuthKeyExpiration` is the longest lifetime; `None` for a key that no profile limits.
    profile: Option<&'p str>,
    /// Whether a lifetime outside the limits is moved inside, for a running pod that keeps its key whatever the limits are by now.
    lenient: bool,
}

impl<'p> Bounds<'p> {
    /// Returns the limits of an API key, which only its own Headscale creates.
    pub(super) fn of_api_keys() -> Self {
        Self {
            least: SHORTEST_LIFE,
            most: Duration::MAX,
            gap: Duration::from_secs(1),
            profile: None,
            lenient: false,
        }
    }

    /// Returns the limits of a pre-auth key with a lifetime of at least `least`.
    pub(super) fn of_auth_keys(
        subject: &Subject<'_>,
        least: Duration,
        name: &'p str,
        profile: &Profile,
        rotation: &Rotation,
    ) -> Self {
        Self {
            least,
            most: profile.max_auth_key_expiration,
            gap: rotation.min_auth_key_renewal_gap,
            profile: Some(name),
            lenient: subject.profile.is_some(),
        }
    }

    fn of_life(
        self,
        asked: &Asked<'_>,
        key: Annotation,
        given: Duration,
    ) -> Result<Duration, Refusal> {
        let Self {
            least,
            most,
            gap: _,
            profile,
            lenient,
        } = self;
        if lenient {
            return Ok(given.min(most).max(least));
        }
        if given < least {
            return Err(asked.bad(key, &format!("want at least {}", forms::show(least))));
        }
        if given > most {
            let most = forms::show(most);
            let want = match profile {
                Some(name) => format!(
                    "want at most {most}, or ask the operator to raise profiles.{name}.maxAuthKeyExpiration"
                ),
                None => format!("want at most {most}"),
            };
            return Err(asked.bad(key, &want));
        }
        Ok(given)
    }
}

impl KeyLifetime<'_> {
    /// Returns a remark if the key is renewed sooner than its author can have meant.
    pub(super) fn remark(&self) -> Option<String> {
        if self.vain.is_some() {
            return self.vain.clone();
        }
        if let Some((name, text)) = self.long {
            return Some(format!(
                "annotation '{PREFIX}{name}' is '{text}': a stolen key would stay valid for more than a year, 2160h is usual"
            ));
        }
        let (name, text) = self.asked?;
        let often = self.expiration.saturating_sub(self.buffer);
        (often < self.buffer).then(|| format!(
            "annotation '{PREFIX}{name}' is '{text}': with an expiration of {}, the key is renewed every {}; a buffer of less than half the expiration is usual",
            forms::show(self.expiration),
            forms::show(often)
        ))
    }
}

/// Returns the lifetime of a key, from the annotations `life` and `before` (its buffer).
pub(super) fn life<'a>(
    asked: &Asked<'a>,
    [life, before]: [Annotation; 2],
    bounds: Bounds<'_>,
) -> Result<KeyLifetime<'a>, Refusal> {
    let usual = EXPIRATION.clamp(bounds.least, bounds.most.max(bounds.least));
    let expiration = match duration(asked, life)? {
        Some(given) => bounds.of_life(asked, life, given)?,
        None => usual,
    };
    let buffer = match duration(asked, before)? {
        Some(given) => given,
        // A lifetime below the usual one that the author did not choose also shortens the buffer.
        None if asked.get(life).is_none() => BUFFER.min(expiration / 3),
        None => BUFFER,
    };
    let gap = bounds.gap.min(expiration / 3);
    let most = expiration.saturating_sub(gap);
    let by_author = |key: Annotation| {
        let value = asked.get(key);
        let value = value.filter(|value| value.place != ValuePlace::Profile);
        value.map(|value| (key.name(), value.text))
    };
    if buffer <= most && buffer < expiration {
        return Ok(KeyLifetime {
            expiration,
            buffer,
            asked: by_author(before),
            long: by_author(life).filter(|_| expiration > YEAR),
            vain: None,
        });
    }
    if bounds.lenient {
        return Ok(KeyLifetime {
            expiration,
            buffer: most.min(expiration / 2),
            asked: None,
            long: None,
            vain: None,
        });
    }
    let most = forms::show(most);
    if asked.get(before).is_some() {
        let want = format!(
            "want at most {most}: a key with an expiration of {} is renewed no sooner than {} after its creation",
            forms::show(expiration),
            forms::show(gap)
        );
        return Err(asked.bad(before, &want));
    }
    let want = format!(
        "too short for the rotation buffer of {}: set \"{PREFIX}{}\" to at most {most}",
        forms::show(buffer),
        before.name()
    );
    Err(asked.bad(life, &want))
}

fn duration(asked: &Asked<'_>, key: Annotation) -> Result<Option<Duration>, Refusal> {
    let Some(value) = asked.get(key) else {
        return Ok(None);
    };
    let given = forms::duration(value.text);
    given
        .map(Some)
        .ok_or_else(|| asked.bad(key, forms::DURATION))
}

/// Returns the lifetime of a single-use per-pod key: no longer than `usual`, renewed in its last third.
pub(super) fn short_life<'a>(
    asked: &Asked<'a>,
    key: Annotation,
    usual: Duration,
    bounds: Bounds<'_>,
) -> Result<KeyLifetime<'a>, Refusal> {
    let most = usual.min(bounds.most).max(bounds.least);
    let given = match duration(asked, key)? {
        // A longer one is cut, not refused: the same annotation may apply to shared keys.
        Some(given) if given > most => given,
        Some(given) => bounds.of_life(asked, key, given)?,
        None => most,
    };
    let value = asked.get(key);
    let vain = |value: &AnnotationValue<'_>| {
        format!(
            "annotation '{PREFIX}{}' is '{}': a per-pod key is valid for at most {}, and is renewed until the pod has joined",
            key.name(),
            value.text,
            forms::show(most)
        )
    };
    let expiration = given.min(most);
    Ok(KeyLifetime {
        expiration,
        buffer: expiration / 3,
        asked: None,
        long: None,
        vain: value
            .filter(|value| value.on_pod() && given > most)
            .as_ref()
            .map(vain),
    })
}
