//! Accepted `containerOverride` values at each level, with Kubernetes' own types as the oracle.

#![allow(clippy::panic, clippy::too_many_lines, clippy::unwrap_used)]

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapKeySelector, EnvVar, EnvVarSource, ExecAction, GRPCAction,
    HTTPGetAction, HTTPHeader, ObjectFieldSelector, Probe, ResourceFieldSelector, SeccompProfile,
    SecretKeySelector, SecurityContext, TCPSocketAction, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use sidescale_webhook::profile::{Config, Overlay, Policy};

fn read(given: &Value) -> Result<Overlay, String> {
    let config = json!({
        "controlPlanes": {"default": {"loginServer": "https://hs.example.com"}},
        "profiles": {"default": {"containerOverride": given}},
    });
    let config: Config = serde_json::from_value(config).map_err(|error| error.to_string())?;
    let policy = Policy::from_config(config).map_err(|error| error.to_string())?;
    Ok(policy.profiles["default"].overlay.clone())
}

/// Returns overrides with every allowed field. All fields are named: a new one in Kubernetes does not compile.
fn whole() -> Vec<Value> {
    let env = |of: EnvVarSource| EnvVar {
        name: "A".to_owned(),
        value: None,
        value_from: Some(of),
    };
    let none = || EnvVarSource {
        config_map_key_ref: None,
        field_ref: None,
        resource_field_ref: None,
        secret_key_ref: None,
    };
    let text = |text: &str| Some(text.to_owned());
    let context = SecurityContext {
        allow_privilege_escalation: Some(false),
        app_armor_profile: None,
        capabilities: Some(Capabilities {
            add: Some(vec!["NET_BIND_SERVICE".to_owned()]),
            drop: Some(vec!["ALL".to_owned()]),
        }),
        privileged: Some(false),
        proc_mount: None,
        read_only_root_filesystem: Some(false),
        run_as_group: Some(2000),
        run_as_non_root: Some(true),
        run_as_user: Some(2000),
        se_linux_options: None,
        seccomp_profile: Some(SeccompProfile {
            localhost_profile: text("profiles/audit.json"),
            type_: "Localhost".to_owned(),
        }),
        windows_options: None,
    };
    let mount = VolumeMount {
        mount_path: "/data".to_owned(),
        mount_propagation: text("None"),
        name: "data".to_owned(),
        read_only: Some(true),
        recursive_read_only: text("IfPossible"),
        sub_path: text("a"),
        sub_path_expr: None,
    };
    let another = VolumeMount {
        mount_path: "/pods".to_owned(),
        sub_path: None,
        sub_path_expr: text("$(POD_NAME)"),
        ..mount.clone()
    };
    let envs = [
        EnvVar {
            name: "TZ".to_owned(),
            value: text("UTC"),
            value_from: None,
        },
        env(EnvVarSource {
            config_map_key_ref: Some(ConfigMapKeySelector {
                key: "k".to_owned(),
                name: "n".to_owned(),
                optional: Some(true),
            }),
            ..none()
        }),
        env(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: text("v1"),
                field_path: "metadata.uid".to_owned(),
            }),
            ..none()
        }),
        env(EnvVarSource {
            resource_field_ref: Some(ResourceFieldSelector {
                container_name: text("app"),
                divisor: Some(Quantity("1Mi".to_owned())),
                resource: "limits.memory".to_owned(),
            }),
            ..none()
        }),
        env(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                key: "k".to_owned(),
                name: "n".to_owned(),
                optional: Some(false),
            }),
            ..none()
        }),
    ];
    let [exec, mut grpc, http, mut tcp] = probes();
    // Only for a liveness probe.
    grpc.termination_grace_period_seconds = None;
    tcp.success_threshold = Some(2);
    tcp.termination_grace_period_seconds = None;
    vec![
        json!({"env": envs, "volumeMounts": [mount, another], "securityContext": context}),
        json!({"livenessProbe": exec, "readinessProbe": grpc}),
        json!({"livenessProbe": http, "readinessProbe": tcp}),
        // Newer than the types of these tests.
        json!({"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "a.env", "key": "A", "optional": true}}}]}),
    ]
}

fn probes() -> [Probe; 4] {
    let none = || Probe {
        exec: None,
        failure_threshold: Some(3),
        grpc: None,
        http_get: None,
        initial_delay_seconds: Some(0),
        period_seconds: Some(10),
        success_threshold: Some(1),
        tcp_socket: None,
        termination_grace_period_seconds: Some(60),
        timeout_seconds: Some(2),
    };
    let text = |text: &str| Some(text.to_owned());
    [
        Probe {
            exec: Some(ExecAction {
                command: Some(vec!["tailscale".to_owned(), "status".to_owned()]),
            }),
            ..none()
        },
        Probe {
            grpc: Some(GRPCAction {
                port: 9002,
                service: text("health"),
            }),
            ..none()
        },
        Probe {
            http_get: Some(HTTPGetAction {
                host: text(""),
                http_headers: Some(vec![HTTPHeader {
                    name: "a".to_owned(),
                    value: "b".to_owned(),
                }]),
                path: text("/healthz"),
                port: IntOrString::Int(9002),
                scheme: text("HTTP"),
            }),
            ..none()
        },
        Probe {
            tcp_socket: Some(TCPSocketAction {
                host: text(""),
                port: IntOrString::String("health".to_owned()),
            }),
            ..none()
        },
    ]
}

#[test]
fn takes_every_field_that_kubernetes_has() {
    for given in whole() {
        let overlay = read(&given).unwrap_or_else(|error| panic!("{error}: {given}"));
        let taken = [
            ("env", Some(Value::Array(overlay.env))),
            ("volumeMounts", Some(Value::Array(overlay.volume_mounts))),
            ("livenessProbe", overlay.liveness_probe),
            ("readinessProbe", overlay.readiness_probe),
            ("securityContext", overlay.security_context),
        ];
        for (key, taken) in taken {
            if let Some(given) = given.get(key) {
                assert_eq!(taken.as_ref(), Some(given), "{key}");
            }
        }
    }
}

#[test]
fn refuses_a_field_that_kubernetes_does_not_have_at_each_level() {
    let mut levels = 0;
    for given in whole() {
        let mut pointers = Vec::new();
        maps(&given, String::new(), &mut pointers);
        for pointer in pointers {
            let mut wrong = given.clone();
            wrong.pointer_mut(&pointer).unwrap()["unheard"] = Value::Null;
            let path = format!("{pointer}/unheard is unknown: want one of ");
            let error = read(&wrong).unwrap_err();
            let said = error.replace(['.', '['], "/").replace(']', "");
            assert!(
                said.starts_with(&format!("profiles/default/containerOverride{path}")),
                "{path}: {error}"
            );
            levels += 1;
        }
    }
    assert_eq!(levels, 34);
}

/// Collects the JSON pointers of all maps.
fn maps(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                maps(value, format!("{pointer}/{name}"), found);
            }
            found.push(pointer);
        }
        Value::Array(list) => {
            for (n, value) in list.iter().enumerate() {
                maps(value, format!("{pointer}/{n}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn names_the_path_of_each_mistake() {
    let from = |source: Value| json!({"env": [{"name": "B", "value": "b"}, {"name": "A", "valueFrom": source}]});
    let probe = |probe: Value| json!({"livenessProbe": probe});
    let table = [
        (
            json!({"env": [{"name": "A", "valu": "x"}]}),
            "env[0].valu is unknown: want one of name, value, valueFrom; did you mean value?",
        ),
        (
            json!({"volumeMounts": [{"name": "a", "mountPath": "/x", "readonly": true}]}),
            "volumeMounts[0].readonly is unknown: want one of name, mountPath, subPath, subPathExpr, readOnly, recursiveReadOnly, mountPropagation; did you mean readOnly?",
        ),
        (
            json!({"securityContext": {"rulAsUser": 2000}}),
            "securityContext.rulAsUser is unknown: want one of allowPrivilegeEscalation, appArmorProfile, capabilities, privileged, procMount, readOnlyRootFilesystem, runAsGroup, runAsNonRoot, runAsUser, seLinuxOptions, seccompProfile, windowsOptions; did you mean runAsUser?",
        ),
        (
            from(json!({"secretKeyRef": {"name": "a", "key": "b", "optionl": true}})),
            "env[1].valueFrom.secretKeyRef.optionl is unknown: want one of name, key, optional; did you mean optional?",
        ),
        (
            from(json!({"secretKeyRef": {"name": "a"}})),
            "env[1].valueFrom.secretKeyRef.key is missing: want a string, in quotes if YAML reads it as something else",
        ),
        (
            from(json!({"fieldRef": {"fieldPath": true}})),
            "env[1].valueFrom.fieldRef.fieldPath is \"true\": want a string, in quotes if YAML reads it as something else",
        ),
        (
            from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "one"}})),
            "env[1].valueFrom.resourceFieldRef.divisor is \"one\": want a quantity such as 1Mi",
        ),
        (
            from(json!({"secretKeyRef": null})),
            "env[1].valueFrom is \"\": want exactly one of configMapKeyRef, fieldRef, fileKeyRef, resourceFieldRef, secretKeyRef",
        ),
        (
            from(json!("secret")),
            "env[1].valueFrom is \"secret\": want a map",
        ),
        (json!({"env": [null]}), "env[0] is \"null\": want a map"),
        (
            probe(json!({"httpGet": {"prot": 80}})),
            "livenessProbe.httpGet.prot is unknown: want one of port, path, scheme, host, httpHeaders; did you mean port?",
        ),
        (
            probe(json!({"httpGet": {"path": "/"}})),
            "livenessProbe.httpGet.port is missing: want a port from 1 to 65535, or the name of one",
        ),
        (
            probe(json!({"httpGet": {"port": 65536}})),
            "livenessProbe.httpGet.port is \"65536\": want a port from 1 to 65535, or the name of one",
        ),
        (
            probe(json!({"grpc": {"port": "health"}})),
            "livenessProbe.grpc.port is \"health\": want a port from 1 to 65535",
        ),
        (
            probe(json!({"httpGet": {"port": 80, "httpHeaders": {"a": "b"}}})),
            "livenessProbe.httpGet.httpHeaders is \"{\\\"a\\\":\\\"b\\\"}\": want a list",
        ),
        (
            probe(json!({"exec": {"command": ["sleep", 1]}})),
            "livenessProbe.exec.command[1] is \"1\": want a string, in quotes if YAML reads it as something else",
        ),
        (
            probe(json!({"tcpSocket": {"port": 80}, "periodSeconds": 4_294_967_296_u64})),
            "livenessProbe.periodSeconds is \"4294967296\": want a whole number from 0 to 2147483647",
        ),
        (
            probe(json!({"tcpSocket": {"port": 80}, "periodSeconds": 1.5})),
            "livenessProbe.periodSeconds is \"1.5\": want a whole number from 0 to 2147483647",
        ),
        (
            probe(json!({"periodSeconds": 5})),
            "livenessProbe is \"\": want exactly one of exec, grpc, httpGet, tcpSocket",
        ),
        (
            probe(json!({"exec": {"command": ["true"]}, "tcpSocket": {"port": 80}})),
            "livenessProbe is \"exec, tcpSocket\": want exactly one of exec, grpc, httpGet, tcpSocket",
        ),
        (
            probe(json!({"httpGet": {"port": 80, "host": "10.0.0.1"}})),
            "livenessProbe.httpGet.host is \"10.0.0.1\": want none, as Pod Security's level restricted does",
        ),
        (
            probe(json!({"tcpSocket": {"port": 80}, "successThreshold": 2})),
            "livenessProbe.successThreshold is \"2\": want 1, as Kubernetes does",
        ),
        (
            probe(json!({"tcpSocket": {"port": 80}, "terminationGracePeriodSeconds": 0})),
            "livenessProbe.terminationGracePeriodSeconds is \"0\": want a number above 0, as Kubernetes does",
        ),
        (
            json!({"readinessProbe": {"tcpSocket": {"port": 80}, "terminationGracePeriodSeconds": 5}}),
            "readinessProbe.terminationGracePeriodSeconds is \"5\": want none, as Kubernetes does",
        ),
        (
            json!({"readinessProbe": {"tcpSocket": {"port": 80, "host": "localhost"}}}),
            "readinessProbe.tcpSocket.host is \"localhost\": want none, as Pod Security's level restricted does",
        ),
        (
            json!({"volumeMounts": [{"name": "a", "mountPath": "/a", "subPath": "b", "subPathExpr": "$(POD_NAME)"}]}),
            "volumeMounts is \"/a\": want subPath or subPathExpr, not both",
        ),
        (
            json!({"volumeMounts": [{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/a"}]}),
            "volumeMounts is \"/a\": want each mountPath once",
        ),
        (
            json!({"readinessProbe": []}),
            "readinessProbe is \"[]\": want a map",
        ),
        (
            json!({"securityContext": {"capabilities": {"drp": ["ALL"]}}}),
            "securityContext.capabilities.drp is unknown: want one of add, drop; did you mean drop?",
        ),
        (
            json!({"securityContext": {"readOnlyRootFilesystem": "no"}}),
            "securityContext.readOnlyRootFilesystem is \"no\": want true or false",
        ),
        (
            json!({"securityContext": {"seccompProfile": {}}}),
            "securityContext.seccompProfile.type is missing: want a string, in quotes if YAML reads it as something else",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"level": "s0"}}}),
            "securityContext is \"{\\\"level\\\":\\\"s0\\\"}\": seLinuxOptions: want none, as Pod Security's level restricted does",
        ),
    ];
    for (given, want) in table {
        let want = format!("profiles.default.containerOverride.{want}");
        assert_eq!(read(&given).unwrap_err(), want, "{given}");
    }
}

