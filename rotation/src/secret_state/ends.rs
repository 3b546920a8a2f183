//! When the keys of a Secret expire, as confirmed by their control planes. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sidescale_core::id::KeyId;

/// Expiry of a key in force, as a job found it in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyEnd {
    /// Id of the key.
    pub id: KeyId,
    /// When it expires.
    pub at: Timestamp,
    /// Whether the control plane confirmed it; none if it was not asked.
    pub confirmed: Option<bool>,
}

/// When the keys of a Secret expire, by data key.
#[derive(Debug, Default)]
pub struct Ends(BTreeMap<String, End>);

#[derive(Debug, Default)]
struct End {
    /// The last expiry that the control plane confirmed, of the key in force then.
    confirmed: Option<Timestamp>,
    /// The expiry in the record, until a control plane was asked about any.
    claimed: Option<Timestamp>,
    /// Whether a control plane was asked.
    asked: bool,
}

impl KeyEnd {
    /// Keeps the confirmation of an earlier round of the same job for the same key.
    pub fn or(mut self, earlier: Option<&Self>) -> Self {
        let same = earlier.filter(|earlier| (earlier.id, earlier.at) == (self.id, self.at));
        self.confirmed = self
            .confirmed
            .or(same.and_then(|earlier| earlier.confirmed));
        self
    }
}

impl Ends {
    /// Applies what a job found. A confirmed expiry stays until another one is confirmed: an edit of the record neither sets nor
    /// removes one. Keys that are neither there nor needed are dropped.
    pub fn absorb(&mut self, found: &BTreeMap<String, KeyEnd>, needed: impl Fn(&str) -> bool) {
        for (data_key, found) in found {
            let end = self.0.entry(data_key.clone()).or_default();
            end.asked |= found.confirmed.is_some();
            if found.confirmed == Some(true) {
                end.confirmed = Some(found.at);
            }
            end.claimed = (!end.asked).then_some(found.at);
        }
        self.0
            .retain(|data_key, _| found.contains_key(data_key) || needed(data_key));
    }

    /// Returns the confirmed expiries.
    pub fn confirmed(&self) -> impl Iterator<Item = (&String, Timestamp)> {
        let ends = self.0.iter();
        ends.filter_map(|(data_key, end)| Some((data_key, end.confirmed?)))
    }

    /// Returns the expiry to warn of: the confirmed one, or the record's if the control plane was not asked since this process
    /// started, for example because it is unavailable.
    pub fn of(&self, data_key: &str) -> Option<Timestamp> {
        let end = self.0.get(data_key)?;
        end.confirmed.or(end.claimed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "web-authkey";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn found(id: u64, end: i64, confirmed: Option<bool>) -> BTreeMap<String, KeyEnd> {
        let end = KeyEnd {
            id: KeyId::from(id),
            at: at(end),
            confirmed,
        };
        BTreeMap::from([(KEY.to_owned(), end)])
    }

    #[test]
    fn only_a_confirmed_end_is_shown_and_it_stays_until_another_is_confirmed() {
        let (yes, no, unasked) = (Some(true), Some(false), None);
        // Each job finds a key with an expiry; then the expiry that is shown, and the one to warn of.
        for (why, jobs, shown, warned) in [
            ("confirmed", vec![(100, yes)], Some(100), Some(100)),
            ("forged", vec![(100, no)], None, None),
            (
                "the control plane is away",
                vec![(100, unasked)],
                None,
                Some(100),
            ),
            (
                "away, then confirmed",
                vec![(100, unasked), (100, yes)],
                Some(100),
                Some(100),
            ),
            (
                "away, then found forged",
                vec![(100, unasked), (100, no)],
                None,
                None,
            ),
            (
                "confirmed, then away",
                vec![(100, yes), (100, unasked)],
                Some(100),
                Some(100),
            ),
            (
                "confirmed, then forged",
                vec![(100, yes), (900, no)],
                Some(100),
                Some(100),
            ),
            (
                "forged while it is away",
                vec![(100, yes), (900, unasked)],
                Some(100),
                Some(100),
            ),
            (
                "confirmed, then gone",
                vec![(100, yes), (100, no)],
                Some(100),
                Some(100),
            ),
            (
                "renewed",
                vec![(100, yes), (200, yes)],
                Some(200),
                Some(200),
            ),
            (
                "forged, then replaced",
                vec![(900, no), (200, yes)],
                Some(200),
                Some(200),
            ),
            ("forged twice", vec![(900, no), (50, unasked)], None, None),
        ] {
            let mut ends = Ends::default();
            for (end, confirmed) in jobs {
                ends.absorb(&found(7, end, confirmed), |_| true);
            }
            let confirmed: Vec<_> = ends.confirmed().map(|(_, end)| end).collect();
            assert_eq!(confirmed, Vec::from_iter(shown.map(at)), "{why}");
            assert_eq!(ends.of(KEY), warned.map(at), "{why}");
        }
    }

    #[test]
    fn an_end_goes_with_its_key_unless_pods_need_that() {
        for (needed, left) in [(true, 1), (false, 0)] {
            let mut ends = Ends::default();
            ends.absorb(&found(7, 100, Some(true)), |_| true);
            ends.absorb(&BTreeMap::new(), |_| needed);
            assert_eq!(ends.confirmed().count(), left, "{needed}");
        }
    }

    #[test]
    fn what_one_look_of_a_job_said_counts_in_the_next_for_the_same_key() {
        let end = |id, end, confirmed| found(id, end, confirmed)[KEY];
        let earlier = end(7, 100, Some(true));
        for (id, at, asked, want) in [
            (7, 100, None, Some(true)),
            (7, 100, Some(false), Some(false)),
            (8, 100, None, None),
            (7, 101, None, None),
        ] {
            let said = end(id, at, asked).or(Some(&earlier)).confirmed;
            assert_eq!(said, want, "{id} {at} {asked:?}");
        }
    }
}
