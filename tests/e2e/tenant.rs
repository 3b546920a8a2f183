//! What a tenant writes into its own namespace does not affect others: a real API server and a real Headscale, the
//! shipped account, and a ServiceAccount with the rights of `edit` in one namespace.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use serde_json::{Value, json};
use sidescale_control_plane::Client;
use sidescale_core::id::KeyId;
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::{NewPreAuthKey, PreAuthKey, User};
use sidescale_rotation::record::DATA_KEY;
use sidescale_webhook::profile::{NamespaceScope, Policy};

use crate::Case;
use crate::support::api::kubeconfig;
use crate::support::context::Context;
use crate::support::headscale;
use crate::support::kubectl::Kubectl;
use crate::support::levels::Level;
use crate::support::processes::Place;
use crate::support::product::{KEYS, label};
use crate::support::programs::Programs;
use crate::world::{World, start_headscale, until};

mod damage;
mod greed;
mod names;

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "tenant::what_a_tenant_writes_says_nothing_about_others",
        needs: &[Level::Api, Level::Headscale],
        each: true,
        run,
    },
    Case {
        name: "tenant::what_a_tenant_asks_for_delays_no_other",
        needs: &[Level::Api, Level::Headscale],
        each: true,
        run: greed::run,
    },
];

/// Ids in a forged record: more than this Headscale has ever assigned.
const GUESSED: u64 = 40;

fn run(context: &Context, program: Option<&headscale::Program>) -> Result<()> {
    let program = program.context("runs for a Headscale")?;
    let api = context.api()?;
    let name = label("tenant", program);
    let headscale = start_headscale(context, program, &name)?;
    let closed = start_headscale(context, program, &format!("{name}-closed"))?;
    // The chart grants the right to read the API key of the control plane that is closed to the tenant.
    let plane = "config.controlPlanes.closed";
    let values = [
        format!("{plane}.loginServer={}", closed.url()),
        format!("{plane}.allowInsecure=true"),
        format!("{plane}.apiKeySecret.namespace={name}-headscale"),
        format!("{plane}.apiKeySecret.name=closed-api-key"),
    ];
    let values = values.iter().flat_map(|value| ["--set", value.as_str()]);
    let values = Vec::from_iter(values);
    let suffixes = ["apps", "evil"];
    let world = World::install(context, &api, &headscale, &name, &suffixes, &values)?;
    world.give_api_key("closed-api-key", &closed.create_api_key()?)?;
    let tenant = tenant(api.kubectl(), &format!("{name}-evil"))?;
    world
        .runtime
        .block_on(attacks(&world, &tenant, closed.url()))
}

/// Creates a ServiceAccount with the rights of `edit` in its namespace, and returns kubectl with its token.
fn tenant(admin: &Kubectl, namespace: &str) -> Result<Kubectl> {
    admin.apply(&json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tenant", "namespace": namespace},
    }))?;
    admin.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "tenant", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": namespace}],
    }))?;
    let token = admin.run(&["create", "token", "tenant", "--namespace", namespace])?;
    let config: Value = serde_json::from_str(&std::fs::read_to_string(admin.kubeconfig())?)?;
    let server = config["clusters"][0]["cluster"]["server"]
        .as_str()
        .context("no server")?;
    let path = admin
        .kubeconfig()
        .with_file_name(format!("{namespace}.conf"));
    std::fs::write(&path, kubeconfig(server, token.trim()))?;
    let program = Programs::prepare()?.kubernetes("kubectl");
    Ok(Kubectl::new(Place::Host, program, path))
}

/// Everything that belongs to others: users, keys, nodes and the Secret of the bystander.
#[derive(Debug, PartialEq)]
struct Others {
    users: Vec<User>,
    keys: Vec<PreAuthKey>,
    nodes: Vec<names::Node>,
    secret: BTreeMap<String, Vec<u8>>,
}

async fn others(world: &World, plane: &Client, evil: &str) -> Result<Others> {
    // Keys before users: a key that appears in between would seem to belong to nobody.
    let keys = plane.list_pre_auth_keys().await?.into_iter();
    let users = plane.list_users().await?;
    let mine = |name: &str| name.starts_with(&format!("{evil}."));
    let tenants: Vec<_> = users
        .iter()
        .filter(|user| mine(&user.name))
        .map(|user| user.id)
        .collect();
    let keys = keys.filter(|key| key.user.is_none_or(|user| !tenants.contains(&user)));
    let nodes = names::nodes(plane, &tenants).await?;
    let secret = world.secret(&format!("{}-apps", world.name)).await;
    let data = secret.and_then(|secret| secret.data).unwrap_or_default();
    Ok(Others {
        users: users.into_iter().filter(|user| !mine(&user.name)).collect(),
        keys: keys.collect(),
        nodes,
        secret: data
            .into_iter()
            .map(|(key, value)| (key, value.0))
            .collect(),
    })
}

