//! The policies that limit Sidescale's own account, as its process has reported them. Pure.

use jiff::SignedDuration;

use super::super::facts::{CheckFinding, Facts};

const FENCES: &str = "fences";

/// A fence that is open is reported every ten minutes: what was said before that has been mended.
const FRESH: SignedDuration = SignedDuration::from_mins(15);

/// A finding for each that is open; none where nothing was reported, which is no proof that all hold.
pub(super) fn judge(facts: &Facts) -> Vec<CheckFinding> {
    let fresh = facts
        .fences
        .iter()
        .filter(|note| facts.now.duration_since(note.at) < FRESH);
    let mut texts: Vec<&str> = fresh.map(|note| note.text.as_str()).collect();
    texts.sort_unstable();
    // Each replica reports for itself.
    texts.dedup();
    let finding = |text: &str| {
        let next = "helm upgrade, with the values of the release".to_owned();
        CheckFinding::fail(FENCES, text.to_owned(), next)
    };
    texts.into_iter().map(finding).collect()
}
