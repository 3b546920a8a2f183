//! Accepted configuration files, and the error of each mistake.

#![allow(clippy::panic, clippy::too_many_lines, clippy::unwrap_used)]

use std::time::Duration;

use sidescale_webhook::profile::{Config, HostnameOwner, OnLost, Policy, Rotation, UserPolicy};

const PLANE: &str = "controlPlanes: {default: {loginServer: 'https://hs.example.com'}}\n";

fn read(text: &str) -> Result<Policy, String> {
    let config: Config = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    Policy::from_config(config).map_err(|error| error.to_string())
}

#[test]
fn fills_every_gap_of_the_shortest_file() {
    let policy = read(PLANE).unwrap();
    let plane = &policy.control_planes["default"];
    assert_eq!(plane.api_url, "https://hs.example.com");
    assert_eq!(
        (&*plane.api_key_namespace, &*plane.api_key_secret),
        ("headscale", "headscale-api-key")
    );
    let profile = &policy.profiles["default"];
    assert_eq!(profile.hash.len(), 12);
    assert_eq!(profile.default_of("auth-key-expiration"), None);
    assert_eq!(
        policy.image,
        concat!("sidescale:", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(policy.rotation.overlap, Duration::from_secs(3600));
    assert_eq!(profile.max_auth_key_expiration, hours(8760));
    assert_eq!(
        (policy.installation, policy.former_installations),
        (None, vec![])
    );
    assert!(policy.reserved_hostnames.is_empty());
    // A file and a test without one use the same numbers.
    let usual = format!("{:?}", Rotation::default());
    assert_eq!(format!("{:?}", policy.rotation), usual);
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

#[test]
fn reads_every_number_of_rotation() {
    let policy = read(&format!(
        "{PLANE}rotation: {{maxServicesPerNamespace: 10, minAuthKeyExpiration: 30s, minPodAuthKeyExpiration: 40s, \
         minAuthKeyRenewalGap: 5s, keysPerService: 1, keysPerServicePerHour: 2, podKeysPerNamespace: 3, \
         podKeysPerNamespacePerHour: 4, maxControlPlaneRows: 5}}"
    ))
    .unwrap();
    let rotation = policy.rotation;
    let lives = [
        rotation.min_auth_key_expiration,
        rotation.min_pod_auth_key_expiration,
        rotation.min_auth_key_renewal_gap,
    ];
    assert_eq!(lives.map(|life| life.as_secs()), [30, 40, 5]);
    let counts = [
        rotation.keys_per_service,
        rotation.keys_per_service_per_hour,
        rotation.pod_keys_per_namespace,
        rotation.pod_keys_per_namespace_per_hour,
        rotation.max_control_plane_rows,
        rotation.new_keys_per_namespace,
        rotation.new_keys_per_namespace_per_hour,
    ];
    assert_eq!(counts, [1, 2, 3, 4, 5, 30, 10]);
    let own = format!("{PLANE}rotation: {{newKeysPerNamespace: 7, newKeysPerNamespacePerHour: 8}}");
    let rotation = read(&own).unwrap().rotation;
    let own = (
        rotation.new_keys_per_namespace,
        rotation.new_keys_per_namespace_per_hour,
    );
    assert_eq!(own, (7, 8));
}

#[test]
fn reads_whose_users_are_ours_and_whose_a_hostname_is() {
    let policy = read(&format!(
        "{PLANE}installation: prod-1\nformerInstallations: [old, 1f0c2b7e-6d3a-4f11 sidescale]\nreservedHostnames: {{vault: prod/vault.v2}}"
    ))
    .unwrap();
    assert_eq!(policy.installation.as_deref(), Some("prod-1"));
    assert_eq!(
        policy.former_installations,
        ["old", "1f0c2b7e-6d3a-4f11 sidescale"]
    );
    let owner = HostnameOwner {
        namespace: "prod".to_owned(),
        service: "vault.v2".to_owned(),
    };
    assert_eq!(policy.reserved_hostnames["vault"], owner);
}

#[test]
fn reads_every_key() {
    let policy = read(
        "controlPlanes:
  default:
    loginServer: http://hs.example.com/
    apiUrl: http://headscale.headscale.svc:8080
    allowInsecure: true
    apiKeySecret: {namespace: net, name: key, key: token}
    userTemplate: 'k8s-{namespace}.{service}'
    adoptUsers: [shop.api]
    caBundle: |
      -----BEGIN CERTIFICATE-----
      -----END CERTIFICATE-----
profiles:
  default:
    image: example.com/tailscale:v1
    allowedTags: ['tag:web']
    allowedImages: ['registry.example.com/tailscale:*', 'registry.example.com/team/*', 'example.com/ts@*', 'example.com/ts:v1']
    allowedExtraArgs: [--ssh, shields-up]
    authKeySecretName: keys
    annotations:
      hostname: '{service}-{namespace}'
      tags: tag:k8s
      reusable: false
      auth-key-expiration: 30d
      auth-key-rotation-buffer: 12h
      auth-key-delivery: file
      wait: true
      cpu-limit: 0.5
      state: emptydir
      socket-path: /run/hs/hs.sock
webhook: {image: 'registry.example.com/sidescale:v1'}
rotation: {overlap: 30m, paused: true, maxServicesPerNamespace: 5, onLost: evict, users: never, orphanedKeysAfter: 1h}
",
    )
    .unwrap();
    let plane = &policy.control_planes["default"];
    assert_eq!(
        (&*plane.login_server, &*plane.api_url),
        (
            "http://hs.example.com",
            "http://headscale.headscale.svc:8080"
        )
    );
    let secret = (&*plane.api_key_namespace, &*plane.api_key_secret);
    assert_eq!(
        (secret, &*plane.api_key_data_key),
        (("net", "key"), "token")
    );
    let profile = &policy.profiles["default"];
    let defaults = [
        ("hostname", "{service}-{namespace}"),
        ("auth-key-expiration", "30d"),
        ("auth-key-delivery", "file"),
        ("reusable", "false"),
        ("cpu-limit", "0.5"),
        ("socket-path", "/run/hs/hs.sock"),
    ];
    for (name, text) in defaults {
        assert_eq!(profile.default_of(name), Some(text), "{name}");
    }
    assert_eq!(policy.image, "registry.example.com/sidescale:v1");
    assert!(policy.rotation.paused);
    assert_eq!(policy.rotation.on_lost, OnLost::Evict);
    assert_eq!(policy.rotation.users, UserPolicy::Never);
    assert_eq!(
        policy.rotation.orphaned_keys_after,
        Duration::from_secs(3600)
    );
}

#[test]
fn users_of_a_named_cluster_begin_with_its_name_unless_a_template_says_where_it_stands() {
    for (plane, want) in [
        ("loginServer: hs", "prod.{namespace}.{service}"),
        (
            "loginServer: hs, userTemplate: '{namespace}.{cluster}.{service}'",
            "{namespace}.prod.{service}",
        ),
        (
            "loginServer: hs, userTemplate: '{service}@{namespace}'",
            "{service}@{namespace}",
        ),
    ] {
        let policy = read(&format!(
            "{{clusterName: prod, controlPlanes: {{default: {{{plane}}}}}}}"
        ))
        .unwrap();
        assert_eq!(policy.control_planes["default"].user_template, want);
    }
}

#[test]
fn names_key_value_and_accepted_form_of_each_mistake() {
    let with = |rest: &str| format!("{PLANE}{rest}");
    let profile = |rest: &str| with(&format!("profiles: {{default: {{{rest}}}}}"));
    let plane = |rest: &str| format!("controlPlanes: {{default: {{{rest}}}}}");
    let table = [
        (
            "{}".to_owned(),
            "controlPlanes.default.loginServer is missing: want the URL that sidecars log in to, such as https://headscale.example.com",
        ),
        (
            with("profile: {}"),
            "profile is unknown: want one of clusterName, controlPlanes, formerInstallations, installation, profiles, reservedHostnames, rotation, webhook; did you mean profiles?",
        ),
        (
            with("clusterName: a.b"),
            "clusterName is \"a.b\": want lower-case letters, digits and dashes",
        ),
        (
            plane("loginServer: 'https://hs', userTemplate: '{cluster}.{namespace}.{service}'"),
            "controlPlanes.default.userTemplate is \"{cluster}.{namespace}.{service}\": {cluster} refers to clusterName, which is not set",
        ),
        (
            profile("allowedTag: []"),
            "profiles.default.allowedTag is unknown: want one of allowedExtraArgs, allowedImages, allowedTags, annotations, authKeySecretName, containerOverride, image, imagePullSecrets, maxAuthKeyExpiration, namespaces, onInvalid, podSelector; did you mean allowedTags?",
        ),
        (
            with("profiles: {DB: {}}"),
            "profiles is \"DB\": want a name of lower-case letters, digits and dashes, at most 40 characters",
        ),
        (
            "controlPlanes: {default: {loginServer: 'https://hs'}, lab: {}}".to_owned(),
            "controlPlanes.lab.loginServer is missing: want the URL that sidecars log in to, such as https://headscale.example.com",
        ),
        (
            profile("namespaces: [Shop]"),
            "profiles.default.namespaces is \"Shop\": want names of namespaces",
        ),
        (
            profile("podSelector: {matchLabel: {a: b}}"),
            "profiles.default.podSelector.matchLabel is unknown: want one of matchExpressions, matchLabels; did you mean matchLabels?",
        ),
        (
            profile("namespaces: {matchExpressions: [{ky: a}], matchLabel: {a: b}}"),
            "profiles.default.namespaces.matchExpressions.ky is unknown: want one of key, operator, values; did you mean key?",
        ),
        (
            plane("namespaces: {matchLabel: {a: b}}, loginServr: a"),
            "controlPlanes.default.namespaces.matchLabel is unknown: want one of matchExpressions, matchLabels; did you mean matchLabels?",
        ),
        (
            plane("loginServr: {a: b}"),
            "controlPlanes.default.loginServr is unknown: want one of adoptUsers, allowInsecure, apiKeySecret, apiUrl, caBundle, loginServer, namespaces, userTemplate; did you mean loginServer?",
        ),
        (
            with("rotation: {overlp: 1h, onLost: delete}"),
            "rotation.overlp is unknown: want one of keysPerService, keysPerServicePerHour, maxControlPlaneRows, maxServicesPerNamespace, minAuthKeyExpiration, minAuthKeyRenewalGap, minPodAuthKeyExpiration, newKeysPerNamespace, newKeysPerNamespacePerHour, onLost, orphanedKeysAfter, overlap, paused, podKeysPerNamespace, podKeysPerNamespacePerHour, unusedKeysAfter, unusedUsersAfter, users, wakePods; did you mean overlap?",
        ),
        (
            with("webhook: {immage: a, inject: false}"),
            "webhook.immage is unknown: want one of image, inject; did you mean image?",
        ),
        (
            profile("podSelector: {matchExpressions: [{key: a, operator: Is, values: [b]}]}"),
            "profiles.default.podSelector.matchExpressions.operator is \"Is\": want In, NotIn, Exists or DoesNotExist",
        ),
        (
            profile("podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}"),
            "profiles.default.podSelector.matchExpressions.values is \"b\": want values with In and NotIn, and with no other operator",
        ),
        (
            profile("containerOverride: {resources: {}}"),
            "profiles.default.containerOverride.resources is unknown: want one of env, livenessProbe, readinessProbe, securityContext, volumeMounts",
        ),
        (
            profile("containerOverride: {env: [{name: TS_AUTHKEY, value: x}]}"),
            "profiles.default.containerOverride.env is \"TS_AUTHKEY\": want variables whose names Sidescale does not use itself",
        ),
        (
            profile("containerOverride: {env: [{name: A}]}"),
            "profiles.default.containerOverride.env is \"A\": want a string as value, or valueFrom",
        ),
        (
            profile("containerOverride: {volumeMounts: [{name: sidescale-state, mountPath: /x}]}"),
            "profiles.default.containerOverride.volumeMounts is \"sidescale-state\": want names of the pod's volumes that do not begin with sidescale-",
        ),
        (
            profile("containerOverride: {volumeMounts: [{name: a, mountPath: /tmp/x}]}"),
            "profiles.default.containerOverride.volumeMounts is \"/tmp/x\": want an absolute mountPath outside the sidecar's own directories",
        ),
        (
            profile("containerOverride: {securityContext: {runAsUser: 0}}"),
            "profiles.default.containerOverride.securityContext is \"0\": runAsUser: want a number above 0, as Pod Security's level restricted does",
        ),
        (
            profile("containerOverride: {securityContext: {privileged: true}}"),
            "profiles.default.containerOverride.securityContext is \"true\": privileged: want false, as Pod Security's level restricted does",
        ),
        (
            profile(
                "containerOverride: {securityContext: {capabilities: {drop: [ALL], add: [NET_ADMIN]}}}",
            ),
            "profiles.default.containerOverride.securityContext is \"{\\\"add\\\":[\\\"NET_ADMIN\\\"],\\\"drop\\\":[\\\"ALL\\\"]}\": capabilities: want drop: [ALL], and at most NET_BIND_SERVICE in add, as Pod Security's level restricted does",
        ),
        (
            profile("onInvalid: ignore"),
            "profiles.default.onInvalid is \"ignore\": want deny or warn",
        ),
        (
            profile("imagePullSecrets: ['A B']"),
            "profiles.default.imagePullSecrets is \"A B\": want names of Secrets",
        ),
        (
            profile("allowKernelMode: true"),
            "profiles.default.allowKernelMode is not supported yet: remove it",
        ),
        (
            profile("allowedTags: [web]"),
            "profiles.default.allowedTags is \"web\": want tags such as tag:web, in lower case",
        ),
        (
            profile("annotations: {wait: 'soon'}"),
            "profiles.default.annotations.wait is \"soon\": want true or false",
        ),
        (
            profile("annotations: {exit-node: true}"),
            "profiles.default.annotations.exit-node is not supported yet: remove it",
        ),
        (
            profile("annotations: {extra-args: --ssh}"),
            "profiles.default.annotations.extra-args is \"--ssh\": --ssh is not allowed; the profile allows none: remove the annotation, or ask the operator to add it to profiles.default.allowedExtraArgs",
        ),
        (
            profile("annotations: {ephemeral: 'false'}"),
            "profiles.default.annotations.ephemeral is \"false\": without stored state, every pod would leave a node behind: want true, or state volume:<name> in a StatefulSet",
        ),
        (
            profile("allowedExtraArgs: [--login-server]"),
            "profiles.default.allowedExtraArgs is \"--login-server\": it would override what Sidescale sets: set sidescale.io/control-plane",
        ),
        (
            profile("allowedExtraArgs: [--ssh=true]"),
            "profiles.default.allowedExtraArgs is \"--ssh=true\": want names of arguments of tailscale up, such as --shields-up",
        ),
        (
            profile("allowedImages: ['*']"),
            "profiles.default.allowedImages is \"*\": want an image such as docker.io/tailscale/tailscale:v1.102.3, or a prefix of one that ends with /*, :* or @*, such as registry.example.com/tailscale:*",
        ),
        (
            profile("allowedImages: ['registry.example.com*']"),
            "profiles.default.allowedImages is \"registry.example.com*\": want an image such as docker.io/tailscale/tailscale:v1.102.3, or a prefix of one that ends with /*, :* or @*, such as registry.example.com/tailscale:*",
        ),
        (
            profile("allowedImages: ['registry.example.com/tailscale*']"),
            "profiles.default.allowedImages is \"registry.example.com/tailscale*\": want an image such as docker.io/tailscale/tailscale:v1.102.3, or a prefix of one that ends with /*, :* or @*, such as registry.example.com/tailscale:*",
        ),
        (
            profile("allowedImages: ['registry.example.com/tailscale:v1*']"),
            "profiles.default.allowedImages is \"registry.example.com/tailscale:v1*\": want an image such as docker.io/tailscale/tailscale:v1.102.3, or a prefix of one that ends with /*, :* or @*, such as registry.example.com/tailscale:*",
        ),
        (
            profile("allowedImages: ['a/*/b']"),
            "profiles.default.allowedImages is \"a/*/b\": want an image such as docker.io/tailscale/tailscale:v1.102.3, or a prefix of one that ends with /*, :* or @*, such as registry.example.com/tailscale:*",
        ),
        (
            profile("allowedImages: ['a/**']"),
            "profiles.default.allowedImages is \"a/**\": want an image such as docker.io/tailscale/tailscale:v1.102.3, or a prefix of one that ends with /*, :* or @*, such as registry.example.com/tailscale:*",
        ),
        (
            profile("annotations: {inject: tailscale}"),
            "profiles.default.annotations.inject is \"tailscale\": a profile cannot set this: set it on the pod",
        ),
        (
            profile("annotations: {auth-key-expiration: 5 weeks}"),
            "profiles.default.annotations.auth-key-expiration is \"5 weeks\": want a duration such as 90m, 12h or 30d",
        ),
        (
            profile("annotations: {auth-key-expiration: 9d}"),
            "profiles.default.annotations.auth-key-expiration is \"9d\": too short for the rotation buffer of 240h: set \"sidescale.io/auth-key-rotation-buffer\" to at most 215h",
        ),
        (
            profile("annotations: {memory-request: 1Gi}"),
            "profiles.default.annotations.memory-request is \"1Gi\": want no more than the limit, which is 256Mi",
        ),
        (
            profile("annotations: {control-plane: other}"),
            "profiles.default.annotations.control-plane is \"other\": want one of the configured control planes: default",
        ),
        (
            profile("annotations: {socket-path: a}"),
            "profiles.default.annotations.socket-path is \"a\": want an absolute path inside a directory, of letters, digits, dots, dashes and underscores, at most 107 characters, such as /var/run/headscale/headscale.sock",
        ),
        (
            with("webhook: {image: ''}"),
            "webhook.image is \"\": want an image such as sidescale:0.1.0",
        ),
        (
            plane("loginServer: 'ftp://hs.example.com'"),
            "controlPlanes.default.loginServer is \"ftp://hs.example.com\": want a URL such as https://headscale.example.com",
        ),
        (
            plane("loginServer: 'https://a b'"),
            "controlPlanes.default.loginServer is \"https://a b\": want a URL such as https://headscale.example.com",
        ),
        (
            plane("loginServer: 'http://hs'"),
            "controlPlanes.default.loginServer is \"http://hs\": the API key would be sent unencrypted: want https://, or allowInsecure: true next to it",
        ),
        (
            plane("loginServer: 'https://hs', userTemplate: '{namespace}-{service}'"),
            "controlPlanes.default.userTemplate is \"{namespace}-{service}\": want {namespace} and {service} once each, with a dot, _ or @ between them, {cluster} if clusterName is set, and otherwise only letters, digits, dashes and dots",
        ),
        (
            plane("loginServer: 'https://hs', apiKeySecret: {nam: x}"),
            "controlPlanes.default.apiKeySecret.nam is unknown: want one of key, name, namespace; did you mean name?",
        ),
        (
            plane("loginServer: 'https://hs', apiKeySecret: {key: a/b}"),
            "controlPlanes.default.apiKeySecret.key is \"a/b\": want the data key of a Secret: letters, digits, dashes, dots and _",
        ),
        (
            "controlPlanes: {default: {loginServer: 'https://hs'}, lab: {loginServer: 'https://lab', apiKeySecret: {key: lab}}}".to_owned(),
            "controlPlanes.lab.apiKeySecret.key is \"lab\": control plane default has its key under \"api-key\" of the same Secret headscale/headscale-api-key: want a separate Secret for each",
        ),
        (
            with("rotation: {overlap: soon}"),
            "rotation.overlap is \"soon\": want a duration such as 90m, 12h or 30d",
        ),
        (
            with("rotation: {orphanedKeysAfter: 1m}"),
            "rotation.orphanedKeysAfter is \"1m\": want at least 5m",
        ),
        (
            with("rotation: {unusedKeysAfter: 1m}"),
            "rotation.unusedKeysAfter is \"1m\": want at least 1h",
        ),
        (
            with("rotation: {unusedUsersAfter: never}"),
            "rotation.unusedUsersAfter is \"never\": want a duration such as 90m, 12h or 30d",
        ),
        (
            with("rotation: {onLost: delete}"),
            "rotation.onLost is \"delete\": want report, or evict",
        ),
        (
            with("rotation: {users: ask}"),
            "rotation.users is \"ask\": want manage, or never",
        ),
        (
            with(&format!("clusterName: hskey-auth-gcA5aTk6X1vK-{}", "s".repeat(64))),
            "clusterName is \"hskey-<redacted>\": want lower-case letters, digits and dashes",
        ),
        (
            with("installation: a/b"),
            "installation is \"a/b\": want letters, digits, dashes, dots and _, in one word or two words separated by a space, at most 128 characters, such as prod-1",
        ),
        (
            with("formerInstallations: [a, 'a b c']"),
            "formerInstallations is \"a b c\": want letters, digits, dashes, dots and _, in one word or two words separated by a space, at most 128 characters, such as prod-1",
        ),
        (
            with("reservedHostnames: {vault.a: prod/vault}"),
            "reservedHostnames is \"vault.a\": want a hostname of lower-case letters, digits and dashes, at most 63 characters, such as vault",
        ),
        (
            with("reservedHostnames: {vault: vault}"),
            "reservedHostnames.vault is \"vault\": want <namespace>/<service>, such as prod/vault",
        ),
        (
            profile("maxAuthKeyExpiration: 1y"),
            "profiles.default.maxAuthKeyExpiration is \"1y\": want a duration such as 90m, 12h or 30d",
        ),
        (
            with("rotation: {minAuthKeyExpiration: 10s}"),
            "rotation.minAuthKeyExpiration is \"10s\": want at least 30s",
        ),
        (
            with("rotation: {keysPerService: 0}"),
            "rotation.keysPerService is \"0\": want at least 1; to stop rotation, set rotation.paused",
        ),
        (
            with("rotation: {maxServicesPerNamespace: 0}"),
            "rotation.maxServicesPerNamespace is \"0\": want at least 1; to stop rotation, set rotation.paused",
        ),
    ];
    for (text, want) in table {
        assert_eq!(read(&text).unwrap_err(), want, "{text}");
    }
}

#[test]
fn names_line_and_accepted_form_of_namespaces_of_the_wrong_kind() {
    let error = read(&format!("{PLANE}profiles: {{default: {{namespaces: 5}}}}")).unwrap_err();
    let want = "expected a list of namespaces, or a selector with matchLabels and matchExpressions";
    assert!(error.contains("line 2") && error.contains(want), "{error}");
}

#[test]
fn takes_a_domain_for_its_url() {
    let text = "controlPlanes: {default: {loginServer: headscale.ozzu.world}}";
    let plane = &read(text).unwrap().control_planes["default"];
    assert_eq!(plane.login_server, "https://headscale.ozzu.world");
    assert_eq!(plane.api_url, "https://headscale.ozzu.world");
}

#[test]
fn gives_two_profiles_two_hashes() {
    let other = format!("{PLANE}profiles: {{default: {{allowedTags: ['tag:web']}}}}");
    let [a, b] = [PLANE, &other].map(|text| read(text).unwrap().profiles["default"].hash.clone());
    assert_ne!(a, b);
}

#[test]
fn tells_of_tags_that_any_pod_author_may_have_by_a_label() {
    let remarks = |profile: &str| {
        let text = format!("{PLANE}profiles: {{monitoring: {{{profile}}}}}");
        read(&text).unwrap().remarks()
    };
    let selector = "podSelector: {matchLabels: {app: prometheus}}";
    let said = "profiles.monitoring has tags and a podSelector, but no namespaces: anyone who may create a pod in an opted-in namespace can set that label and get the tags. List the namespaces that may have them in profiles.monitoring.namespaces";
    let table = [
        (
            format!("{selector}, annotations: {{tags: 'tag:monitoring'}}"),
            1,
        ),
        (format!("{selector}, allowedTags: ['tag:monitoring']"), 1),
        (format!("{selector}, annotations: {{wait: true}}"), 0),
        (
            format!("{selector}, namespaces: [monitoring], allowedTags: ['tag:monitoring']"),
            0,
        ),
        ("allowedTags: ['tag:monitoring']".to_owned(), 0),
    ];
    for (profile, count) in table {
        assert_eq!(remarks(&profile), vec![said; count], "{profile}");
    }
}
