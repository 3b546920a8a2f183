//! The names of the tailnet: what is read from Headscale's settings, and the findings about it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use sidescale_webhook::hostnames::{ClaimedHostnames, Hashed, HostnameRow};
use sidescale_webhook::profile::HostnameOwner;

use super::super::dns::{
    Dns, Lies, TailnetNames, cluster_domain, config_maps, headscale, lies, settings,
};
use super::*;

fn set(world: &mut World, change: impl FnOnce(&mut Dns)) {
    let mut dns = super::dns();
    change(&mut dns);
    world.facts.names = Observed::Saw(TailnetNames::Set(dns));
}

fn variable(world: &mut World, name: &str, value: &str) {
    let env = world.pod["spec"]["initContainers"][0]["env"].as_array_mut();
    env.unwrap().push(json!({"name": name, "value": value}));
}

#[test]
fn warns_where_names_of_the_tailnet_and_of_the_cluster_collide() {
    let own = "set dns.base_domain in ConfigMap headscale/headscale to a separate domain";
    hold(&[
        (
            |world| set(world, |dns| dns.base_domain = "cluster.local".into()),
            Level::Warn,
            "names",
            "the tailnet's domain cluster.local is cluster.local, the domain of most clusters",
            own,
        ),
        (
            |world| {
                set(world, |dns| dns.base_domain = "Corp.Example.".into());
                world.facts.cluster_domain = Some("corp.example".into());
            },
            Level::Warn,
            "names",
            "is the cluster's domain corp.example: with accept-dns, nodes ask the tailnet",
            own,
        ),
        (
            |world| set(world, |dns| dns.base_domain = "ts.cluster.local".into()),
            Level::Warn,
            "names",
            "ts.cluster.local is within cluster.local",
            own,
        ),
        (
            |world| set(world, |dns| dns.base_domain = "local".into()),
            Level::Warn,
            "names",
            "local contains cluster.local",
            own,
        ),
        // The name belongs to another namespace there.
        (
            |world| {
                set(world, |dns| dns.base_domain = "cluster.local".into());
                world.facts.cluster_domain = Some("corp.example".into());
            },
            Level::Ok,
            "names",
            "web.cluster.local in the tailnet",
            "",
        ),
    ]);
}

#[test]
fn warns_where_a_pod_wants_names_and_there_are_none() {
    let on = "set dns.magic_dns: true in ConfigMap headscale/headscale";
    hold(&[
        (
            |world| {
                set(world, |dns| dns.magic = false);
                variable(world, "TS_ACCEPT_DNS", "true");
            },
            Level::Warn,
            "names",
            "Headscale provides no names (dns.magic_dns is false), but the pod's accept-dns is on",
            on,
        ),
        (
            |world| {
                set(world, |dns| dns.magic = false);
                variable(world, "TS_SOCKS5_SERVER", "127.0.0.1:1055");
            },
            Level::Warn,
            "names",
            "but the pod's proxy is on",
            on,
        ),
        (
            |world| {
                set(world, |dns| dns.magic = false);
                variable(world, "TS_ACCEPT_DNS", "false");
            },
            Level::Ok,
            "names",
            "nodes are reached by their addresses",
            "",
        ),
    ]);
}

/// The name `web` belongs to this namespace.
fn claimed_by(namespace: &str) -> ClaimedHostnames {
    let row = HostnameRow {
        hostname: Hashed::of("web"),
        namespace: Hashed::of(namespace),
        idle_since: None,
    };
    ClaimedHostnames::read(&[("default".to_owned(), row.to_string())].into())
}

fn reserved_for(world: &mut World, service: &str) {
    let mut policy = world.facts.policy.seen().unwrap().clone();
    let owner = HostnameOwner {
        namespace: "shop".into(),
        service: service.into(),
    };
    policy.reserved_hostnames.insert("web".into(), owner);
    world.facts.policy = Observed::Saw(policy);
}

