//! Converts one pod's facts into findings: what is good, what is wrong, and what to do about it. Pure.

use super::facts::{CheckFinding, Facts, Observed};

mod container;
mod fences;
mod injection;
mod key;
mod names;
mod node;

/// Judges everything, in the order in which a pod becomes a node: what fails first is to be fixed first.
pub(super) fn judge(facts: &Facts) -> Vec<CheckFinding> {
    let mut findings = injection::judge(facts);
    findings.extend(fences::judge(facts));
    let Some(reference) = facts.reference() else {
        return findings;
    };
    findings.push(container::judge(facts));
    findings.extend(key::judge(facts, &reference));
    if let Observed::Blind(why) = &facts.policy {
        findings.push(CheckFinding::blind("configuration", why));
    }
    findings.extend(node::judge(facts, &reference));
    findings.extend(names::anothers(facts, &reference));
    findings.extend(names::judge(facts, &reference));
    findings
}
