//! A key that another writer keeps overwriting: how often, by whom, and which key of ours was the last. Pure.

use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::id::KeyId;
use sidescale_core::time::after;

use crate::outcome::CreatedKey;
use crate::plan::KeyReason;
use crate::record::DatedKey;

/// How often within an hour another writer may overwrite a key before Sidescale holds off.
pub(super) const OVERWRITES: usize = 5;
const CONTENTION_SPAN: Duration = Duration::from_secs(3_600);

/// The last key that this process created for one data key, and how often it was overwritten.
#[derive(Debug, Default)]
pub(super) struct Contention {
    last: Option<(String, DatedKey)>,
    undone: Vec<Timestamp>,
    by: Option<String>,
    /// An older key that was found in the place of ours and looked up.
    found: Option<KeyId>,
}

impl Contention {
    /// Records a created key; creating it may show that the one before was overwritten.
    pub(super) fn created(&mut self, minted: CreatedKey, now: Timestamp) {
        let CreatedKey {
            data_key: _,
            control_plane,
            id,
            created,
            replaced,
            why,
        } = minted;
        // The Secret had an older key than ours, none, or ours without its value: another writer took ours out.
        let undone = self.last.as_ref().is_some_and(|(_, last)| {
            matches!(why, KeyReason::ValueLost | KeyReason::Refused(_))
                || replaced.is_none_or(|replaced| last.is_newer_than(replaced))
        });
        if undone {
            self.overwritten(now);
        }
        self.last = Some((control_plane, DatedKey { id, created }));
        self.found = None;
    }

    /// Counts an overwritten key, including one that was never written.
    pub(super) fn overwritten(&mut self, now: Timestamp) {
        let last = self.undone.last();
        // After contention, one key an hour is created until two hours pass without an overwrite.
        if last.is_some_and(|last| now >= after(*last, CONTENTION_SPAN * 2)) {
            self.undone.clear();
        }
        if self.undone.len() < OVERWRITES {
            self.undone.retain(|at| now < after(*at, CONTENTION_SPAN));
        } else {
            self.undone.remove(0);
        }
        self.undone.push(now);
    }

    /// Records who wrote the Secret last, if it was another writer.
    pub(super) fn written(&mut self, by: Option<&String>) {
        if let Some(by) = by {
            self.by = Some(by.clone());
        }
    }

    /// Returns who keeps overwriting the key, if known.
    pub(super) fn by(&self) -> Option<&str> {
        self.by.as_deref()
    }

    /// Returns until when no other key is created, if contended.
    pub(super) fn held(&self, now: Timestamp) -> Option<Timestamp> {
        let until = after(self.last_overwritten(now)?, CONTENTION_SPAN);
        (now < until).then_some(until)
    }

    /// Returns the last created key while it is contended: a pod may have read it, and no record names it.
    pub(super) fn kept(&self, now: Timestamp) -> Option<(String, KeyId)> {
        let until = after(self.last_overwritten(now)?, CONTENTION_SPAN * 2);
        let last = self.last.as_ref().filter(|_| now < until);
        last.map(|(control_plane, key)| (control_plane.clone(), key.id))
    }

    /// Returns whether an older key than ours was put back for the first time: it may have expired long ago.
    pub(super) fn is_put_back(&mut self, current: DatedKey) -> bool {
        let last = self.last.as_ref();
        let older = last.is_some_and(|(_, last)| last.is_newer_than(current));
        older && self.found.replace(current.id) != Some(current.id)
    }

