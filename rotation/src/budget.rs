//! Limits how many keys the pods of a namespace may have created. State, no I/O.
//!
//! A tenant decides how many services and pods it has and what they ask for, and each change costs the control plane a row.
//! The buckets start full, so that they never block recovery from a disaster in which a thousand services need new keys at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_core::id::UserId;
use sidescale_core::objects::PreAuthKey;
use sidescale_core::time::after;
use sidescale_webhook::profile::Rotation;

use super::owner::{KeyUser, ServiceOwner};

const HOUR: Duration = Duration::from_secs(3_600);

/// Full buckets are dropped at this many buckets, and again at twice the number that remained.
const FORGET_AT: usize = 1_024;

/// The buckets of all services and namespaces. Only the leader has them; they start full when it starts.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    buckets: BTreeMap<BucketOwner, Bucket>,
    forget_at: usize,
}

/// Owner of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum BucketOwner {
    /// Shared keys of one service.
    Service(ServiceOwner),
    /// Shared keys of one namespace.
    Namespace(String),
    /// Keys of single pods of one namespace.
    Pods(String),
}

/// Capacity of a bucket, and the time to refill one key.
#[derive(Clone, Copy, Debug)]
struct Size {
    keys: u32,
    refill: Duration,
}

/// Time when the bucket is full again; it holds less, the further off that time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket(Timestamp);

impl Size {
    fn new(keys: u32, per_hour: u32) -> Self {
        Self {
            keys: keys.max(1),
            refill: HOUR / per_hour.max(1),
        }
    }

    fn whole(self) -> Duration {
        self.refill.saturating_mul(self.keys)
    }
}

impl Bucket {
    /// Returns the bucket as of now. A bucket emptied in the future, before the clock was set back, counts as full.
    fn at(self, now: Timestamp, size: Size) -> Self {
        if self.0 > after(now, size.whole()) {
            return Self(now);
        }
        Self(self.0.max(now))
    }

    /// Takes one key out of the bucket.
    fn take(self, now: Timestamp, size: Size) -> Result<Self, Timestamp> {
        let taken = after(self.0, size.refill);
        let latest = after(now, size.whole());
        if taken <= latest {
            return Ok(Self(taken));
        }
        let wait = Duration::try_from(taken.duration_since(latest)).unwrap_or_default();
        Err(after(now, wait))
    }
}

impl Budget {
    /// Takes one key for the service, of a single pod or shared.
    ///
    /// # Errors
    /// Returns the time at which the namespace or the service has a key again.
    pub fn take(
        &mut self,
        now: Timestamp,
        owner: &ServiceOwner,
        of_pods: bool,
        rotation: &Rotation,
    ) -> Result<(), Timestamp> {
        let mut taken = Vec::new();
        for (holder, size) in sizes(owner, of_pods, rotation) {
            let bucket = self.buckets.entry(holder.clone()).or_insert(Bucket(now));
            *bucket = bucket.at(now, size);
            taken.push((holder, bucket.take(now, size)?));
        }
        self.buckets.extend(taken);
        self.forget(now);
        Ok(())
    }

    /// Gives back what was taken for a key that the control plane did not create.
    pub fn give_back(&mut self, owner: &ServiceOwner, of_pods: bool, rotation: &Rotation) {
        for (holder, size) in sizes(owner, of_pods, rotation) {
            if let Some(bucket) = self.buckets.get_mut(&holder) {
                let refill = SignedDuration::try_from(size.refill).unwrap_or_default();
                bucket.0 = bucket.0.checked_sub(refill).unwrap_or(Timestamp::MIN);
            }
        }
    }

    fn forget(&mut self, now: Timestamp) {
        if self.buckets.len() >= self.forget_at.max(FORGET_AT) {
            self.buckets.retain(|_, bucket| bucket.0 > now);
            self.forget_at = self.buckets.len() * 2;
        }
    }
}

fn sizes(owner: &ServiceOwner, of_pods: bool, rotation: &Rotation) -> Vec<(BucketOwner, Size)> {
    let namespace = || owner.namespace.clone();
    if of_pods {
        let (keys, per_hour) = (
            rotation.pod_keys_per_namespace,
            rotation.pod_keys_per_namespace_per_hour,
        );
        return vec![(BucketOwner::Pods(namespace()), Size::new(keys, per_hour))];
    }
    let service = Size::new(
        rotation.keys_per_service,
        rotation.keys_per_service_per_hour,
    );
    let all = Size::new(
        rotation.new_keys_per_namespace,
        rotation.new_keys_per_namespace_per_hour,
    );
    vec![
        (BucketOwner::Service(owner.clone()), service),
        (BucketOwner::Namespace(namespace()), all),
    ]
}

