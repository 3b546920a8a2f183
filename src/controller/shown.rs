//! What people see of rotation: the gauges, and the state on the admin port. State, no I/O.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sidescale_core::key_state::KeyState;
use sidescale_core::secret::SecretRef;
use sidescale_rotation::demand::KeyDemand;
use sidescale_rotation::expiry_alerts::Lifetime;

use super::Loop;
use crate::health::Part;

/// Maximum number of keys in the gauges.
const MOST_EXPIRIES: usize = 500;
/// Maximum number of keys of one namespace in the gauges, so that no namespace fills them alone.
const MOST_OF_NAMESPACE: usize = 50;

impl Loop {
    /// Resets what was shown: the next leader shows it, and values left here would be outdated.
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

    /// Sets the gauges, and the state on the admin port.
    pub(super) fn show(&self) {
        let metrics = &self.context.metrics.rotation;
        let mut counts: BTreeMap<KeyState, i64> =
            KeyState::ALL.into_iter().map(|state| (state, 0)).collect();
        let mut firsts = BTreeMap::new();
        let mut expiries = Vec::new();
        for (secret, known) in &self.secrets {
            for (data_key, state) in &known.states {
                *counts.entry(*state).or_default() += 1;
                firsts.entry(*state).or_insert((secret, data_key));
            }
            expiries.extend(
                known
                    .ends
                    .confirmed()
                    .map(|(data_key, at)| (at, secret, data_key)),
            );
        }
        for (state, count) in &counts {
            metrics
                .keys
                .with_label_values(&[state.as_str()])
                .set(*count);
        }
        metrics.expiry.reset();
        metrics.due.reset();
        for (at, secret, data_key) in soonest(expiries) {
            let labels = [secret.namespace.as_str(), &secret.name, data_key];
            metrics.expiry.with_label_values(&labels).set(minute(at));
            if let Some(demand) = self.needed(secret, data_key) {
                let due = Lifetime::new(at, demand).due;
                metrics.due.with_label_values(&labels).set(minute(due));
            }
        }
        for (name, state) in self.sessions.states() {
            for other in KeyState::ALL {
                let gauge = metrics
                    .control_planes
                    .with_label_values(&[name, other.as_str()]);
                gauge.set(i64::from(other == state));
            }
        }
        let ready = counts.get(&KeyState::Ready).copied().unwrap_or_default();
        let wanting: Vec<_> = self
            .sessions
            .problems()
            .map(|problem| problem.message.clone())
            .collect();
        firsts.remove(&KeyState::Ready);
        // One key per state is named: the Events and the log have the others.
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
            self.context.health.problem(Part::Rotation, detail);
        }
    }
}

/// Returns the keys that expire soonest, at most 500, and at most 50 of one namespace.
fn soonest<'a>(
    mut expiries: Vec<(Timestamp, &'a SecretRef, &'a String)>,
) -> impl Iterator<Item = (Timestamp, &'a SecretRef, &'a String)> {
    expiries.sort();
    let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
    let of_few = expiries.into_iter().filter(move |(_, secret, _)| {
        let count = shown.entry(&secret.namespace).or_default();
        *count += 1;
        *count <= MOST_OF_NAMESPACE
    });
    of_few.take(MOST_EXPIRIES)
}

/// Returns Unix time, rounded down to the minute. Readers of the admin port must not learn the exact expiry: some decisions take
/// it as a sign that a record is about a certain key.
#[expect(
    clippy::cast_precision_loss,
    reason = "Unix time is far below 2^52 seconds"
)]
fn minute(at: Timestamp) -> f64 {
    let seconds = at.as_second();
    (seconds - seconds.rem_euclid(60)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_down_to_the_minute() {
        for (at, want) in [
            ("2026-11-21T12:00:00Z", 1_795_262_400.0),
            ("2026-11-21T12:00:59.999999Z", 1_795_262_400.0),
            ("2026-11-21T12:01:00.000001Z", 1_795_262_460.0),
        ] {
            assert_eq!(
                minute(at.parse().unwrap()).to_bits(),
                f64::to_bits(want),
                "{at}"
            );
        }
    }

    #[test]
    fn one_namespace_does_not_fill_the_gauges() {
        let data_key = String::from("web-authkey");
        let at = |second| Timestamp::from_second(second).unwrap();
        let secret = |namespace: String| SecretRef {
            namespace,
            name: "headscale-auth-keys".to_owned(),
        };
        let loud: Vec<_> = (0..600).map(|_| secret("loud".to_owned())).collect();
        let quiet: Vec<_> = (0..600).map(|n| secret(format!("quiet-{n}"))).collect();
        // All keys of the loud one expire before the others'.
        let keys = (0..).map(at).zip(loud.iter().chain(&quiet));
        let keys = keys.map(|(at, secret)| (at, secret, &data_key)).collect();
        let shown: Vec<_> = soonest(keys).collect();
        let loud = shown
            .iter()
            .filter(|(_, secret, _)| secret.namespace == "loud");
        assert_eq!((shown.len(), loud.count()), (500, 50));
        assert_eq!(
            shown[50].0,
            at(600),
            "the quiet ones that end soonest are shown"
        );
        assert_eq!(shown[499].0, at(1_049));
    }
}
