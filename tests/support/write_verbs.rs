//! Every write that the chart's roles allow, and the test for its limit. A right without a row fails two tests: one reads the
//! templates, one the output of helm.

/// One verb of one resource.
pub(crate) struct Write {
    /// `Role` or `ClusterRole`.
    pub(crate) kind: &'static str,
    /// The API group.
    pub(crate) group: &'static str,
    /// The resource, with its subresource.
    pub(crate) resource: &'static str,
    /// The verb.
    pub(crate) verb: &'static str,
    /// Whether the rule names the objects.
    pub(crate) named: bool,
    /// The test, as `GROUP::NAME` below `tests/e2e/`.
    pub(crate) test: &'static str,
}

const SECRETS: &str = "stolen_token::it_writes_only_secrets_on_the_list";
const WEBHOOKS: &str = "stolen_token::it_changes_only_the_ca_bundle";
const EVENTS: &str = "stolen_token::it_writes_events_in_its_own_name_one_lease_and_one_config_map";
const EVICTIONS: &str = "stolen_token::it_evicts_nothing_of_the_clusters_own";
const PODS: &str = "stolen_token::it_changes_one_annotation_of_injected_pods";
const MANAGER: &str = "manager::its_account_writes_no_other_secret";
const REGISTRATION: &str = "admissionregistration.k8s.io";

/// All writes.
pub(crate) const WRITES: &[Write] = &[
    cluster("", "secrets", "create", false, SECRETS),
    cluster("", "secrets", "update", true, SECRETS),
    cluster("", "pods", "patch", false, PODS),
    cluster("", "pods/eviction", "create", false, EVICTIONS),
    cluster("events.k8s.io", "events", "create", false, EVENTS),
    cluster("events.k8s.io", "events", "patch", false, EVENTS),
    cluster(
        REGISTRATION,
        "mutatingwebhookconfigurations",
        "patch",
        true,
        WEBHOOKS,
    ),
    cluster(
        REGISTRATION,
        "validatingwebhookconfigurations",
        "patch",
        true,
        WEBHOOKS,
    ),
    // The CA's Secret, and those of API keys.
    in_namespace("", "secrets", "update", true, SECRETS),
    // The account beside Headscale.
    in_namespace("", "secrets", "create", false, MANAGER),
    in_namespace("coordination.k8s.io", "leases", "patch", true, EVENTS),
    in_namespace("", "configmaps", "patch", true, EVENTS),
];

const fn cluster(
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
    named: bool,
    test: &'static str,
) -> Write {
    Write {
        kind: "ClusterRole",
        group,
        resource,
        verb,
        named,
        test,
    }
}

const fn in_namespace(
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
    named: bool,
    test: &'static str,
) -> Write {
    Write {
        kind: "Role",
        ..cluster(group, resource, verb, named, test)
    }
}

/// Returns the writes that a role allows, one per line; a wildcard is a write.
pub(crate) fn writes(role: &serde_json::Value) -> Vec<String> {
    let kind = role["kind"].as_str().unwrap_or_default();
    let words = |rule: &serde_json::Value, field: &str| -> Vec<String> {
        let words = rule[field].as_array().into_iter().flatten();
        words
            .map(|word| word.as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let mut found = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let named = !words(rule, "resourceNames").is_empty();
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                for verb in words(rule, "verbs") {
                    if !["get", "list", "watch"].contains(&verb.as_str()) {
                        found.push(line(kind, &group, &resource, &verb, named));
                    }
                }
            }
        }
    }
    found
}

/// Returns the same lines for the table.
pub(crate) fn listed() -> Vec<String> {
    let lines = WRITES.iter().map(|write| {
        let Write {
            kind,
            group,
            resource,
            verb,
            named,
            test: _,
        } = write;
        line(kind, group, resource, verb, *named)
    });
    lines.collect()
}

fn line(kind: &str, group: &str, resource: &str, verb: &str, named: bool) -> String {
    let how = if named { "by name" } else { "any" };
    format!("{kind}: {verb} {group}/{resource}, {how}")
}
