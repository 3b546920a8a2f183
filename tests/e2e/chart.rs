//! The chart, installed by a real helm on a real API server.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Case,
    support::{
        api::{ControlPlane, kubeconfig},
        context::Context,
        headscale,
        kubectl::{Helm, Kubectl},
        levels::Level,
        processes::Place,
        programs::Programs,
        wait,
    },
};

mod own_pods;
mod rights;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "chart::helm_lints_and_renders_it",
        needs: &[Level::Api],
        each: false,
        run: lints_and_renders,
    },
    Case {
        name: "chart::helm_says_what_a_wrong_value_should_be",
        needs: &[Level::Api],
        each: false,
        run: wrong_values_are_explained,
    },
    Case {
        name: "chart::an_upgrade_keeps_the_ca_bundle_and_an_uninstall_the_keys",
        needs: &[Level::Api],
        each: false,
        run: upgrade_and_uninstall,
    },
    Case {
        name: "chart::the_account_may_do_what_it_needs_and_no_more",
        needs: &[Level::Api],
        each: false,
        run: rights::rights,
    },
    Case {
        name: "chart::the_policy_denies_every_other_secret",
        needs: &[Level::Api],
        each: false,
        run: rights::policy,
    },
    Case {
        name: "chart::only_our_own_pods_do_without_the_webhook",
        needs: &[Level::Api],
        each: false,
        run: own_pods::do_without,
    },
];

pub(crate) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/sidescale");
const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const LOGIN_SERVER: &str = "controlPlane.loginServer=https://headscale.example.com";

/// One installation in its own namespace; uninstalled on drop: a failed test leaves no webhook behind.
pub(crate) struct Release {
    pub(crate) helm: Helm,
    pub(crate) name: String,
    installed: bool,
}

impl Release {
    pub(crate) fn install(context: &Context, api: &ControlPlane, name: &str) -> Result<Self> {
        Self::install_with(context, api, name, &[])
    }

    /// Installs the chart with more arguments for helm.
    pub(crate) fn install_with(
        context: &Context,
        api: &ControlPlane,
        name: &str,
        more: &[&str],
    ) -> Result<Self> {
        let helm = helm(context, api)?;
        let this = Self {
            helm,
            name: name.to_owned(),
            installed: true,
        };
        let namespace = ["--namespace", name, "--create-namespace"];
        let own = ["install", name, CHART, "--set", LOGIN_SERVER, "--set"];
        // Releases of several tests share the cluster, and must not share the namespace of their API keys.
        let keys = format!("controlPlane.apiKeySecret.namespace={name}-headscale");
        this.helm
            .run(&[&own[..], &[keys.as_str()], more, &namespace].concat())?;
        Ok(this)
    }

    /// Returns the name of every object.
    pub(crate) fn fullname(&self) -> String {
        format!("{}-sidescale", self.name)
    }

    /// Returns kubectl with a token of the release's account.
    pub(crate) fn account(&self, api: &ControlPlane) -> Result<Kubectl> {
        let admin = api.kubectl();
        let token = admin.run(&[
            "create",
            "token",
            &self.fullname(),
            "--namespace",
            &self.name,
        ])?;
        let config: Value = serde_json::from_str(&std::fs::read_to_string(admin.kubeconfig())?)?;
        let server = config["clusters"][0]["cluster"]["server"]
            .as_str()
            .context("no server")?;
        let path = admin
            .kubeconfig()
            .with_file_name(format!("{}.conf", self.name));
        std::fs::write(&path, kubeconfig(server, token.trim()))?;
        let program = Programs::prepare()?.kubernetes("kubectl");
        Ok(Kubectl::new(Place::Host, program, path))
    }

    pub(crate) fn uninstall(&mut self) -> Result<String> {
        self.installed = false;
        self.helm
            .run(&["uninstall", &self.name, "--namespace", &self.name])
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if self.installed {
            let _ = self.uninstall();
        }
    }
}