async fn attacks(world: &World, tenant: &Kubectl, closed: &str) -> Result<()> {
    let evil = format!("{}-evil", world.name);
    let plane = world.control_plane()?;
    // A person's own user and key; an unowned key, which only has tags; and the bystander's.
    let alice = plane.create_user("alice", "Alice").await?;
    let hour = Timestamp::from_second(Timestamp::now().as_second() + 3_600)?;
    let hers = NewPreAuthKey {
        user: alice.id,
        reusable: true,
        ephemeral: true,
        expiration: hour,
        tags: vec!["tag:hers".to_owned()],
    };
    let hers = plane.create_pre_auth_key(&hers).await?;
    let policy = |policy: &mut Policy| {
        // Keys are retired at the end of an overlap; make that immediate.
        policy.rotation.overlap = Duration::from_secs(1);
        if let Some(default) = policy.control_planes.get("default") {
            let mut plane = default.clone();
            plane.login_server = closed.to_owned();
            plane.api_url = closed.to_owned();
            plane.api_key_secret = "closed-api-key".to_owned();
            plane.namespaces = Some(NamespaceScope::Names(vec!["nobody".to_owned()]));
            policy.control_planes.insert("closed".to_owned(), plane);
        }
    };
    let running = world.start(policy).await?;
    world.first_key("web").await?;
    world.make_pod(&evil, "web").await?;
    until("the tenant's own key", async || {
        let secret = world.secret(&evil).await?;
        secret.data?.get("web-authkey").map(drop)
    })
    .await?;
    names::join(world, "laptop", hers.value.expose())?;
    names::join_as(world, "apps", "web").await?;
    let before = others(world, &plane, &evil).await?;
    ensure!(
        (before.keys.len(), before.nodes.len()) == (2, 2),
        "{before:?}"
    );

    names::attack(world, &plane).await?;
    ensure!(others(world, &plane, &evil).await? == before, "a name");
    forged_ends(world, tenant, &evil, &before).await?;
    ensure!(
        others(world, &plane, &evil).await? == before,
        "a forged record"
    );
    forged_plane(world, tenant, &evil, closed).await?;
    ensure!(
        others(world, &plane, &evil).await? == before,
        "a forged control plane"
    );
    running.stop().await?;
    let own = put_by_hand(world, tenant, &evil, hers.value.expose()).await?;
    // Whether a value written by someone is a key is decided in the next pass: in a minute, or at the next start.
    let running = world.start(policy).await?;
    revoked(world, tenant, &evil, own).await?;
    ensure!(
        others(world, &plane, &evil).await? == before,
        "a value by its prefix"
    );
    copied(world, &evil).await?;
    ensure!(
        others(world, &plane, &evil).await? == before,
        "a copied Secret"
    );
    damage::attack(world, tenant, &evil, (closed, &before)).await?;
    running.stop().await
}

/// Writes entries into the tenant's record as the tenant, and keeps the rest of it.
fn forge(tenant: &Kubectl, namespace: &str, entries: &[(&str, Value)]) -> Result<()> {
    let secret = tenant.json(&["get", "secret", KEYS, "--namespace", namespace])?;
    let document = secret["data"][DATA_KEY].as_str().context("no record")?;
    let document = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        document.as_bytes(),
    )?;
    let mut document: Value = serde_json::from_slice(&document)?;
    for (data_key, entry) in entries {
        for (field, value) in entry.as_object().context("no object")? {
            document["keys"][data_key][field] = value.clone();
        }
    }
    let patch = json!({"stringData": {DATA_KEY: document.to_string()}}).to_string();
    let file = "--patch-file=/dev/stdin";
    let arguments = ["patch", "secret", KEYS, "--namespace", namespace, file];
    tenant.feed(&arguments, &patch)?;
    Ok(())
}

/// Uses the ids of everyone, with and without their exact expiry, for a service of the tenant and for one that it does not have.
async fn forged_ends(world: &World, tenant: &Kubectl, evil: &str, before: &Others) -> Result<()> {
    let past = "2020-01-01T00:00:00Z";
    let guessed = (1..=GUESSED).map(|id| json!({"id": id, "expireAt": past, "revoked": true}));
    let exact = before.keys.iter().map(
        |key| json!({"id": key.id.0, "expireAt": past, "expires": key.expiration, "revoked": true}),
    );
    let previous: Vec<Value> = guessed.chain(exact).collect();
    let other = json!({"service": "x", "controlPlane": "default", "previous": previous});
    let own = json!({"previous": previous});
    forge(tenant, evil, &[("x-authkey", other), ("web-authkey", own)])?;
    until("the forged entries are judged and forgotten", async || {
        let keys = world.record(evil).await?.keys;
        let forgotten = keys.values().all(|key| key.previous.is_empty());
        (forgotten && !keys.contains_key("x-authkey")).then_some(())
    })
    .await
}