/// Returns the namespaces for which no more keys are created because the control plane holds more than `most` rows: those with
/// the most rows, until the rest fits.
#[must_use]
pub fn over_rows<'a>(
    keys: impl ExactSizeIterator<Item = &'a PreAuthKey>,
    users: &BTreeMap<UserId, KeyUser>,
    most: usize,
) -> BTreeSet<String> {
    let mut excess = keys.len().saturating_sub(most);
    if excess == 0 {
        return BTreeSet::new();
    }
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for key in keys {
        let user = key.user.and_then(|user| users.get(&user));
        if let Some(owner) = user.and_then(|user| user.owner.as_ref()) {
            *rows.entry(&owner.namespace).or_default() += 1;
        }
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by_key(|(namespace, rows)| (std::cmp::Reverse(*rows), *namespace));
    let mut refused = BTreeSet::new();
    for (namespace, rows) in rows {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(rows);
        refused.insert(namespace.to_owned());
    }
    refused
}

#[cfg(test)]
mod tests {
    use sidescale_core::id::KeyId;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn rotation() -> Rotation {
        Rotation {
            keys_per_service: 3,
            keys_per_service_per_hour: 6,
            new_keys_per_namespace: 5,
            new_keys_per_namespace_per_hour: 2,
            pod_keys_per_namespace: 4,
            pod_keys_per_namespace_per_hour: 60,
            ..Rotation::default()
        }
    }

    /// How many keys the service gets at that second, and when the next.
    fn got(budget: &mut Budget, second: i64, owner: &ServiceOwner, of_pods: bool) -> (usize, i64) {
        for got in 0..100 {
            if let Err(until) = budget.take(at(second), owner, of_pods, &rotation()) {
                return (got, until.duration_since(at(second)).as_secs());
            }
        }
        panic!("no end");
    }

    #[test]
    fn a_service_gets_what_is_in_its_bucket_and_a_namespace_no_more_than_its_own() {
        let mut budget = Budget::default();
        let [api, web, other] = [("shop", "api"), ("shop", "web"), ("other", "api")]
            .map(|(namespace, service)| ServiceOwner::new(namespace, service));
        assert_eq!(got(&mut budget, 0, &api, false), (3, 600));
        assert_eq!(got(&mut budget, 599, &api, false), (0, 1));
        assert_eq!(got(&mut budget, 600, &api, false), (1, 600));
        // The namespace has one left, and gets two an hour.
        assert_eq!(got(&mut budget, 600, &web, false), (1, 1_200));
        assert_eq!(got(&mut budget, 600, &other, false), (3, 600), "its own");
        // Keys of single pods have their own bucket.
        assert_eq!(got(&mut budget, 600, &api, true), (4, 60));
        assert_eq!(got(&mut budget, 600, &web, true), (0, 60));
        // A bucket never holds more than its capacity.
        assert_eq!(got(&mut budget, 1_000_000, &api, false), (3, 600));
    }

    #[test]
    fn a_refused_key_costs_nothing_and_one_that_was_not_created_is_given_back() {
        let mut budget = Budget::default();
        let api = ServiceOwner::new("shop", "api");
        assert_eq!(got(&mut budget, 0, &api, false).0, 3);
        for _ in 0..50 {
            assert!(budget.take(at(0), &api, false, &rotation()).is_err());
        }
        assert_eq!(got(&mut budget, 600, &api, false), (1, 600));
        budget.give_back(&api, false, &rotation());
        assert_eq!(got(&mut budget, 600, &api, false), (1, 600));
    }

    #[test]
    fn a_clock_that_was_set_back_empties_no_bucket() {
        let mut budget = Budget::default();
        let api = ServiceOwner::new("shop", "api");
        assert_eq!(got(&mut budget, 400 * 86_400, &api, false).0, 3);
        assert_eq!(got(&mut budget, 0, &api, false), (3, 600));
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let mut budget = Budget::default();
        for n in 0..10_000 {
            let owner = ServiceOwner::new(&format!("n{n}"), "api");
            budget.take(at(n * 60), &owner, false, &rotation()).unwrap();
        }
        assert!(
            budget.buckets.len() <= 2 * FORGET_AT,
            "{}",
            budget.buckets.len()
        );
    }

    #[test]
    fn above_the_bound_the_namespaces_with_most_rows_are_refused_first() {
        let users: BTreeMap<UserId, KeyUser> = [(1, "a"), (2, "b"), (3, "c")]
            .into_iter()
            .map(|(id, namespace)| {
                let user = KeyUser {
                    name: namespace.into(),
                    owner: Some(ServiceOwner::new(namespace, "api")),
                    created: None,
                };
                (UserId::from(id), user)
            })
            .collect();
        let rows = |users: &[(u64, usize)]| {
            let rows = users.iter().flat_map(|(user, rows)| {
                std::iter::repeat_n(*user, *rows).map(|user| PreAuthKey {
                    id: KeyId::from(0),
                    prefix: None,
                    user: Some(UserId::from(user)),
                    reusable: true,
                    ephemeral: true,
                    used: false,
                    expiration: None,
                    created_at: None,
                    tags: Vec::new(),
                })
            });
            rows.collect::<Vec<_>>()
        };
        let refused = |keys: &[PreAuthKey], most| {
            let refused = over_rows(keys.iter(), &users, most);
            refused.into_iter().collect::<Vec<_>>().concat()
        };
        // User 9 is a person's.
        let keys = rows(&[(1, 5), (2, 30), (3, 10), (9, 5)]);
        for (most, want) in [(50, ""), (49, "b"), (20, "b"), (19, "bc"), (1, "abc")] {
            assert_eq!(refused(&keys, most), want, "{most}");
        }
    }
}
