//! Limits the services of a namespace that may have keys, over all Secrets there. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::demand::NamespaceDemand;

/// Keys of one Secret that exceed the namespace's quota.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Data keys for which no key is created: their service exceeds the quota.
    pub over: BTreeSet<String>,
    /// How many services of the namespace wait for the place of another.
    pub excess: usize,
}

impl Quota {
    /// Counts the services of a namespace: those with pods, and those with a key. Services with a key keep it, then the oldest come
    /// first.
    ///
    /// `with_key` are the services with a key in force anywhere in the namespace.
    #[must_use]
    pub fn of<'a>(
        secret: &str,
        demand: Option<&NamespaceDemand>,
        with_key: impl Iterator<Item = &'a str>,
        most: usize,
    ) -> Self {
        let Some(demand) = demand else {
            return Self::default();
        };
        let with_key: BTreeSet<&str> = with_key.collect();
        let mut waiting: BTreeMap<&str, Timestamp> = BTreeMap::new();
        for key in demand.secrets.values().flat_map(BTreeMap::values) {
            let service = key.service.as_str();
            if !with_key.contains(service) {
                let since = waiting.entry(service).or_insert(key.since);
                *since = key.since.min(*since);
            }
        }
        let mut waiting: Vec<_> = waiting.into_iter().collect();
        waiting.sort_by_key(|(service, since)| (*since, *service));
        let places = most.saturating_sub(with_key.len());
        let over: BTreeSet<&str> = waiting
            .into_iter()
            .skip(places)
            .map(|(service, _)| service)
            .collect();
        let here = demand.secrets.get(secret).into_iter().flatten();
        let here = here.filter(|(_, key)| over.contains(key.service.as_str()));
        Self {
            excess: over.len(),
            over: here.map(|(data_key, _)| data_key.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::demand::KeyDemand;
    use crate::record::KeySpec;

    /// Keys that pods need, by Secret: service, and since when.
    fn demand(secrets: &[(&str, &[(&str, i64)])]) -> NamespaceDemand {
        let key = |(service, since): &(&str, i64)| {
            let key = KeyDemand {
                service: (*service).into(),
                control_plane: "default".into(),
                asked: KeySpec {
                    user: String::new(),
                    tags: Vec::new(),
                    reusable: true,
                    ephemeral: true,
                },
                expiration: Duration::ZERO,
                buffer: Duration::ZERO,
                pods: 1,
                differing: 0,
                since: Timestamp::from_second(*since).unwrap(),
                hostname: None,
            };
            (format!("{service}-authkey"), key)
        };
        let secrets = secrets.iter().map(|(secret, keys)| {
            let keys = keys.iter().map(key).collect();
            ((*secret).to_owned(), keys)
        });
        NamespaceDemand {
            secrets: secrets.collect(),
            ..NamespaceDemand::default()
        }
    }

    #[test]
    fn who_has_a_key_keeps_it_and_the_oldest_come_next_over_all_secrets() {
        let demand = demand(&[
            ("one", &[("a", 5), ("b", 1), ("c", 3)]),
            ("two", &[("a", 5), ("d", 2), ("e", 4)]),
        ]);
        let over = |secret: &str, with_key: &[&str], most| {
            let keys = with_key.iter().copied();
            let quota = Quota::of(secret, Some(&demand), keys, most);
            let over: Vec<_> = quota.over.iter().map(String::as_str).collect();
            (over.join(" "), quota.excess)
        };
        for (with_key, most, one, two, excess) in [
            (&[][..], 5, "", "", 0),
            (&[], 4, "a-authkey", "a-authkey", 1),
            (&[], 2, "a-authkey c-authkey", "a-authkey e-authkey", 3),
            (&["a"], 2, "c-authkey", "d-authkey e-authkey", 3),
            // A service that no pod needs any more keeps its place until its key is retired.
            (&["gone"], 5, "a-authkey", "a-authkey", 1),
            // The number was lowered.
            (&["a", "b", "c", "d", "e"], 1, "", "", 0),
        ] {
            let want = |keys: &str| (keys.to_owned(), excess);
            assert_eq!(
                over("one", with_key, most),
                want(one),
                "{with_key:?} {most}"
            );
            assert_eq!(
                over("two", with_key, most),
                want(two),
                "{with_key:?} {most}"
            );
        }
        assert_eq!(
            Quota::of("one", None, ["a"].into_iter(), 0),
            Quota::default()
        );
    }
}
