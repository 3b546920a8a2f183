//! Compares a pod as sent with the one that an API server returns: only defaults may differ. Pure.

use serde_json::{Value, json};

/// Returns the differences that are not defaults, one line each.
pub(crate) fn differences(sent: &Value, returned: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", sent, returned, &mut found);
    found
}

fn compare(path: &str, sent: &Value, returned: &Value, found: &mut Vec<String>) {
    match (sent, returned) {
        (Value::Object(sent), Value::Object(returned)) => {
            for (key, value) in sent {
                match returned.get(key) {
                    Some(kept) => compare(&format!("{path}.{key}"), value, kept, found),
                    // An empty text equals none.
                    None if value == "" => {}
                    None => found.push(format!("{path}.{key} is gone: {value}")),
                }
            }
            for (key, value) in returned.iter().filter(|(key, _)| !sent.contains_key(*key)) {
                let path = format!("{path}.{key}");
                if !is_default(&path, value) {
                    found.push(format!("{path} is new: {value}"));
                }
            }
        }
        (Value::Array(sent), Value::Array(returned)) => {
            let kept: Vec<&Value> = returned
                .iter()
                .filter(|element| {
                    let is_same = |other: &Value| {
                        ["name", "mountPath", "key"]
                            .iter()
                            .all(|name| other.get(name) == element.get(name))
                    };
                    sent.iter().any(is_same) || !is_default(path, &json!([element]))
                })
                .collect();
            if kept.len() != sent.len() {
                found.push(format!("{path}: want {sent:?}, got {kept:?}"));
                return;
            }
            for (sent, kept) in sent.iter().zip(kept) {
                compare(&format!("{path}[]"), sent, kept, found);
            }
        }
        (sent, returned) => {
            let same = sent == returned || same_quantity(path, sent, returned);
            if !same {
                found.push(format!("{path}: want {sent}, got {returned}"));
            }
        }
    }
}

/// Returns whether an API server of any cluster sets this by default.
fn is_default(path: &str, value: &Value) -> bool {
    let names_only = |start: &str| {
        let starts = |element: &Value| {
            [&element["name"], &element["key"]]
                .iter()
                .filter_map(|name| name.as_str())
                .any(|name| name.starts_with(start))
        };
        value
            .as_array()
            .is_some_and(|elements| elements.iter().all(starts))
    };
    let (parent, key) = path.rsplit_once('.').unwrap_or_default();
    match (parent, key) {
        ("", "status") => true,
        (
            ".metadata",
            "uid" | "name" | "creationTimestamp" | "generation" | "managedFields"
            | "resourceVersion",
        ) => true,
        (".spec", "volumes") => names_only("kube-api-access-"),
        (".spec.containers[]" | ".spec.initContainers[]", "volumeMounts") => {
            names_only("kube-api-access-")
        }
        (".spec", "tolerations") => names_only("node.kubernetes.io/"),
        (".spec", "dnsPolicy") => value == "ClusterFirst",
        (".spec", "enableServiceLinks") => value == true,
        (".spec", "preemptionPolicy") => value == "PreemptLowerPriority",
        (".spec", "priority") => value == 0,
        (".spec", "restartPolicy") => value == "Always",
        (".spec", "schedulerName") => value == "default-scheduler",
        (".spec", "securityContext") => value == &json!({}),
        (".spec", "serviceAccount" | "serviceAccountName") => value.is_string(),
        (".spec", "terminationGracePeriodSeconds") => value == 30,
        (_, "imagePullPolicy") => value == "IfNotPresent" || value == "Always",
        (_, "terminationMessagePath") => value == "/dev/termination-log",
        (_, "terminationMessagePolicy") => value == "File",
        (_, "resources") => value == &json!({}),
        // Limits without requests imply the same requests.
        (_, "requests") => parent.ends_with(".resources"),
        (_, "protocol") => value == "TCP",
        (_, "apiVersion") => parent.ends_with(".fieldRef") && value == "v1",
        (_, "scheme") => value == "HTTP",
        (_, "path") => parent.ends_with(".httpGet") && value == "/",
        (_, "service") => parent.ends_with(".grpc") && value == "",
        (_, "timeoutSeconds" | "successThreshold") => value == 1,
        (_, "periodSeconds") => value == 10,
        (_, "failureThreshold") => value == 3,
        (_, "defaultMode") => value == 0o644,
        (_, "expirationSeconds") => parent.ends_with(".serviceAccountToken") && value == 3600,
        _ => false,
    }
}

/// Compares quantities: servers write them in one way, half a core as `500m`.
fn same_quantity(path: &str, sent: &Value, returned: &Value) -> bool {
    let is_quantity = path.contains(".resources.") || path.ends_with(".sizeLimit");
    let amounts = [sent, returned].map(|value| value.as_str().and_then(amount));
    match amounts {
        [Some(sent), Some(returned)] => is_quantity && (sent - returned).abs() < sent.abs() * 1e-9,
        _ => false,
    }
}

fn amount(quantity: &str) -> Option<f64> {
    let digits = quantity
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(digits);
    let factor = match unit {
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}