pub(crate) fn helm(context: &Context, api: &ControlPlane) -> Result<Helm> {
    let program = Programs::prepare()?.helm();
    let kubeconfig = api.kubectl().kubeconfig().to_owned();
    Ok(Helm::new(
        Place::Host,
        program,
        kubeconfig,
        context.folder.path(),
    ))
}

/// Checks the objects for the Prometheus operator: off by default, and when on, every rule and the release's own names.
fn renders_for_prometheus(helm: &Helm, values: &str) -> Result<()> {
    let on = "prometheusRule.enabled=true,podMonitor.enabled=true,prometheusRule.labels.release=prometheus";
    let chart = [
        "template",
        "prod",
        CHART,
        "--namespace",
        "tailnet",
        "--values",
        values,
    ];
    let kinds = ["PrometheusRule", "PodMonitor"];
    let off: Vec<Value> = serde_saphyr::from_multiple(&helm.run(&chart)?)?;
    let is = |object: &&Value, kind: &str| object["kind"] == kind;
    ensure!(
        !kinds
            .iter()
            .any(|kind| off.iter().any(|object| is(&object, kind))),
        "its CRDs may not be there"
    );
    helm.run(&["lint", "--strict", CHART, "--values", values, "--set", on])?;
    let objects = helm.run(&[&chart[..], &["--set", on]].concat())?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&objects)?;
    for kind in kinds {
        let object = objects.iter().find(|object| is(object, kind));
        ensure!(object.is_some(), "no {kind}");
    }
    let rule = objects
        .iter()
        .find(|object| is(object, kinds[0]))
        .context("no rules")?;
    ensure!(
        rule["metadata"]["labels"]["release"] == "prometheus",
        "{rule}"
    );
    let text = rule["spec"].to_string();
    ensure!(
        text.contains("sidescale status --namespace tailnet --release-name prod")
            && text.contains("{{ $labels.secret }}")
            && !text.contains("FLAGS")
            && !text.contains("NAMESPACE"),
        "{text}"
    );
    Ok(())
}

/// Checks who may reach each port, and whose certificate is requested: no one's until a value says so.
fn renders_the_network(helm: &Helm, values: &str) -> Result<()> {
    let render = |set: &str| -> Result<Vec<Value>> {
        let set = format!("networkPolicy.enabled=true,{set}");
        helm.run(&["lint", "--strict", CHART, "--values", values, "--set", &set])?;
        let rendered = ["template", "one", CHART, "--values", values, "--set", &set];
        Ok(serde_saphyr::from_multiple(&helm.run(&rendered)?)?)
    };
    let of = |objects: &[Value], kind: &str| {
        let object = objects.iter().find(|object| object["kind"] == kind);
        object.cloned().with_context(|| format!("no {kind}"))
    };
    let open = render("replicas=3")?;
    let rules = of(&open, "NetworkPolicy")?["spec"]["ingress"].clone();
    let ports = |rule: usize| rules[rule]["ports"][0]["port"].clone();
    ensure!(ports(0) == "webhook" && ports(1) == "admin", "{rules}");
    ensure!(!rules.to_string().contains("from"), "{rules}");
    ensure!(
        !of(&open, "Deployment")?.to_string().contains("client"),
        "asks"
    );

    let peers = "networkPolicy.webhook.from[0].ipBlock.cidr=10.0.0.0/28,\
                 networkPolicy.admin.from[0].namespaceSelector.matchLabels.team=watch";
    let rules = of(&render(peers)?, "NetworkPolicy")?["spec"]["ingress"].clone();
    let block = json!([{"ipBlock": {"cidr": "10.0.0.0/28"}}]);
    let team = json!([{"namespaceSelector": {"matchLabels": {"team": "watch"}}}]);
    ensure!(
        rules[0]["from"] == block && rules[1]["from"] == team,
        "{rules}"
    );

    for (set, source) in [
        (
            "webhook.clientCA.configMap=callers",
            json!({"configMap": {"name": "callers"}}),
        ),
        (
            "webhook.clientCA.secret=callers,webhook.clientCA.key=tls.crt",
            json!({"secret": {"secretName": "callers"}}),
        ),
    ] {
        let pod = of(&render(set)?, "Deployment")?["spec"]["template"]["spec"].clone();
        let container = &pod["containers"][0];
        let flag = json!("--client-ca=/etc/sidescale-clients/ca.crt");
        let mut args = container["args"].as_array().into_iter().flatten();
        ensure!(args.any(|arg| *arg == flag), "{container}");
        let mount = &container["volumeMounts"][1];
        ensure!(mount["mountPath"] == "/etc/sidescale-clients", "{mount}");
        let volume = &pod["volumes"][1];
        ensure!(volume["name"] == mount["name"], "{volume}");
        let (kind, want) = source
            .as_object()
            .and_then(|one| one.iter().next())
            .context("one")?;
        let (name, value) = want
            .as_object()
            .and_then(|one| one.iter().next())
            .context("one")?;
        ensure!(volume[kind][name] == *value, "{volume}");
        ensure!(volume[kind]["items"][0]["path"] == "ca.crt", "{volume}");
    }
    Ok(())
}