#[test]
fn warns_of_a_hostname_that_is_anothers() {
    let other = r#"kubectl patch --namespace shop deployment/web --type merge --patch '{"spec":{"template":{"metadata":{"annotations":{"sidescale.io/hostname":"{service}-{namespace}"}}}}}'"#;
    hold(&[
        (
            |world| world.facts.hostnames = claimed_by("prod"),
            Level::Warn,
            "hostname",
            "\"web\" belongs to a service of another namespace: Sidescale does not give it to nodes of service \"web\"",
            other,
        ),
        (
            |world| reserved_for(world, "db"),
            Level::Warn,
            "hostname",
            "\"web\" is reserved for another service by reservedHostnames",
            other,
        ),
    ]);
    let well: [fn(&mut World); 2] = [
        |world| world.facts.hostnames = claimed_by("shop"),
        |world| {
            world.facts.hostnames = claimed_by("prod");
            reserved_for(world, "web");
        },
    ];
    for change in well {
        let mut world = World::well();
        change(&mut world);
        let findings = world.judged();
        assert!(
            findings.iter().all(|finding| finding.check != "hostname"),
            "{findings:#?}"
        );
    }
}

#[test]
fn says_what_the_pod_is_called() {
    hold(&[
        (
            |world| world.held.nodes[0].given_name = "web-1".into(),
            Level::Ok,
            "names",
            "web-1.tailnet.internal in the tailnet",
            "",
        ),
        (
            |world| {
                world.held.nodes.clear();
                world.facts.now = at(69 * DAY + 60);
            },
            // About the node, which does not exist yet.
            Level::Warn,
            "node",
            "no node web yet",
            "kubectl logs",
        ),
        (
            |world| {
                for id in 4..8 {
                    let mut other = node(id);
                    other.given_name = format!("web-{id}");
                    world.held.nodes.push(other);
                }
            },
            Level::Ok,
            "names",
            "web.tailnet.internal, web-4.tailnet.internal, web-5.tailnet.internal, 2 more in the tailnet",
            "",
        ),
        (
            |world| {
                let why = "no pod of Headscale runs in namespace headscale";
                world.facts.names = Observed::Saw(TailnetNames::Unseen(why.into()));
            },
            Level::Ok,
            "names",
            "settings are not visible from here: no pod of Headscale runs in namespace headscale",
            "",
        ),
        (
            |world| {
                let why = "list pods in namespace headscale: forbidden (403)";
                world.facts.names = Observed::Blind(why.into());
            },
            Level::Warn,
            "names",
            "not checked: list pods in namespace headscale: forbidden",
            "",
        ),
    ]);
    let mut world = World::well();
    world.held.nodes.clear();
    let findings = world.judged();
    let names = findings.iter().find(|finding| finding.check == "names");
    assert_eq!(
        names.unwrap().text,
        "its node will have a name below tailnet.internal"
    );
    let mut world = World::well();
    world.facts.names = Observed::NotAsked;
    assert_eq!(world.judged().len(), 7);
}

fn server(change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": {"name": "headscale-0", "namespace": "vpn"},
        "spec": {
            "containers": [
                {"name": "headscale", "image": "docker.io/headscale/headscale:0.29.2"},
                {"name": "apikey-manager", "image": "sidescale:0.1.0"},
            ],
            "volumes": [
                {"name": "config", "configMap": {"name": "headscale"}},
                {"name": "data", "emptyDir": {}},
                {"name": "both", "projected": {"sources": [
                    {"configMap": {"name": "policy"}}, {"secret": {"name": "keys"}}, {"configMap": {"name": "headscale"}},
                ]}},
            ],
        },
    });
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}

