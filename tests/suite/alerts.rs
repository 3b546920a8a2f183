//! The alerts of the chart: each uses existing metrics, labels and states, and says what to do.

use std::collections::BTreeSet;

use clap::Parser;
use serde_json::Value;
use sidescale::args::Args;
use sidescale::metrics::{Handshake, Metrics};
use sidescale_core::key_state::KeyState;
use sidescale_rotation::nodes::NodeState;

const RULES: &str = include_str!("../../charts/sidescale/rules.yaml");

/// Metrics of the API server.
const FOREIGN: [&str; 1] = ["apiserver_admission_webhook_fail_open_count"];

fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(RULES).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap());
    rules.cloned().collect()
}

fn text<'a>(alert: &'a Value, field: &str) -> &'a str {
    let text = alert.pointer(field).and_then(Value::as_str);
    text.unwrap_or_else(|| panic!("{field} of {alert}"))
}

/// Returns the admin port's page, with every metric that the alerts may use.
fn page() -> String {
    let metrics = Metrics::new().unwrap();
    metrics.handshakes(Handshake::Distrusted).inc();
    metrics.fence_open.with_label_values(&["secrets"]).set(1);
    let rotation = &metrics.rotation;
    let key = ["shop", "headscale-auth-keys", "web-authkey"];
    rotation.expiry.with_label_values(&key).set(1.0);
    rotation.due.with_label_values(&key).set(1.0);
    for state in KeyState::ALL {
        rotation.keys.with_label_values(&[state.as_str()]).set(1);
        let plane = ["default", state.as_str()];
        rotation.control_planes.with_label_values(&plane).set(1);
    }
    for state in NodeState::ALL {
        rotation.nodes.with_label_values(&[state.as_str()]).set(1);
    }
    String::from_utf8(metrics.text().unwrap()).unwrap()
}

/// Returns words that may be a metric's name.
fn words(expr: &str) -> BTreeSet<&str> {
    let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("sidescale_") || FOREIGN.contains(word))
        .collect()
}

#[test]
fn every_metric_of_an_alert_is_one_that_we_show() {
    let page = page();
    let mut seen = BTreeSet::new();
    for alert in alerts() {
        let expr = text(&alert, "/expr");
        let metrics = words(expr);
        assert!(!metrics.is_empty(), "{expr}");
        for metric in metrics {
            let shown = page.lines().any(|line| {
                let rest = line.strip_prefix(metric);
                rest.is_some_and(|rest| rest.starts_with([' ', '{']))
            });
            assert!(
                shown || FOREIGN.contains(&metric),
                "{metric} is on no page of ours"
            );
            seen.insert(metric.to_owned());
        }
    }
    assert!(seen.len() > 8, "{seen:?}");
}

/// A misspelt label or state would silence the alert forever.
#[test]
fn every_matcher_of_an_alert_names_a_label_and_values_that_there_are() {
    let page = page();
    let mut values_seen = 0;
    for alert in alerts() {
        let expr = text(&alert, "/expr");
        for selector in expr.split('{').skip(1) {
            let (matchers, _) = selector.split_once('}').unwrap();
            let (label, values) = matchers.split_once(['=', '!']).unwrap();
            let values = values.trim_start_matches(['=', '~']).trim_matches('"');
            if label == "name" {
                continue;
            }
            for value in values.split('|') {
                let shown = format!("{label}=\"{value}\"");
                assert!(page.contains(&shown), "{shown} of {expr}");
                values_seen += 1;
            }
        }
    }
    assert!(values_seen > 10, "{values_seen}");
}

/// Otherwise no alert would report a state that is added later.
#[test]
fn every_state_that_somebody_has_to_mend_is_in_an_alert() {
    // Late keys have their own alerts, based on their expiry; the operator chose to pause.
    let left_out = ["Ready", "Degraded", "Paused", "Joined"];
    let exprs: Vec<_> = alerts()
        .iter()
        .map(|alert| text(alert, "/expr").to_owned())
        .collect();
    for (metric, states) in [
        ("sidescale_keys{", &KeyState::ALL.map(KeyState::as_str)[..]),
        ("sidescale_nodes{", &NodeState::ALL.map(NodeState::as_str)),
    ] {
        let of_it: Vec<_> = exprs.iter().filter(|expr| expr.contains(metric)).collect();
        for state in states {
            let told = of_it.iter().any(|expr| {
                let words = expr.split(|c: char| !c.is_ascii_alphanumeric());
                words.into_iter().any(|word| word == *state)
            });
            assert!(
                told != left_out.contains(state),
                "{metric}: {state} is in an alert: {told}"
            );
        }
    }
}

#[test]
fn every_alert_says_what_is_the_matter_and_which_command_comes_next() {
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = text(&alert, "/alert").to_owned();
        assert!(name.starts_with("Sidescale"), "{name}");
        let severity = text(&alert, "/labels/severity");
        assert!(["warning", "critical"].contains(&severity), "{name}");
        assert!(!text(&alert, "/annotations/summary").is_empty(), "{name}");
        let description = text(&alert, "/annotations/description");
        let command = ["kubectl ", "sidescale status", "sidescale rotate"];
        assert!(
            command.iter().any(|command| description.contains(command)),
            "{name}: {description}"
        );
        let expr = text(&alert, "/expr");
        let count = |c: char| expr.matches(c).count();
        assert_eq!((count('('), count('{')), (count(')'), count('}')), "{expr}");
        let open = |text: &str| (text.matches("{{").count(), text.matches("}}").count());
        let (begun, ended) = open(description);
        assert_eq!(begun, ended, "{description}");
        assert!(names.insert(name), "one name, two alerts");
    }
    assert!(names.len() > 8, "{names:?}");
}

#[test]
fn the_commands_of_ours_in_alerts_are_commands() {
    let mut tried = 0;
    for alert in alerts() {
        let description = text(&alert, "/annotations/description");
        for (at, _) in description.match_indices("sidescale ") {
            // As it is for a key of service web, in an installation with another name.
            let command = description[at..]
                .replace(
                    "{{ or $labels.exported_namespace $labels.namespace }}",
                    "shop",
                )
                .replace(
                    "{{ reReplaceAll \"(_.*)?-authkey$\" \"\" $labels.key }}",
                    "web",
                )
                .replace("FLAGS", " --namespace tailnet --release-name prod");
            let words = command.split_whitespace();
            let words = words.take_while(|word| !["and", "What"].contains(word));
            let words: Vec<_> = words
                .map(|word| word.trim_end_matches([',', ';', '.']))
                .collect();
            Args::try_parse_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            tried += 1;
        }
    }
    assert!(tried >= 4, "{tried}");
}

#[test]
fn the_chart_fills_in_the_words_in_capitals() {
    let template = include_str!("../../charts/sidescale/templates/prometheusrule.yaml");
    for word in ["FLAGS", "NAMESPACE"] {
        assert!(RULES.contains(word), "{word}");
        assert!(template.contains(&format!("replace \"{word}\"")), "{word}");
    }
    let comment = RULES.lines().take_while(|line| line.starts_with('#'));
    assert!(
        comment
            .into_iter()
            .all(|line| !line.contains("FLAGS") && !line.contains("NAMESPACE"))
    );
}