fn lints_and_renders(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let helm = helm(context, &api)?;
    let values = format!("{CHART}/ci/values.yaml");
    helm.run(&["lint", "--strict", CHART, "--values", &values])?;
    renders_for_prometheus(&helm, &values)?;
    renders_the_network(&helm, &values)?;
    let rendered = helm.run(&["template", "one", CHART, "--values", &values])?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered)?;
    let webhook = objects
        .iter()
        .find(|object| object["kind"] == "MutatingWebhookConfiguration")
        .context("no webhook configuration")?;
    let names: Vec<_> = webhook["webhooks"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| &entry["name"])
        .collect();
    ensure!(
        names == ["pods.sidescale.io", "namespaces.sidescale.io"],
        "{names:?}"
    );
    for entry in webhook["webhooks"].as_array().context("no entries")? {
        ensure!(
            entry["clientConfig"].get("caBundle").is_none(),
            "a rendered caBundle fights with the process's"
        );
    }
    Ok(())
}

fn wrong_values_are_explained(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let helm = helm(context, &api)?;
    for (set, said) in [
        (
            "replicas=3",
            "controlPlane.loginServer is empty: set it to the URL of your Headscale",
        ),
        (
            "controlPlane.loginServer=ftp://headscale",
            "at '/controlPlane/loginServer'",
        ),
        (
            "controlPlane.loginserver=x",
            "additional properties 'loginserver' not allowed",
        ),
        (
            "config.profiles.default.allowedTagz=x",
            "additional properties 'allowedTagz' not allowed",
        ),
        (
            "webhook.failurePolicy=ignore",
            "at '/webhook/failurePolicy'",
        ),
        (
            "networkPolicy.webhook.from[0].ipBlock.cidr=10.0.0.1",
            "at '/networkPolicy/webhook/from/0/ipBlock/cidr'",
        ),
        (
            "networkPolicy.admin.from[0].namespace=monitoring",
            "additional properties 'namespace' not allowed",
        ),
        (
            "controlPlane.loginServer=https://h.example.com,webhook.clientCA.configMap=a,webhook.clientCA.secret=b",
            "webhook.clientCA names a ConfigMap and a Secret",
        ),
        (
            "controlPlane.apiKeySecret.namespace=kube-system",
            "at '/controlPlane/apiKeySecret/namespace'",
        ),
        (
            "headscale.namespace=kube-system",
            "at '/headscale/namespace'",
        ),
        (
            "headscale.serviceAccount=default",
            "at '/headscale/serviceAccount'",
        ),
        (
            "controlPlane.loginServer=https://a.example.com,config.controlPlanes.eu.loginServer=https://b.example.com,config.controlPlanes.eu.apiKeySecret.namespace=kube-system",
            "is in namespace kube-system, which is the cluster's own",
        ),
    ] {
        let Err(error) = helm.run(&["template", "one", CHART, "--set", set]) else {
            anyhow::bail!("{set} was accepted");
        };
        ensure!(format!("{error:#}").contains(said), "{set}: {error:#}");
    }
    let chart = ["template", "one", CHART, "--set", LOGIN_SERVER];
    let Err(error) = helm.run(&[&chart[..], &["--namespace", "kube-system"]].concat()) else {
        anyhow::bail!("it was installed into kube-system");
    };
    let said = "namespace kube-system is the cluster's own: install Sidescale into";
    ensure!(format!("{error:#}").contains(said), "{error:#}");
    Ok(())
}