#[test]
fn finds_headscale_among_containers() {
    type Row = (fn(&mut Value), Option<&'static str>);
    let rows: [Row; 6] = [
        (|_| {}, Some("headscale")),
        (
            |pod| pod["spec"]["containers"][0]["name"] = json!("server"),
            Some("server"),
        ),
        (
            |pod| {
                pod["spec"]["containers"][0] =
                    json!({"name": "server", "image": "registry:5000/headscale@sha256:0"});
            },
            Some("server"),
        ),
        (
            |pod| {
                pod["spec"]["containers"][0] = json!({"name": "own", "image": "own:1"});
                pod["metadata"]["annotations"] = json!({"sidescale.io/headscale-container": "own"});
            },
            Some("own"),
        ),
        (
            |pod| {
                pod["spec"]["containers"][0] =
                    json!({"name": "ui", "image": "goodieshq/headscale-admin:1"});
            },
            None,
        ),
        (|pod| pod["spec"]["containers"] = json!([]), None),
    ];
    for (change, want) in rows {
        let pod = server(change);
        let found = headscale(&pod).map(|container| container.name.as_str());
        assert_eq!(found, want, "{pod:?}");
    }
    assert_eq!(config_maps(&server(|_| {})), ["headscale", "policy"]);
    let pod = server(|pod| {
        pod["spec"]["volumes"] = json!([]);
        pod["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "env"}}]);
    });
    assert_eq!(config_maps(&pod), ["env"]);
}

#[test]
fn reads_headscales_settings_as_it_does() {
    let maps = |files: &[(&str, &str)]| {
        let files = files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        vec![("headscale".to_owned(), files.collect::<BTreeMap<_, _>>())]
    };
    let file = "server_url: https://headscale.example.com\ndns:\n  magic_dns: true\n  base_domain: tailnet.internal\n";
    let read = |text: &str| {
        let dns = settings(&server(|_| {}), &maps(&[("acl.json", "{}"), ("c", text)]));
        dns.map(|dns| (dns.magic, dns.base_domain))
    };
    assert_eq!(read(file), Some((true, "tailnet.internal".into())));
    let rows = [
        ("server_url: x\n", Some((true, ""))),
        ("server_url: x\ndns:\n", Some((true, ""))),
        (
            "server_url: x\ndns: {magic_dns: false, base_domain: a.b}\n",
            Some((false, "a.b")),
        ),
        (
            "server_url: x\ndns: {magic_dns: 'False'}\n",
            Some((false, "")),
        ),
        (
            "{\"server_url\": \"x\", \"dns\": {\"base_domain\": \"j\"}}",
            Some((true, "j")),
        ),
        ("dns: {base_domain: a.b}\n", None),
        (": no yaml [", None),
        ("", None),
    ];
    for (text, want) in rows {
        let want = want.map(|(magic, base)| (magic, base.to_owned()));
        assert_eq!(read(text), want, "{text:?}");
    }
    // Variables take precedence, and are enough.
    let pod = server(|pod| {
        pod["spec"]["containers"][0]["env"] = json!([
            {"name": "HEADSCALE_SERVER_URL", "value": "https://other.example.com"},
            {"name": "HEADSCALE_DNS_BASE_DOMAIN", "value": "by.variable"},
        ]);
    });
    let dns = settings(&pod, &maps(&[("config.yaml", file)])).unwrap();
    assert_eq!(dns.base_domain, "by.variable");
    assert_eq!(dns.server_url.as_deref(), Some("https://other.example.com"));
    let alone = settings(&pod, &[]).unwrap();
    assert_eq!(alone.place, "variables of pod vpn/headscale-0");
    assert!(alone.magic);
    let shared = maps(&[
        ("HEADSCALE_SERVER_URL", "https://x"),
        ("HEADSCALE_DNS_MAGIC_DNS", "0"),
    ]);
    assert!(!settings(&server(|_| {}), &shared).unwrap().magic);
}

#[test]
fn knows_the_clusters_domain_and_how_two_domains_lie() {
    let corefile = ".:53 {\n    errors\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n       pods insecure\n    }\n}\n";
    let rows = [
        (corefile, Some("cluster.local")),
        (
            "kubernetes in-addr.arpa ip6.arpa. Corp.Example. {",
            Some("corp.example"),
        ),
        ("kubernetes {$CLUSTER_DOMAIN} in-addr.arpa {", None),
        ("forward . /etc/resolv.conf", None),
        ("kubernetes {", None),
        ("", None),
    ];
    for (text, want) in rows {
        assert_eq!(cluster_domain(text).as_deref(), want, "{text:?}");
    }
    let rows = [
        ("cluster.local", "cluster.local", Lies::Same),
        ("Cluster.Local.", "cluster.local", Lies::Same),
        ("a.cluster.local", "cluster.local", Lies::Within),
        ("local", "cluster.local", Lies::Around),
        ("mycluster.local", "cluster.local", Lies::Apart),
        ("tailnet.internal", "cluster.local", Lies::Apart),
        ("", "cluster.local", Lies::Apart),
    ];
    for (tailnet, cluster, want) in rows {
        assert_eq!(lies(tailnet, cluster), want, "{tailnet} {cluster}");
    }
}
