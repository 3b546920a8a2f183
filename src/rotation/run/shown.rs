//! What people see of rotation: the gauges, and what the admin port says. State, no I/O.

use std::collections::BTreeMap;

use super::Loop;
use crate::health::Part;
use crate::rotation::demand::{KeyDemand, SecretRef};
use crate::rotation::ending::Life;
use crate::rotation::state::State;

/// Gauges hold this many keys.
const MOST_EXPIRIES: usize = 500;

impl Loop {
    /// Takes back what was shown: whoever rotates next shows it, and what stayed here would grow old.
    pub(super) fn show_nothing(&self) {
        let metrics = &self.context.metrics.rotation;
        metrics.keys.reset();
        metrics.expiry.reset();
        metrics.due.reset();
        metrics.control_planes.reset();
    }

    fn needed(&self, secret: &SecretRef, data_key: &str) -> Option<&KeyDemand> {
        let namespace = self.demands.namespaces.get(secret.namespace.as_str())?;
        namespace.secrets.get(&secret.name)?.get(data_key)
    }

    /// Sets the gauges, and what the admin port says.
    pub(super) fn show(&self) {
        let metrics = &self.context.metrics.rotation;
        let mut counts: BTreeMap<State, i64> =
            State::ALL.into_iter().map(|state| (state, 0)).collect();
        let mut firsts = BTreeMap::new();
        let mut expiries = Vec::new();
        for (secret, known) in &self.secrets {
            for (data_key, state) in &known.states {
                *counts.entry(*state).or_default() += 1;
                firsts.entry(*state).or_insert((secret, data_key));
            }
            expiries.extend(
                known
                    .expiries
                    .iter()
                    .map(|(data_key, at)| (*at, secret, data_key)),
            );
        }
        for (state, count) in &counts {
            metrics
                .keys
                .with_label_values(&[state.as_str()])
                .set(*count);
        }
        expiries.sort();
        metrics.expiry.reset();
        metrics.due.reset();
        for (at, secret, data_key) in expiries.into_iter().take(MOST_EXPIRIES) {
            let labels = [secret.namespace.as_str(), &secret.name, data_key];
            metrics
                .expiry
                .with_label_values(&labels)
                .set(at.as_duration().as_secs_f64());
            if let Some(demand) = self.needed(secret, data_key) {
                let due = Life::new(at, demand).due;
                let due = due.as_duration().as_secs_f64();
                metrics.due.with_label_values(&labels).set(due);
            }
        }
        for (name, state) in self.planes.states() {
            for other in State::ALL {
                let gauge = metrics
                    .control_planes
                    .with_label_values(&[name, other.as_str()]);
                gauge.set(i64::from(other == state));
            }
        }
        let ready = counts.get(&State::Ready).copied().unwrap_or_default();
        let wanting: Vec<_> = self
            .planes
            .troubles()
            .map(|trouble| trouble.message.clone())
            .collect();
        firsts.remove(&State::Ready);
        // One of them is named: the Events and the log hold the others.
        let others: Vec<_> = firsts
            .into_iter()
            .map(|(state, (secret, data_key))| {
                let count = counts.get(&state).copied().unwrap_or_default();
                let such_as = if count > 1 { "such as " } else { "" };
                format!(
                    "{count} {} ({such_as}{data_key} of Secret {secret})",
                    state.as_str()
                )
            })
            .collect();
        if wanting.is_empty() && others.is_empty() {
            self.context
                .health
                .ok(Part::Rotation, format!("{ready} keys ready"));
        } else {
            let detail = [vec![format!("{ready} keys ready")], others, wanting]
                .concat()
                .join("; ");
            self.context.health.trouble(Part::Rotation, detail);
        }
    }
}