    fn last_overwritten(&self, now: Timestamp) -> Option<Timestamp> {
        let fights = self.undone.len() >= OVERWRITES;
        // A time in the future was recorded before the clock was set back.
        self.undone
            .last()
            .copied()
            .filter(|last| fights && *last <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Flaw;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Returns the key of that id: the greater, the later it was created.
    fn key(id: u64) -> DatedKey {
        DatedKey {
            id: KeyId::from(id),
            created: at(id as i64),
        }
    }

    fn minted(id: u64, replaced: Option<u64>, why: KeyReason) -> CreatedKey {
        CreatedKey {
            data_key: "api-authkey".into(),
            control_plane: "default".into(),
            id: KeyId::from(id),
            created: key(id).created,
            replaced: replaced.map(key),
            why,
        }
    }

    #[test]
    fn a_key_is_undone_where_ours_should_have_stood() {
        for (replaced, why, undone) in [
            (Some(7), KeyReason::Due, false),
            (Some(9), KeyReason::Changed, false),
            (Some(6), KeyReason::Due, true),
            (None, KeyReason::First, true),
            (Some(7), KeyReason::ValueLost, true),
            (Some(7), KeyReason::Refused(Flaw::Unknown), true),
        ] {
            let mut fight = Contention::default();
            fight.created(minted(7, None, KeyReason::First), at(0));
            assert!(fight.undone.is_empty(), "the first is no fight");
            fight.created(minted(10, replaced, why), at(1));
            assert_eq!(
                fight.undone.len(),
                usize::from(undone),
                "{replaced:?} {why:?}"
            );
        }
    }

    #[test]
    fn a_greater_id_makes_no_newer_key() {
        let issued = |id, second| DatedKey {
            id: KeyId::from(id),
            created: at(second),
        };
        let mut fight = Contention::default();
        fight.created(minted(7, None, KeyReason::First), at(7));
        assert!(!fight.is_put_back(issued(3, 8)), "newer, with a smaller id");
        assert!(fight.is_put_back(issued(9, 6)), "older, with a greater id");
        for (replaced, undone) in [(issued(3, 8), 0), (issued(9, 6), 1)] {
            let next = CreatedKey {
                replaced: Some(replaced),
                ..minted(10, None, KeyReason::Due)
            };
            let mut fight = Contention::default();
            fight.created(minted(7, None, KeyReason::First), at(7));
            fight.created(next, at(10));
            assert_eq!(fight.undone.len(), undone, "{replaced:?}");
        }
    }

    #[test]
    fn who_fights_gets_one_an_hour_until_two_go_by_in_peace() {
        let mut fight = Contention::default();
        for id in 1..=5 {
            fight.created(minted(id, None, KeyReason::First), at(0));
        }
        assert_eq!(fight.held(at(0)), None, "undone four times");
        fight.created(minted(6, None, KeyReason::First), at(10));
        assert_eq!(fight.held(at(10)), Some(at(3_610)));
        assert_eq!(fight.kept(at(10)), Some(("default".into(), KeyId::from(6))));
        assert_eq!(fight.held(at(9)), None, "the clock was set back");
        assert_eq!(fight.held(at(3_610)), None, "one is made");
        fight.created(minted(7, None, KeyReason::First), at(3_610));
        assert_eq!(fight.held(at(3_611)), Some(at(7_210)));
        assert_eq!(
            fight.kept(at(10_809)),
            Some(("default".into(), KeyId::from(7)))
        );
        assert_eq!(fight.kept(at(10_810)), None);
        fight.created(minted(8, None, KeyReason::First), at(10_810));
        assert_eq!(fight.held(at(10_810)), None, "there was peace");
    }

    #[test]
    fn what_is_far_apart_is_no_fight() {
        let mut fight = Contention::default();
        for n in 0..20 {
            fight.created(minted(n + 1, None, KeyReason::First), at(1_000 * n as i64));
            assert_eq!(fight.held(at(1_000 * n as i64)), None);
        }
    }

    #[test]
    fn an_older_key_in_the_place_of_ours_is_looked_up_once() {
        let mut fight = Contention::default();
        assert!(!fight.is_put_back(key(6)), "nothing was made");
        fight.created(minted(7, None, KeyReason::First), at(0));
        assert!(!fight.is_put_back(key(7)));
        assert!(!fight.is_put_back(key(8)), "another process made it");
        assert!(fight.is_put_back(key(6)));
        assert!(!fight.is_put_back(key(6)));
    }
}