#[test]
fn refuses_what_the_level_restricted_does() {
    let drop = "capabilities: want drop: [ALL], and at most NET_BIND_SERVICE in add";
    let table = [
        (
            json!({"allowPrivilegeEscalation": true}),
            "allowPrivilegeEscalation: want false",
        ),
        // Null removes our value, and Kubernetes' own default is true.
        (
            json!({"allowPrivilegeEscalation": null}),
            "allowPrivilegeEscalation: want false",
        ),
        (json!({"privileged": true}), "privileged: want false"),
        (json!({"runAsNonRoot": false}), "runAsNonRoot: want true"),
        (json!({"runAsNonRoot": null}), "runAsNonRoot: want true"),
        (json!({"runAsUser": 0}), "runAsUser: want a number above 0"),
        (
            json!({"runAsUser": null}),
            "runAsUser: want a number above 0",
        ),
        (json!({"capabilities": null}), drop),
        (json!({"capabilities": {}}), drop),
        (json!({"capabilities": {"drop": ["NET_RAW"]}}), drop),
        (
            json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "NET_ADMIN"]}}),
            drop,
        ),
        (
            json!({"seccompProfile": {"type": "Unconfined"}}),
            "seccompProfile: want type RuntimeDefault, or Localhost with a localhostProfile",
        ),
        (
            json!({"seccompProfile": {"type": "Localhost"}}),
            "seccompProfile: want type RuntimeDefault, or Localhost with a localhostProfile",
        ),
        (
            json!({"seccompProfile": {"type": "RuntimeDefault", "localhostProfile": "a.json"}}),
            "seccompProfile: want type RuntimeDefault, or Localhost with a localhostProfile",
        ),
        (
            json!({"seccompProfile": null}),
            "seccompProfile: want type RuntimeDefault, or Localhost with a localhostProfile",
        ),
        (json!({"procMount": "Unmasked"}), "procMount: want none"),
        (
            json!({"seLinuxOptions": {"type": "spc_t"}}),
            "seLinuxOptions: want none",
        ),
        (
            json!({"windowsOptions": {"hostProcess": true}}),
            "windowsOptions: want none",
        ),
        (
            json!({"appArmorProfile": {"type": "Unconfined"}}),
            "appArmorProfile: want none",
        ),
    ];
    for (context, want) in table {
        let error = read(&json!({"securityContext": context})).unwrap_err();
        assert!(
            error.starts_with("profiles.default.containerOverride.securityContext is "),
            "{error}"
        );
        let want = format!(": {want}, as Pod Security's level restricted does");
        assert!(error.ends_with(&want), "{error}");
    }
}

#[test]
fn writes_no_null_and_a_quantity_as_a_text() {
    let source =
        json!({"fieldRef": null, "resourceFieldRef": {"resource": "limits.cpu", "divisor": 1}});
    let overlay = read(&json!({
        "env": [{"name": "A", "value": null, "valueFrom": source}],
        "volumeMounts": [{"name": "a", "mountPath": "/a", "subPath": null}],
        "livenessProbe": {"tcpSocket": {"port": 80, "host": null}},
        "readinessProbe": null,
        "securityContext": {"runAsGroup": null, "capabilities": {"drop": ["ALL"], "add": null}},
    }));
    let overlay = overlay.unwrap();
    let divided = json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}});
    assert_eq!(overlay.env, [json!({"name": "A", "valueFrom": divided})]);
    assert_eq!(
        overlay.volume_mounts,
        [json!({"name": "a", "mountPath": "/a"})]
    );
    assert_eq!(
        overlay.liveness_probe,
        Some(json!({"tcpSocket": {"port": 80}}))
    );
    assert_eq!(overlay.readiness_probe, None);
    let context = overlay.security_context.unwrap();
    assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(context.get("runAsGroup"), None, "{context}");
}
