//! The configuration file's JSON Schema: checked in, the same in the chart, and consistent with the process.

use std::path::PathBuf;

use serde_json::{Value, json};
use sidescale::commands::config::{self, ConfigArgs, What};

const VALUES: &str = "charts/sidescale/values.schema.json";
const SCHEMA: &str = "docs/config.schema.json";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_default()
}

fn schema() -> Value {
    serde_json::from_str(&config::schema()).unwrap()
}

/// Returns the schema by which the chart checks `config`: the same, without the keywords of a whole document.
fn of_values() -> Value {
    let mut schema = schema();
    let members = schema.as_object_mut().unwrap();
    assert_eq!(
        members.remove("$schema").unwrap(),
        "http://json-schema.org/draft-07/schema#"
    );
    assert!(members.remove("title").is_some());
    schema
}

/// Returns the chart's schema with another value for `config`; all else stays byte-identical.
fn placed(text: &str, value: &Value) -> String {
    let key = "\n    \"config\": ";
    let (before, after) = text.split_once(key).unwrap();
    let mut old = serde_json::Deserializer::from_str(after).into_iter::<Value>();
    old.next().unwrap().unwrap();
    let rest = &after[old.byte_offset()..];
    let value = format!("{value:#}").replace('\n', "\n    ");
    format!("{before}{key}{value}{rest}")
}

/// SIDESCALE_BLESS=1 rewrites both files.
#[test]
fn the_schema_is_checked_in_and_is_the_charts_too() {
    let (whole, values) = (config::schema(), placed(&read(VALUES), &of_values()));
    if std::env::var_os("SIDESCALE_BLESS").is_some() {
        std::fs::write(path(SCHEMA), &whole).unwrap();
        std::fs::write(path(VALUES), &values).unwrap();
    }
    let how = "does not follow the types: SIDESCALE_BLESS=1 cargo test --test suite schema::";
    assert!(read(SCHEMA) == whole, "{SCHEMA} {how}");
    assert!(read(VALUES) == values, "{VALUES} {how}");
}

/// Checks the subset of JSON Schema that ours uses; an unknown keyword fails.
fn takes(schema: &Value, value: &Value) -> bool {
    let Some(rules) = schema.as_object() else {
        return schema == &json!(true);
    };
    rules.iter().all(|(word, rule)| match word.as_str() {
        "type" => {
            let one = |name: &Value| match name.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_u64(),
                "number" => value.is_number(),
                "null" => value.is_null(),
                other => panic!("type {other}"),
            };
            rule.as_array()
                .map_or_else(|| one(rule), |names| names.iter().any(one))
        }
        "enum" => rule.as_array().unwrap().contains(value),
        "anyOf" => rule
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| takes(rule, value)),
        "items" => value
            .as_array()
            .into_iter()
            .flatten()
            .all(|item| takes(rule, item)),
        "properties" => value
            .as_object()
            .into_iter()
            .flatten()
            .all(|(key, value)| rule.get(key).is_none_or(|rule| takes(rule, value))),
        "additionalProperties" => value.as_object().into_iter().flatten().all(|(key, value)| {
            let known = schema["properties"].get(key).is_some();
            known || takes(rule, value)
        }),
        "minimum" => value.as_f64() >= rule.as_f64(),
        "$schema" | "title" | "description" | "default" | "format" => true,
        other => panic!("{other}: {rule}"),
    })
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

const PLANE: &str = "controlPlanes: {default: {loginServer: 'https://hs.example.com'}}\n";

#[test]
fn the_schema_takes_what_the_process_takes() {
    let page = read("docs/configuration.md");
    let (_, example) = page.split_once("```yaml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let whole = "profiles:
  default:
    image: example.com/tailscale:v1
    allowedImages: ['registry.example.com/tailscale:*']
    allowedExtraArgs: [--ssh]
    maxAuthKeyExpiration: 720h
    imagePullSecrets: [registry]
    onInvalid: warn
    podSelector: {matchExpressions: [{key: app, operator: In, values: [web]}]}
    containerOverride:
      env: [{name: TZ, value: UTC}]
      readinessProbe: {httpGet: {path: /healthz, port: 9002}}
      securityContext: {runAsUser: 2000}
    annotations: {reusable: false, cpu-limit: 0.5, state: emptydir}
rotation: {overlap: 30m, paused: true, maxServicesPerNamespace: 5, onLost: evict, users: never, minAuthKeyExpiration: 2h, keysPerService: 4}
installation: prod-1
formerInstallations: [old]
reservedHostnames: {vault: prod/vault}
webhook: {image: 'registry.example.com/sidescale:v1', inject: true}
";
    for text in [
        PLANE.to_owned(),
        example.to_owned(),
        format!("{PLANE}{whole}"),
    ] {
        sidescale::config::parse(&text).unwrap();
        assert!(takes(&schema(), &yaml(&text)), "{text}");
    }
}

#[test]
fn the_schema_refuses_what_the_process_refuses() {
    for wrong in [
        "profile: {}",
        "profiles: {default: {allowedTagz: []}}",
        "profiles: {default: {allowedTags: tag:web}}",
        "profiles: {default: {onInvalid: skip}}",
        "profiles: {default: {annotations: {tag: x}}}",
        "profiles: {default: {annotations: {service: x}}}",
        "profiles: {default: {annotations: {wait: [true]}}}",
        "profiles: {default: {namespaces: {matchLabel: {}}}}",
        "profiles: {default: {podSelector: {matchExpressions: [{key: a, operator: Is}]}}}",
        "profiles: {default: {containerOverride: {image: x}}}",
        "rotation: {maxServicesPerNamespace: many}",
        "rotation: {keysPerServicePerHour: 0.5}",
        "rotation: {podKeysPerNamespace: -1}",
        "reservedHostnames: [vault]",
        "formerInstallations: old",
        "rotation: {onLost: restart}",
        "rotation: {users: ask}",
        "webhook: {inject: sometimes}",
    ] {
        let text = format!("{PLANE}{wrong}\n");
        assert!(
            sidescale::config::parse(&text).is_err(),
            "{wrong} was taken"
        );
        assert!(!takes(&schema(), &yaml(&text)), "{wrong} fits the schema");
    }
}

#[test]
fn the_command_prints_the_schema_and_names_each_wrong_file() {
    let run = |what: What| {
        let mut out = Vec::new();
        let result = config::run(ConfigArgs { what }, &mut out);
        (result, String::from_utf8(out).unwrap())
    };
    let (result, said) = run(What::Schema);
    result.unwrap();
    assert!(said == config::schema(), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let [good, bad] = ["good.yaml", "bad.yaml"].map(|name| folder.path().join(name));
    std::fs::write(&good, PLANE).unwrap();
    std::fs::write(
        &bad,
        "profiles: {default: {onInvalid: skip}}\n".to_owned() + PLANE,
    )
    .unwrap();
    let (result, said) = run(What::Validate {
        files: vec![good.clone(), bad.clone()],
    });
    assert_eq!(said, format!("{}: ok\n", good.display()));
    let error = result.unwrap_err().to_string();
    let want = "profiles.default.onInvalid is \"skip\": want deny or warn";
    assert!(
        error.contains(bad.to_str().unwrap()) && error.contains(want),
        "{error}"
    );
    let (result, _) = run(What::Validate { files: vec![good] });
    result.unwrap();
}
