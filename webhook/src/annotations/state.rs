//! Where a node's state is stored, and what follows for its key. Pure.

use super::asked::{Annotation, Asked};
use super::{Refusal, Subject};
use crate::forms;

const STATE: &str = "want emptydir, memory or volume:<name of one of the pod's volumes>";

/// Where a node stores its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateStorage<'a> {
    /// In a volume deleted with the pod: a restarted container is the same node.
    EmptyDir,
    /// Nowhere: a restarted container is a new node.
    Memory,
    /// In a volume of the pod's own: the next pod with that name is the same node.
    Volume(&'a str),
}

/// Returns where the state is stored.
pub(super) fn state<'a>(
    subject: &Subject<'a>,
    asked: &Asked<'a>,
) -> Result<StateStorage<'a>, Refusal> {
    let Some(value) = asked.get(Annotation::State) else {
        return Ok(StateStorage::EmptyDir);
    };
    match value.text {
        "emptydir" => return Ok(StateStorage::EmptyDir),
        "memory" => return Ok(StateStorage::Memory),
        _ => {}
    }
    let volume = value
        .text
        .strip_prefix("volume:")
        .filter(|volume| forms::is_dns_label(volume))
        .ok_or_else(|| asked.bad(Annotation::State, STATE))?;
    let keeps_its_name = match subject.owner {
        Some(owner) => owner.kind == "StatefulSet",
        None => !subject.name.is_empty(),
    };
    if keeps_its_name {
        Ok(StateStorage::Volume(volume))
    } else {
        Err(asked.bad(
            Annotation::State,
            "only pods of a StatefulSet keep their name, and with it their state: want emptydir or memory",
        ))
    }
}