fn upgrade_and_uninstall(context: &Context, _: Option<&headscale::Program>) -> Result<()> {
    let api = context.api()?;
    let mut release = Release::install(context, &api, "life")?;
    let (name, admin, account) = (release.fullname(), api.kubectl(), release.account(&api)?);

    // As the process does it: only this field, by server-side apply, as the shipped account.
    let bundle = base64_of(
        &rcgen::generate_simple_self_signed(["ca.test".to_owned()])?
            .cert
            .pem(),
    );
    let entry = |entry: &str| json!({"name": entry, "clientConfig": {"caBundle": bundle}});
    let patch = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [entry("pods.sidescale.io"), entry("namespaces.sidescale.io")],
    });
    let apply = [
        "apply",
        "--server-side",
        "--field-manager=sidescale",
        "--filename=-",
    ];
    account.feed(&apply, &patch.to_string())?;
    wait::until("the account may write the CA Secret", LIMIT, || {
        create(
            &account,
            &release.name,
            &format!("{name}-webhook-ca"),
            "Opaque",
            true,
        )
    })?;

    // As the leader does it when it has something to note.
    let held = json!({"metadata": {"annotations": {"sidescale.io/nodes": "{}"}}, "spec": {"holderIdentity": "a"}});
    let lease = ["lease", name.as_str(), "--namespace=life"];
    let patch = ["--type=merge", "--patch", &held.to_string()];
    account.run(&[&["patch"], &lease[..], &patch].concat())?;

    let upgrade = [
        "upgrade",
        "life",
        CHART,
        "--namespace=life",
        "--reuse-values",
        "--set=webhook.timeoutSeconds=3",
    ];
    release.helm.run(&upgrade)?;
    let webhook = admin.json(&["get", "mutatingwebhookconfiguration", &name])?;
    for entry in webhook["webhooks"].as_array().context("no entries")? {
        ensure!(entry["timeoutSeconds"] == 3, "not upgraded: {entry}");
        ensure!(
            entry["clientConfig"]["caBundle"] == bundle.as_str(),
            "the upgrade took the caBundle away: {entry}"
        );
    }

    let lease = admin.json(&[&["get"], &lease[..]].concat())?;
    ensure!(
        lease["spec"]["holderIdentity"] == "a"
            && lease["metadata"]["annotations"]["sidescale.io/nodes"] == "{}",
        "the upgrade took the Lease away: {lease}"
    );

    release.uninstall()?;
    let left = admin.run(&["get", "mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings", "--output=name"])?;
    ensure!(!left.contains(&name), "left behind: {left}");
    admin
        .run(&["get", "namespace", "life-headscale"])
        .context("kept by its policy")?;
    admin
        .run(&[
            "get",
            "secret",
            &format!("{name}-webhook-ca"),
            "--namespace=life",
        ])
        .context("not helm's to delete")?;
    Ok(())
}

pub(crate) fn create(
    kubectl: &Kubectl,
    namespace: &str,
    name: &str,
    of: &str,
    labelled: bool,
) -> Result<String> {
    let labels = if labelled {
        json!({"app.kubernetes.io/managed-by": "sidescale"})
    } else {
        json!({})
    };
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": of,
        "metadata": {
            "namespace": namespace, "name": name, "labels": labels,
            "annotations": {"kubernetes.io/service-account.name": "default"},
        },
    });
    kubectl.feed(&["create", "--filename=-"], &secret.to_string())
}

pub(crate) fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
