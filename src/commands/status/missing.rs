//! Adds pods without a node to the rows of their keys. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sidescale_core::secret::SecretRef;
use sidescale_rotation::demand::Demands;
use sidescale_rotation::nodes::{NodeFinding, NodeState, NodeTracker, PodOwner};
use sidescale_rotation::ownership::{foreign_keys, joining};

use super::row::{RowProblem, StatusRow};
use crate::commands::view::held::PlaneView;
use crate::commands::view::inventory::Inventory;

/// Maximum number of pods that are named.
const MOST_NAMED: usize = 5;

/// Compares the pods with the nodes, as rotation does, and adds those without one to the rows.
pub(super) fn miss(
    now: Timestamp,
    rows: &mut [StatusRow],
    inventory: &Inventory,
    planes: &BTreeMap<String, PlaneView>,
) {
    let demands = Demands {
        synced: true,
        namespaces: inventory.demands.clone(),
        ..Demands::default()
    };
    let joining = joining(&inventory.secrets);
    let key_of = |place: &PodOwner| {
        let secret = SecretRef::new(&place.namespace, &place.secret);
        joining.get(&(&secret, place.data_key.clone())).copied()
    };
    for (plane, view) in planes {
        let PlaneView::Held(held) = view else {
            continue;
        };
        let lent = foreign_keys(inventory.secrets.values()).into_iter();
        let lent = lent.filter(|(of, ..)| of == plane);
        let lent = lent.map(|(_, id, namespace)| (id, namespace));
        let tailnet = held.tailnet(now, &lent.collect());
        let look = NodeTracker::default().look(now, plane, &demands, &tailnet, &key_of);
        for row in rows.iter_mut().filter(|row| row.control_plane == *plane) {
            let findings = look.findings.iter().filter(|finding| {
                let state = matches!(finding.state, NodeState::Late | NodeState::Lost);
                state && finding.place.as_ref().is_some_and(|place| row.is_at(place))
            });
            let findings = Vec::from_iter(findings);
            if !findings.is_empty() {
                row.problems.push(missing(row, &findings));
            }
        }
    }
}

/// Describes the missing pods: each pod with its own hostname has a finding, replicas that share a hostname have one
/// together.
fn missing(row: &StatusRow, findings: &[&NodeFinding]) -> RowProblem {
    let count: usize = findings.iter().map(|finding| finding.count).sum();
    let pods = findings.iter().flat_map(|finding| &finding.pods);
    let pods = Vec::from_iter(pods.map(|pod| &*pod.name));
    let certain = findings.iter().all(|finding| finding.is_certain());
    let mut names = pods[..pods.len().min(MOST_NAMED)].join(", ");
    if pods.len() > MOST_NAMED {
        names.push_str(&format!(" and {} more", pods.len() - MOST_NAMED));
    }
    let (of, among) = (row.pods, if certain { "" } else { "some of " });
    let have = if count == 1 { "pod has" } else { "pods have" };
    let first = pods.first().copied().unwrap_or("POD");
    RowProblem {
        text: format!("{count} of {of} {have} no node in the tailnet: {among}{names}"),
        fix: Some(format!(
            "kubectl logs --namespace {} {first} --container tailscale (shows why)",
            row.namespace
        )),
    }
}
