//! Checks of the chart, the image and the examples without helm: they agree with each other and the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use serde_json::Value;

#[path = "../support/write_verbs.rs"]
mod write_verbs;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn templates() -> Vec<(String, String)> {
    let mut found: Vec<_> = fs::read_dir(root().join("charts/sidescale/templates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| {
            (
                name.clone(),
                read(format!("charts/sidescale/templates/{name}")),
            )
        })
        .collect();
    found.sort();
    found
}

fn template(name: &str) -> String {
    read(format!("charts/sidescale/templates/{name}"))
}

#[test]
fn chart_image_and_crate_are_of_one_version() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = yaml("charts/sidescale/Chart.yaml");
    assert_eq!(chart["version"], version);
    assert_eq!(chart["appVersion"], version);
    assert!(read("Makefile").contains(&format!("IMAGE ?= sidescale:{version}\n")));
}

/// The webhook sets arguments and no command for the container beside Headscale.
#[test]
fn the_image_takes_any_command_of_ours_as_its_arguments() {
    let dockerfile = read("Dockerfile");
    let lines: Vec<&str> = dockerfile.lines().collect();
    assert!(lines.contains(&r#"ENTRYPOINT ["/usr/local/bin/sidescale"]"#));
    assert!(lines.contains(&r#"CMD ["serve"]"#));
    assert!(lines.contains(&"USER 65532:65532"));
    let line = ["sidescale", "apikey-manager", "--namespace=headscale"];
    assert!(
        sidescale::args::Args::command()
            .try_get_matches_from(line)
            .is_ok()
    );
}

#[test]
fn every_value_is_in_the_schema_and_every_property_has_a_value() {
    let schema: Value = serde_json::from_str(&read("charts/sidescale/values.schema.json")).unwrap();
    compare("", &yaml("charts/sidescale/values.yaml"), &schema);
}

fn compare(path: &str, values: &Value, schema: &Value) {
    let (Some(values), Some(properties)) = (values.as_object(), schema["properties"].as_object())
    else {
        return;
    };
    let keys: BTreeSet<&String> = values.keys().collect();
    // Helm adds `global` itself.
    let known: BTreeSet<&String> = properties.keys().filter(|key| *key != "global").collect();
    assert_eq!(
        keys, known,
        "values.yaml and values.schema.json differ below {path:?}"
    );
    assert_eq!(
        schema["additionalProperties"], false,
        "an unknown value below {path:?} would be ignored"
    );
    // The generated part, in which every key has a default.
    let own = values.iter().filter(|(key, _)| *key != "config");
    for (key, value) in own {
        compare(&format!("{path}.{key}"), value, &properties[key]);
    }
}

#[test]
fn no_template_holds_a_ca_bundle_or_a_secret() {
    for (name, text) in templates() {
        let rendered = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        for line in rendered {
            // The one in the configuration file belongs to the control plane, and is public.
            assert!(
                !line.trim_start().starts_with("caBundle:"),
                "{name}: helm would fight over {line:?}"
            );
            assert_ne!(
                line.trim(),
                "kind: Secret",
                "{name}: key material does not come from a template"
            );
        }
    }
}

#[test]
fn each_template_file_is_of_one_kind() {
    for (name, text) in templates() {
        let kinds = text
            .lines()
            .filter(|line| line.starts_with("kind: "))
            .count();
        assert_eq!(kinds, usize::from(name.ends_with(".yaml")), "{name}");
    }
}

/// The other order costs each pod of an opted-in namespace two more calls; another name orphans our caBundle.
#[test]
fn the_entries_keep_their_names_and_order() {
    let webhook = template("webhook.yaml");
    let names: Vec<&str> = webhook
        .lines()
        .filter_map(|line| line.strip_prefix("  - name: "))
        .collect();
    assert_eq!(names, ["pods.sidescale.io", "namespaces.sidescale.io"]);
}

#[test]
fn the_entries_share_all_but_selector_and_path() {
    let webhook = template("webhook.yaml");
    for line in [
        "    failurePolicy: {{ .Values.webhook.failurePolicy }}",
        "    timeoutSeconds: {{ .Values.webhook.timeoutSeconds }}",
        "    sideEffects: None",
        "    reinvocationPolicy: IfNeeded",
        "    matchPolicy: Equivalent",
        "    admissionReviewVersions: [v1]",
        "          values: [kube-system, kube-node-lease]",
    ] {
        assert_eq!(
            webhook.lines().filter(|other| *other == line).count(),
            2,
            "{line}"
        );
    }
}

/// Sources of one port must not open the other: a scraper must not reach the webhook.
#[test]
fn the_network_policy_has_a_rule_with_its_own_sources_for_each_port() {
    let policy = template("networkpolicy.yaml");
    let (_, ingress) = policy.split_once("  ingress:\n").unwrap();
    let rules: Vec<&str> = ingress.split("    - ports:\n").skip(1).collect();
    assert_eq!(rules.len(), 2, "{ingress}");
    for (rule, port) in rules.into_iter().zip(["webhook", "admin"]) {
        let own = [
            format!("        - port: {port}\n"),
            format!("      {{{{- with .Values.networkPolicy.{port}.from }}}}\n      from:"),
        ];
        assert!(own.iter().all(|text| rule.contains(text)), "{port}: {rule}");
        assert_eq!(rule.matches("- port:").count(), 1, "{port}: {rule}");
    }
}

/// A workload that cannot be applied while the webhook is down would be worse than an author without a warning.
#[test]
fn the_entry_for_workloads_is_ignored_where_it_does_not_answer() {
    let webhook = template("validating-webhook.yaml");
    for line in [
        "  - name: workloads.sidescale.io",
        "        path: /validate",
        "    failurePolicy: Ignore",
        "    sideEffects: None",
        "        resources: [deployments, statefulsets, daemonsets]",
        "        resources: [jobs, cronjobs]",
    ] {
        assert!(webhook.lines().any(|other| other == line), "{line}");
    }
    assert!(template("clusterrole.yaml").contains("validatingwebhookconfigurations"));
}

/// A real helm checks the same in its rendered output, `stolen_token::every_write_verb_has_a_test`.
#[test]
fn every_write_of_a_role_is_listed_with_the_test_of_its_limit() {
    let mut found = BTreeSet::new();
    for (name, text) in templates() {
        if !text.contains("\nkind: Role\n") && !text.contains("\nkind: ClusterRole\n") {
            continue;
        }
        let roles: Vec<Value> = serde_saphyr::from_multiple(&without_directives(&text))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let writes: Vec<String> = roles.iter().flat_map(write_verbs::writes).collect();
        assert!(!writes.is_empty(), "{name}");
        found.extend(writes);
    }
    let listed = BTreeSet::from_iter(write_verbs::listed());
    assert_eq!(
        found, listed,
        "the roles and tests/support/write_verbs.rs differ"
    );
    for write in write_verbs::WRITES {
        let (group, _) = write.test.split_once("::").unwrap();
        let tests = read(format!("tests/e2e/{group}.rs"));
        let quoted = format!("\"{}\"", write.test);
        assert!(tests.contains(&quoted), "no test {}", write.test);
    }
}

/// Returns a template without its conditions and loops, and with a word in place of each value: a list of names has one.
fn without_directives(text: &str) -> String {
    let kept = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("{{"));
    let mut plain = String::new();
    for line in kept {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("{{") {
            let (_, after) = after.split_once("}}").unwrap();
            plain.push_str(before);
            let is_list = before.trim_end().ends_with("resourceNames:");
            plain.push_str(if is_list { "[x]" } else { "x" });
            rest = after;
        }
        plain.push_str(rest);
        plain.push('\n');
    }
    plain
}

/// By label alone, any pod could exempt itself.
#[test]
fn our_own_pods_are_left_out_by_label_and_namespace_together() {
    let condition = "{{- include \"sidescale.notOurOwn\" . | nindent 10 }}";
    for (name, entries) in [("webhook.yaml", 2), ("validating-webhook.yaml", 1)] {
        let text = template(name);
        assert!(!text.contains("objectSelector"), "{name}");
        assert_eq!(text.matches(condition).count(), entries, "{name}");
    }
    let helpers = template("_helpers.tpl");
    let (_, condition) = helpers
        .split_once("define \"sidescale.notOurOwn\"")
        .unwrap();
    let (condition, _) = condition.split_once("end -").unwrap();
    for part in [
        "request.namespace == '{{ .Release.Namespace }}'",
        "labels['app.kubernetes.io/name'] == ",
        "labels['app.kubernetes.io/instance'] == ",
    ] {
        assert!(condition.contains(part), "{part}");
    }
}

/// An unbound policy refuses nothing, and neither does one that only warns.
#[test]
fn every_policy_is_bound_and_denies() {
    let mut policies = 0;
    for (name, text) in templates() {
        let Some(policy) = name.strip_suffix("-policy.yaml") else {
            continue;
        };
        // Another kind of policy.
        if !text.contains("\nkind: ValidatingAdmissionPolicy\n") {
            continue;
        }
        policies += 1;
        assert!(text.contains("\n  failurePolicy: Fail\n"), "{name}");
        let binding = template(&format!("{policy}-policybinding.yaml"));
        assert!(
            binding.contains("\n  validationActions: [Deny]\n"),
            "{policy}"
        );
        let named = |text: &str, field: &str| -> Option<String> {
            let line = text
                .lines()
                .find(|line| line.trim_start().starts_with(field))?;
            Some(line.split_once(": ")?.1.to_owned())
        };
        assert_eq!(
            named(&text, "name:"),
            named(&binding, "policyName:"),
            "{policy}"
        );
        let when = |text: &str| {
            text.lines()
                .find(|line| line.starts_with("{{- if"))
                .map(str::to_owned)
        };
        assert_eq!(
            when(&text),
            when(&binding),
            "{policy}: one comes without the other"
        );
    }
    assert_eq!(policies, 6);
    // A right and its fence exist together.
    let role = template("clusterrole.yaml");
    let rights = role.lines().filter(|line| line.starts_with("{{- if "));
    let fences = ["pods-policy.yaml", "evictions-policy.yaml"].map(template);
    let fences = fences.iter().filter_map(|fence| fence.lines().next());
    assert!(rights.eq(fences), "{role}");
}

#[test]
fn every_fence_has_its_policy() {
    for fence in sidescale::fences::Fence::ALL {
        let name = format!(
            "  name: {{{{ include \"sidescale.fullname\" . }}}}-{}",
            fence.as_str()
        );
        let policy = template(&format!("{}-policy.yaml", fence.as_str()));
        assert!(policy.lines().any(|line| line == name), "{name}");
    }
}

#[test]
fn every_example_is_a_list_of_kubernetes_objects() {
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&read(&path)).unwrap();
        assert!(!objects.is_empty(), "{}", path.display());
        for object in objects {
            for field in ["/apiVersion", "/kind", "/metadata/name"] {
                assert!(
                    object.pointer(field).is_some_and(Value::is_string),
                    "{}: {field}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn every_flag_in_the_deployment_is_a_flag_of_serve() {
    let known: BTreeSet<String> = flags("serve").into_iter().map(|(flag, _)| flag).collect();
    let deployment = template("deployment.yaml");
    let used: Vec<&str> = deployment
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- --")?.split('=').next())
        .collect();
    assert!(!used.is_empty());
    for flag in used {
        assert!(known.contains(flag), "--{flag} is no flag of serve");
    }
}

#[test]
fn the_pages_list_every_flag() {
    for (command, page) in [
        ("serve", "docs/flags.md"),
        ("apikey-manager", "docs/api-key-manager.md"),
    ] {
        let text = read(page);
        for (flag, variable) in flags(command) {
            let row = format!("| `--{flag}` | `{variable}` |");
            assert!(text.contains(&row), "{page} lacks {row}");
        }
    }
}

/// Returns the flags of a command with their variables.
fn flags(name: &str) -> Vec<(String, String)> {
    let command = sidescale::args::Args::command();
    let found = command.find_subcommand(name).unwrap();
    let flag = |arg: &clap::Arg| {
        Some((
            arg.get_long()?.to_owned(),
            arg.get_env()?.to_str()?.to_owned(),
        ))
    };
    found.get_arguments().filter_map(flag).collect()
}

#[test]
fn the_readme_marks_one_test_command() {
    let readme = read("README.md");
    let (_, after) = readme.split_once("<!-- test-command -->\n```").unwrap();
    let command = after.lines().nth(1).unwrap();
    assert_eq!(command, "make test");
    assert!(read("Makefile").contains("\ntest:\n"));
}
