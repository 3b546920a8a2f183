//! Pods that no API server sends, and a few that one would.

use crate::body::Text;

const MIB: usize = 1 << 20;

const ASKS: &str = r#""sidescale.io/inject":"tailscale""#;
const PROXY: &str = r#""sidescale.io/inject":"tailscale","sidescale.io/proxy":"1055","sidescale.io/proxy-env":"true""#;
const MANAGER: &str = r#""sidescale.io/inject":"apikey-manager,server-keys""#;
const STATE: &str = r#""sidescale.io/inject":"tailscale","sidescale.io/state":"volume:data""#;
const APP: &str = r#""containers":[{"name":"app","image":"app"}]"#;

/// Metadata and spec of a pod, one of which has the repeated part.
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) metadata: Text,
    pub(crate) spec: Text,
}

/// Returns metadata with these annotations.
fn annotated(annotations: &str) -> Text {
    let metadata = format!(r#"{{"name":"web","annotations":{{{annotations}}}}}"#);
    Text::new(&metadata, "", 0, "")
}

fn app() -> Text {
    Text::new(&format!("{{{APP}}}"), "", 0, "")
}

/// Returns a pod whose spec has a repeated part.
fn spec(
    name: &'static str,
    annotations: &str,
    before: &str,
    unit: &str,
    times: usize,
    after: &str,
) -> Pod {
    Pod {
        name,
        metadata: annotated(annotations),
        spec: Text::new(&format!("{{{before}"), unit, times, &format!("{after}}}")),
    }
}

/// Returns a pod whose metadata has a repeated part, after an annotation that asks for a sidecar.
fn metadata(name: &'static str, before: &str, unit: &str, times: usize, after: &str) -> Pod {
    Pod {
        name,
        metadata: Text::new(&format!("{{{before}"), unit, times, &format!("{after}}}")),
        spec: app(),
    }
}

/// Returns a list of one container that has a repeated part.
fn container(
    name: &'static str,
    annotations: &str,
    field: &str,
    unit: &str,
    times: usize,
    last: &str,
) -> Pod {
    let before = format!(r#""containers":[{{"name":"headscale","image":"app","{field}":["#);
    spec(
        name,
        annotations,
        &before,
        unit,
        times,
        &format!("{last}]}}]"),
    )
}

/// Returns all of them.
pub(crate) fn all() -> Vec<Pod> {
    let mut all = lists();
    all.extend(strings());
    all.extend(maps());
    all
}

#[expect(clippy::too_many_lines, reason = "a table of bodies")]
fn lists() -> Vec<Pod> {
    let containers = |name, annotations, times| {
        spec(name, annotations, r#""containers":["#, "{},", times, "{}]")
    };
    let of_app = |field: &str| format!(r#"{APP},"{field}":["#);
    vec![
        container(
            "env",
            PROXY,
            "env",
            r#"{"name":"a"},"#,
            110_000,
            r#"{"name":"a"}"#,
        ),
        container(
            "env of a pod that asks for nothing more",
            ASKS,
            "env",
            r#"{"name":"a"},"#,
            110_000,
            r#"{"name":"a"}"#,
        ),
        container(
            "env at 8 MiB",
            PROXY,
            "env",
            r#"{"name":"a"},"#,
            640_000,
            r#"{"name":"a"}"#,
        ),
        container(
            "ports",
            PROXY,
            "ports",
            r#"{"containerPort":1},"#,
            60_000,
            "{}",
        ),
        container(
            "words of a command",
            MANAGER,
            "command",
            r#""a","#,
            250_000,
            r#""a""#,
        ),
        container(
            "mounts",
            MANAGER,
            "volumeMounts",
            r#"{"mountPath":"/"},"#,
            60_000,
            "{}",
        ),
        container(
            "empty mounts",
            MANAGER,
            "volumeMounts",
            "{},",
            350_000,
            "{}",
        ),
        containers("containers", PROXY, 350_000),
        containers("containers of a manager's pod", MANAGER, 350_000),
        containers("containers at the bound", PROXY, 127),
        containers("containers above the bound", PROXY, 1_000),
        spec(
            "containers with an empty env at the bound",
            PROXY,
            r#""containers":["#,
            r#"{"env":[]},"#,
            127,
            r#"{"env":[]}]"#,
        ),
        spec(
            "containers with envFrom",
            PROXY,
            r#""containers":["#,
            r#"{"name":"","envFrom":[{}]},"#,
            127,
            "{}]",
        ),
        spec(
            "init containers",
            PROXY,
            &of_app("initContainers"),
            "{},",
            350_000,
            "{}]",
        ),
        spec(
            "volumes",
            STATE,
            &of_app("volumes"),
            r#"{"name":""},"#,
            90_000,
            "{}]",
        ),
        spec(
            "volumes that can be written",
            STATE,
            &of_app("volumes"),
            r#"{"name":"v#","emptyDir":{}},"#,
            30_000,
            "{}]",
        ),
        spec(
            "pull secrets",
            r#""sidescale.io/inject":"tailscale","sidescale.io/profile":"pulls""#,
            &of_app("imagePullSecrets"),
            "{},",
            350_000,
            "{}]",
        ),
        spec(
            "unknown fields",
            PROXY,
            &of_app("unknown"),
            r#"{"":0},"#,
            175_000,
            "0]",
        ),
        spec(
            "unknown fields at 8 MiB",
            PROXY,
            &of_app("unknown"),
            r#"{"":0},"#,
            1_190_000,
            "0]",
        ),
        metadata(
            "owners",
            &format!(r#""annotations":{{{ASKS}}},"ownerReferences":["#),
            r#"{"controller":true},"#,
            100_000,
            "{}]",
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table of bodies")]
fn strings() -> Vec<Pod> {
    let thousand = |unit: &str| unit.repeat(1000);
    let (plain, escapes, control, long, delete) = (
        thousand("a"),
        thousand(r"\n"),
        thousand(r"\u0001"),
        thousand(r"\u00e9"),
        thousand("\u{7f}"),
    );
    let half = 7 * MIB / 2;
    let value = |name, unit: &str, key: &str| {
        let before = format!(r#""name":"web","annotations":{{{PROXY},"{key}":""#);
        metadata(name, &before, unit, half / unit.len(), "\"}")
    };
    let field = |name, unit: &str, field: &str| {
        let before = format!(r#""annotations":{{{ASKS}}},"{field}":""#);
        metadata(name, &before, unit, half / unit.len(), "\"")
    };
    let of_spec = |name, unit: &str, before: &str, after: &str| {
        spec(name, PROXY, before, unit, half / unit.len(), after)
    };
    let key = |unit: &str| {
        let before = format!(r#""annotations":{{{ASKS}}},""#);
        metadata("an escaped key", &before, unit, half / unit.len(), "\":0")
    };
    let nested = |open: &str, close: &str| {
        let times = half / 2 / open.len();
        let before = format!(r#"{APP},"unknown":"#);
        (times, before, close.repeat(times))
    };
    let (lists, before, closed) = nested("[", "]");
    let deep = spec("deep lists", PROXY, &before, "[", lists, &closed);
    let (_, before, _) = nested("[", "]");
    let open = spec("deep lists without an end", PROXY, &before, "[", half, "");
    let objects = spec(
        "deep objects without an end",
        PROXY,
        &before,
        r#"{"a":"#,
        half / 5,
        "",
    );
    vec![
        deep,
        open,
        objects,
        spec(
            "deep containers",
            PROXY,
            r#""containers":"#,
            "[",
            100_000,
            "",
        ),
        value("a string of another's annotation", &plain, "x"),
        value("a string of an annotation", &plain, "sidescale.io/service"),
        value("escapes of an annotation", &escapes, "sidescale.io/service"),
        value(
            "escaped controls of an annotation",
            &control,
            "sidescale.io/service",
        ),
        value(
            "escaped letters of an annotation",
            &long,
            "sidescale.io/service",
        ),
        value(
            "a string for the autoscaler",
            &plain,
            "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
        ),
        value(
            "escapes for the autoscaler",
            &control,
            "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes",
        ),
        value("a string of the receipt", &escapes, "sidescale.io/status"),
        field("a pod's name", &plain, "name"),
        field("a pod's name of controls", &delete, "name"),
        field("a pod's name of escapes", &escapes, "generateName"),
        field("text where labels belong", &delete, "labels"),
        field("escapes where labels belong", &control, "labels"),
        key(&escapes),
        of_spec(
            "text where containers belong",
            &delete,
            r#""containers":""#,
            "\"",
        ),
        of_spec(
            "text where a switch belongs",
            &delete,
            &format!(r#"{APP},"hostNetwork":""#),
            "\"",
        ),
        of_spec(
            "a container's name",
            &delete,
            r#""containers":[{"name":""#,
            r#""},{"name":"b"}]"#,
        ),
        of_spec(
            "a container's name of escapes",
            &control,
            r#""containers":[{"name":""#,
            r#""}]"#,
        ),
        of_spec(
            "a port's name",
            &escapes,
            r#""containers":[{"ports":[{"containerPort":""#,
            r#""}]}]"#,
        ),
        of_spec(
            "a quantity",
            &plain,
            r#""containers":[{"resources":{"limits":{"cpu":""#,
            r#""}}}]"#,
        ),
        of_spec(
            "a variable",
            &plain,
            r#""containers":[{"name":"app","env":[{"name":"A","value":""#,
            r#""}]}]"#,
        ),
        of_spec(
            "a volume's name",
            &escapes,
            &format!(r#"{APP},"volumes":[{{"name":""#),
            r#""}]"#,
        ),
        of_spec(
            "a number",
            &thousand("1"),
            &format!(r#"{APP},"hostNetwork":"#),
            "",
        ),
    ]
}

fn maps() -> Vec<Pod> {
    let annotations = |name, unit: &str, times| {
        metadata(
            name,
            &format!(r#""name":"web","annotations":{{{ASKS}"#),
            unit,
            times,
            "}",
        )
    };
    let labels = |name, unit: &str, times| {
        let before = format!(r#""name":"web","annotations":{{{ASKS}}},"labels":{{"app":"web""#);
        metadata(name, &before, unit, times, "}")
    };
    vec![
        annotations("annotations of others", r#","a#":"""#, 60_000),
        annotations(
            "annotations under our prefix",
            r#","sidescale.io/a#":"""#,
            60_000,
        ),
        annotations(
            "one annotation many times",
            r#","sidescale.io/a":"""#,
            60_000,
        ),
        annotations(
            "a switch many times",
            r#","sidescale.io/inject":"tailscale""#,
            60_000,
        ),
        annotations(
            "escaped annotations",
            r#","sidescale.io/\u0061#":"\n""#,
            60_000,
        ),
        annotations(
            "long annotations",
            &format!(r#","sidescale.io/a#":"{}""#, r"\n".repeat(2000)),
            1_500,
        ),
        labels("labels", r#","a#":"""#, 60_000),
        labels("one label many times", r#","app":"web""#, 60_000),
        metadata(
            "many names",
            &format!(r#""annotations":{{{ASKS}}}"#),
            r#","name":"web""#,
            60_000,
            "",
        ),
        spec(
            "lists of containers",
            PROXY,
            APP,
            r#","containers":[{}]"#,
            60_000,
            "",
        ),
    ]
}
