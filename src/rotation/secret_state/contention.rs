//! A key that somebody keeps undoing: how often, who it is, and which key of ours was the last. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::after;
use crate::control_plane::KeyId;
use crate::rotation::outcome::CreatedKey;
use crate::rotation::plan::KeyReason;

/// So often within an hour may another writer undo a key before it is left alone.
pub(super) const OVERWRITES: usize = 5;
const CONTENTION_SPAN: Duration = Duration::from_secs(3_600);

/// What this process made last of one key, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Contention {
    last: Option<(String, KeyId)>,
    undone: Vec<Timestamp>,
    by: Option<String>,
    /// An older key that was found in the place of ours, and looked up.
    found: Option<KeyId>,
}

impl Contention {
    /// Notes a key that was made; it may be one that should have been there.
    pub(super) fn created(&mut self, minted: CreatedKey, now: Timestamp) {
        let CreatedKey {
            data_key: _,
            control_plane,
            id,
            replaced,
            why,
        } = minted;
        // An older key than ours stood there, or none, or ours without its value: somebody took it out.
        let undone = self.last.as_ref().is_some_and(|(_, last)| {
            matches!(why, KeyReason::ValueLost | KeyReason::Refused(_))
                || replaced.is_none_or(|replaced| replaced < *last)
        });
        if undone {
            self.overwritten(now);
        }
        self.last = Some((control_plane, id));
        self.found = None;
    }

    /// Counts a key that was undone, also one that never came to stand in its Secret.
    pub(super) fn overwritten(&mut self, now: Timestamp) {
        let last = self.undone.last();
        // Who was seen fighting stays held to one an hour until two have gone by in peace.
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

    /// Takes in who wrote the Secret last, if that was another.
    pub(super) fn written(&mut self, by: Option<&String>) {
        if let Some(by) = by {
            self.by = Some(by.clone());
        }
    }

    /// Who keeps undoing it, as far as that is known.
    pub(super) fn by(&self) -> Option<&str> {
        self.by.as_deref()
    }

    /// Until when no other key is made, if one must not be.
    pub(super) fn held(&self, now: Timestamp) -> Option<Timestamp> {
        let until = after(self.last_overwritten(now)?, CONTENTION_SPAN);
        (now < until).then_some(until)
    }

    /// The key that was made last, while it is fought over: a pod may have read it, and no record names it.
    pub(super) fn kept(&self, now: Timestamp) -> Option<&(String, KeyId)> {
        let until = after(self.last_overwritten(now)?, CONTENTION_SPAN * 2);
        self.last.as_ref().filter(|_| now < until)
    }

    /// Whether an older key than ours stands there for the first time: it may have ended long ago.
    pub(super) fn is_put_back(&mut self, current: KeyId) -> bool {
        let older = self.last.as_ref().is_some_and(|(_, last)| current < *last);
        older && self.found.replace(current) != Some(current)
    }

    fn last_overwritten(&self, now: Timestamp) -> Option<Timestamp> {
        let fights = self.undone.len() >= OVERWRITES;
        // One that has not come was noted by a clock that has gone back since.
        self.undone
            .last()
            .copied()
            .filter(|last| fights && *last <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::value::Flaw;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn minted(id: u64, replaced: Option<u64>, why: KeyReason) -> CreatedKey {
        CreatedKey {
            data_key: "api-authkey".into(),
            control_plane: "default".into(),
            id: KeyId(id),
            replaced: replaced.map(KeyId),
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
    fn who_fights_gets_one_an_hour_until_two_go_by_in_peace() {
        let mut fight = Contention::default();
        for id in 1..=5 {
            fight.created(minted(id, None, KeyReason::First), at(0));
        }
        assert_eq!(fight.held(at(0)), None, "undone four times");
        fight.created(minted(6, None, KeyReason::First), at(10));
        assert_eq!(fight.held(at(10)), Some(at(3_610)));
        assert_eq!(fight.kept(at(10)), Some(&("default".into(), KeyId(6))));
        assert_eq!(fight.held(at(9)), None, "the clock was set back");
        assert_eq!(fight.held(at(3_610)), None, "one is made");
        fight.created(minted(7, None, KeyReason::First), at(3_610));
        assert_eq!(fight.held(at(3_611)), Some(at(7_210)));
        assert_eq!(fight.kept(at(10_809)), Some(&("default".into(), KeyId(7))));
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
        assert!(!fight.is_put_back(KeyId(6)), "nothing was made");
        fight.created(minted(7, None, KeyReason::First), at(0));
        assert!(!fight.is_put_back(KeyId(7)));
        assert!(!fight.is_put_back(KeyId(8)), "another process made it");
        assert!(fight.is_put_back(KeyId(6)));
        assert!(!fight.is_put_back(KeyId(6)));
    }
}
