//! The policies that limit Sidescale's own account, as its process reported them. Pure.

use jiff::SignedDuration;

use super::super::facts::{CheckFinding, Facts};

const FENCES: &str = "fences";

/// An open fence is reported every ten minutes: an older report has been fixed.
const FRESH: SignedDuration = SignedDuration::from_mins(15);

/// Returns a finding for each open fence; no report is no proof that all are closed.
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
        let next = "helm upgrade, with the release's values".to_owned();
        CheckFinding::fail(FENCES, text.to_owned(), next)
    };
    texts.into_iter().map(finding).collect()
}