/// Uses a tenant's entry that names a control plane closed to it.
async fn forged_plane(world: &World, tenant: &Kubectl, evil: &str, closed: &str) -> Result<()> {
    forge(
        tenant,
        evil,
        &[(
            "api-authkey",
            json!({"service": "api", "controlPlane": "closed"}),
        )],
    )?;
    forge(
        tenant,
        evil,
        &[("web-authkey", json!({"controlPlane": "closed"}))],
    )?;
    world.make_pod(evil, "api").await?;
    until("a key where the pods ask for it", async || {
        let keys = world.record(evil).await?.keys;
        let is_there = |data_key: &str| {
            keys.get(data_key)
                .is_some_and(|key| key.control_plane == "default" && key.current.is_some())
        };
        (is_there("api-authkey") && is_there("web-authkey")).then_some(())
    })
    .await?;
    let secrets: Api<Secret> =
        Api::namespaced(world.admin.clone(), &format!("{}-headscale", world.name));
    let secret = secrets.get("closed-api-key").await?;
    let key = secret.data.context("no data")?.remove("api-key");
    let plane = world.control_plane_at(
        closed,
        KeyValue::new(String::from_utf8(key.context("no key")?.0)?),
    )?;
    let (users, keys) = (plane.list_users().await?, plane.list_pre_auth_keys().await?);
    ensure!(users.is_empty() && keys.is_empty(), "{users:?} {keys:?}");
    Ok(())
}

/// Puts a key's prefix, which the tenant knows from a list, in the place of the tenant's own key, which is returned.
async fn put_by_hand(world: &World, tenant: &Kubectl, evil: &str, value: &str) -> Result<KeyId> {
    let Some(prefix) = value.get(..value.len().saturating_sub(64)) else {
        bail!("a value of another form");
    };
    let own = current(world, evil).await?;
    let forged = json!({"stringData": {"web-authkey": format!("{prefix}{}", "a".repeat(64))}});
    let forged = forged.to_string();
    tenant.run(&[
        "patch",
        "secret",
        KEYS,
        "--namespace",
        evil,
        "--patch",
        &forged,
    ])?;
    Ok(own)
}

/// Has that key adopted, and asks to revoke it.
async fn revoked(world: &World, tenant: &Kubectl, evil: &str, own: KeyId) -> Result<()> {
    let adopted = until("it is taken over", async || {
        current(world, evil).await.ok().filter(|id| *id != own)
    })
    .await?;
    let request = json!({"web-authkey": {"replaces": adopted.0, "revoke": true}}).to_string();
    let annotation = format!("sidescale.io/rotate-requested={request}");
    tenant.run(&["annotate", "secret", KEYS, "--namespace", evil, &annotation])?;
    until("it is replaced", async || {
        current(world, evil).await.ok().filter(|id| *id != adopted)
    })
    .await?;
    Ok(())
}

async fn current(world: &World, namespace: &str) -> Result<KeyId> {
    let record = world.record(namespace).await.context("no record")?;
    let key = record.keys.get("web-authkey").context("no entry")?;
    Ok(key.current.as_ref().context("no key")?.id)
}

/// Copies the bystander's Secret into the tenant's namespace, as a person would.
async fn copied(world: &World, evil: &str) -> Result<()> {
    let apps = format!("{}-apps", world.name);
    let secrets: Api<Secret> = Api::namespaced(world.admin.clone(), evil);
    secrets
        .delete(KEYS, &kube::api::DeleteParams::default())
        .await?;
    let mut copy = world.secret(&apps).await.context("no Secret")?;
    let theirs = copy
        .data
        .as_ref()
        .and_then(|data| data.get("web-authkey"))
        .cloned();
    copy.metadata = kube::api::ObjectMeta {
        name: Some(KEYS.to_owned()),
        labels: copy.metadata.labels,
        ..kube::api::ObjectMeta::default()
    };
    // Rotation may have created one in the meantime.
    let copied = until("the copy is there", async || {
        let _ = secrets
            .delete(KEYS, &kube::api::DeleteParams::default())
            .await;
        secrets
            .create(&kube::api::PostParams::default(), &copy)
            .await
            .ok()
    });
    copied.await?;
    until("it has a key of its own", async || {
        let data = world.secret(evil).await?.data?;
        let value = data.get("web-authkey")?;
        (Some(value) != theirs.as_ref()).then_some(())
    })
    .await
}
