//! Every key, its form, its default: metadata and policy -> Injection, or an error its author can act on. Pure.

use std::time::Duration;

mod asked;
mod headscale;
mod kinds;
mod network;
mod read;
mod reason;
mod state;

use asked::{Asked, Key as Name};

use crate::identity::{self, Hostname, Owner};
use crate::profile::{DEFAULT, Delivery, Policy, Profile, Resources};

pub(crate) use asked::{Defaults, KNOWN, Support};
pub(crate) use network::{is_argument, of_ours};

pub use asked::unknown;
pub use headscale::{ApikeyManager, ServerKeys};
pub use kinds::Kinds;
pub use reason::{DenyReason, Refusal, SkipReason};
pub use state::State;

/// Is the shortest life of a key: shorter ones would have us mint without end.
pub(crate) const SHORTEST_LIFE: Duration = Duration::from_secs(60);

const TAILSCALE: Kinds = Kinds {
    tailscale: true,
    apikey_manager: false,
    server_keys: false,
};

/// Is the prefix of every annotation and label of ours.
pub const PREFIX: &str = "sidescale.io/";

/// Holds what decides an injection: metadata alone, so that rotation can decide the same from a metadata watch.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name; empty where `generateName` is still to be filled in.
    pub name: &'a str,
    /// Every annotation of the pod, or at least those under [`PREFIX`].
    pub annotations: &'a dyn Lookup,
    /// Labels of the pod.
    pub labels: &'a dyn Lookup,
    /// The controller, if the pod has one.
    pub owner: Option<Owner<'a>>,
    /// What is known of the namespace; `None` if it was not seen yet.
    pub namespace_metadata: Option<&'a NamespaceMetadata>,
    /// Whether the namespace's own label opts in, which the request's path says at admission.
    pub namespace_opted_in: bool,
}

/// Finds a value by its key in a borrowed map.
pub trait Lookup: std::fmt::Debug {
    /// The value of `key`.
    fn value(&self, key: &str) -> Option<&str>;
    /// All entries whose key begins with [`PREFIX`].
    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_>;
}

/// Holds what the index keeps of a namespace: its entries under [`PREFIX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceMetadata {
    /// Value of the label `sidescale.io/inject`.
    pub inject: Option<String>,
    /// Annotations under [`PREFIX`].
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl Injection<'_> {
    /// What is injected.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        Kinds {
            tailscale: self.tailscale.is_some(),
            apikey_manager: self.apikey_manager.is_some(),
            server_keys: self.server_keys.is_some(),
        }
    }

    /// Whether more of the pod has to be looked at: its containers, or the names of its volumes.
    pub(crate) fn needs_details(&self) -> bool {
        let touches = |sidecar: &Tailscale<'_>| {
            sidecar.proxy.is_some() || matches!(sidecar.state, State::Volume(_))
        };
        self.apikey_manager.is_some()
            || self.server_keys.is_some()
            || self.tailscale.as_ref().is_some_and(touches)
    }
}

impl Lookup for NamespaceMetadata {
    fn value(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        let entries = self.annotations.iter();
        Box::new(entries.map(|(key, value)| (key.as_str(), value.as_str())))
    }
}

/// Holds everything that one injection needs, parsed and allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection<'a> {
    /// Profile that was used.
    pub profile: &'a str,
    /// Its hash.
    pub profile_hash: &'a str,
    /// The Tailscale sidecar.
    pub tailscale: Option<Tailscale<'a>>,
    /// The manager of Headscale's API key.
    pub apikey_manager: Option<ApikeyManager<'a>>,
    /// Headscale's own keys.
    pub server_keys: Option<ServerKeys<'a>>,
    /// What the author is warned of, although it is done as asked.
    pub remarks: Vec<String>,
}

/// Holds everything that a Tailscale sidecar needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tailscale<'a> {
    /// Control plane's name.
    pub control_plane: String,
    /// Its login server.
    pub login_server: &'a str,
    /// Whether a private authority signs its certificate, which then stands beside the key as `ca.crt`.
    pub private_ca: bool,
    /// The identity: names key, user and host.
    pub service: String,
    /// Name in the tailnet, which the pod's own name or node may complete.
    pub hostname: Hostname<'a>,
    /// Where the key stands and what it may do.
    pub key: Key,
    /// How the key reaches the sidecar.
    pub delivery: Delivery,
    /// Whether the pod itself asks for that delivery.
    pub delivery_asked: bool,
    /// Where the node keeps who it is.
    pub state: State<'a>,
    /// Whether it is a native sidecar, or else an ordinary container.
    pub native: bool,
    /// Whether the app waits until the node is up.
    pub wait: bool,
    /// Whether the node takes the tailnet's names.
    pub accept_dns: bool,
    /// Whether the node takes the routes of others.
    pub accept_routes: bool,
    /// More arguments for `tailscale up`.
    pub extra_args: &'a str,
    /// Port of a SOCKS5 and HTTP proxy on the pod's loopback.
    pub proxy: Option<u16>,
    /// Whether the app's containers are told of the proxy.
    pub proxy_env: bool,
    /// The sidecar's image.
    pub image: &'a str,
    /// The sidecar's requests and limits.
    pub resources: Resources<'a>,
}

/// Describes the pre-auth key that an injected pod refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// Made, rotated and removed by us.
    Managed(ManagedKey),
    /// The user's own Secret (`auth-key-secret`): never read, rotated or overwritten.
    Given {
        /// Name of the Secret in the pod's namespace.
        secret: String,
        /// Data key in it.
        data_key: String,
    },
}

/// Describes a key that rotation makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedKey {
    /// Name of the Secret in the pod's namespace.
    pub secret: String,
    /// Data key in it: `<service>-authkey`, `<service>_<control-plane>-authkey`.
    pub data_key: String,
    /// Headscale user.
    pub user: String,
    /// Tags the key carries.
    pub tags: Vec<String>,
    /// Whether the key may be used more than once.
    pub reusable: bool,
    /// Whether its nodes vanish when they go away.
    pub ephemeral: bool,
    /// Life of the key.
    pub expiration: Duration,
    /// How long before its end it is renewed.
    pub buffer: Duration,
}

/// Says whether and how a pod is injected, from metadata alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// The author has to mend something.
    Deny(Refusal),
    /// Injected as described.
    Inject(Box<Injection<'a>>),
    /// Left alone.
    Skip(SkipReason),
}

/// Decides from metadata alone; the webhook adds what only the pod's spec shows.
#[must_use]
pub fn decide<'a>(subject: &Subject<'a>, policy: &'a Policy) -> Decision<'a> {
    let label = subject
        .namespace_metadata
        .and_then(|metadata| metadata.inject.as_deref());
    if matches!(label, Some("disabled" | "false")) {
        return Decision::Skip(SkipReason::Disabled);
    }
    let mut asked = Asked::of(subject);
    let (kinds, on_pod) = match kinds::inject(&asked) {
        Ok(Some(kinds)) if kinds.is_empty() => return Decision::Skip(SkipReason::Disabled),
        Ok(Some(kinds)) => (kinds, true),
        Ok(None) if subject.namespace_opted_in => (TAILSCALE, false),
        Ok(None) => return Decision::Skip(SkipReason::NotRequested),
        Err(refusal) => return Decision::Deny(refusal),
    };
    let service = match service(subject, &asked) {
        _ if !kinds.tailscale => None,
        Ok(None) if on_pod => return Decision::Deny(no_service(subject)),
        Ok(None) => return Decision::Skip(SkipReason::NoService),
        Ok(service) => service,
        Err(refusal) => return Decision::Deny(refusal),
    };
    match injection(subject, &mut asked, kinds, service, policy) {
        Ok(injection) => Decision::Inject(Box::new(injection)),
        Err(refusal) => Decision::Deny(refusal),
    }
}

/// Reads a profile's defaults as if a pod asked for nothing else.
pub(crate) fn check_defaults(
    name: &str,
    profile: &Profile,
    policy: &Policy,
) -> Result<(), Refusal> {
    let nothing = NamespaceMetadata::default();
    let subject = Subject {
        namespace: DEFAULT,
        name: "",
        annotations: &nothing,
        labels: &nothing,
        // Of its pods alone every annotation can be true.
        owner: Some(Owner {
            kind: "StatefulSet",
            name: "any",
        }),
        namespace_metadata: None,
        namespace_opted_in: true,
    };
    let mut asked = Asked::of(&subject);
    asked.fill(name, &profile.defaults);
    let mut remarks = Vec::new();
    tailscale(&subject, &asked, "any", profile, policy, &mut remarks)?;
    headscale::apikey_manager(&asked, policy, &mut remarks)?;
    headscale::server_keys(&asked)?;
    Ok(())
}

fn service<'a>(subject: &Subject<'a>, asked: &Asked<'a>) -> Result<Option<&'a str>, Refusal> {
    if let Some(value) = asked.get(Name::Service) {
        let fits = identity::is_service(value.text);
        return if fits {
            Ok(Some(value.text))
        } else {
            Err(asked.bad(Name::Service, read::SERVICE))
        };
    }
    let hashes = ["pod-template-hash", "rollouts-pod-template-hash"]
        .map(|label| subject.labels.value(label));
    Ok(identity::service(subject.owner, subject.name, hashes)
        .filter(|name| identity::is_service(name)))
}

fn no_service(subject: &Subject<'_>) -> Refusal {
    let found = match subject.owner {
        Some(Owner { kind, name }) => format!("its owner is {kind} {name:?}"),
        None if subject.name.is_empty() => {
            "it has no owner, and no name before it is generated".to_owned()
        }
        None => format!(
            "it has no owner, and {:?} is too long or no DNS name",
            subject.name
        ),
    };
    let message = format!(
        "no service can be named after this pod ({found}): set annotation \"{PREFIX}service\" to {}",
        read::SERVICE.trim_start_matches("want ")
    );
    Refusal {
        reason: DenyReason::NoService,
        message,
    }
}

fn injection<'a>(
    subject: &Subject<'a>,
    asked: &mut Asked<'a>,
    kinds: Kinds,
    service: Option<&'a str>,
    policy: &'a Policy,
) -> Result<Injection<'a>, Refusal> {
    asked.refuse_what_is_not_built()?;
    let profile_name = DEFAULT;
    let Some(profile) = policy.profiles.get(profile_name) else {
        let message =
            format!("the configuration has no profile {profile_name:?}: have the operator add it");
        return Err(Refusal {
            reason: DenyReason::NotAllowed,
            message,
        });
    };
    asked.fill(profile_name, &profile.defaults);
    let mut remarks = Vec::new();
    let tailscale = match service {
        Some(service) => Some(tailscale(
            subject,
            asked,
            service,
            profile,
            policy,
            &mut remarks,
        )?),
        None => None,
    };
    let apikey_manager = if kinds.apikey_manager {
        Some(headscale::apikey_manager(asked, policy, &mut remarks)?)
    } else {
        None
    };
    let server_keys = if kinds.server_keys {
        Some(headscale::server_keys(asked)?)
    } else {
        None
    };
    Ok(Injection {
        profile: profile_name,
        profile_hash: &profile.hash,
        tailscale,
        apikey_manager,
        server_keys,
        remarks,
    })
}

fn tailscale<'a>(
    subject: &Subject<'a>,
    asked: &Asked<'a>,
    service: &'a str,
    profile: &'a Profile,
    policy: &'a Policy,
    remarks: &mut Vec<String>,
) -> Result<Tailscale<'a>, Refusal> {
    let (control_plane, plane) = read::control_plane(asked, policy)?;
    let tags = read::tags(asked, profile)?;
    let life = read::life(asked, [Name::Expiration, Name::Buffer])?;
    let (delivery, delivery_asked) = read::delivery(asked)?;
    read::only_what_is_built(asked)?;
    let state = state::state(subject, asked)?;
    let (reusable, ephemeral) = state::reusable_and_ephemeral(asked, state)?;
    let (native, wait) = read::start(asked)?;
    if !native && subject.owner.is_some_and(|owner| owner.kind == "Job") {
        remarks.push(
            "annotation 'sidescale.io/native-sidecar' is 'false': an ordinary container keeps the Job from completing, remove it"
                .to_owned(),
        );
    }
    let (proxy, proxy_env) = network::proxy(asked)?;
    let key = match read::given_key(asked)? {
        Some((secret, data_key)) => Key::Given {
            secret: secret.to_owned(),
            data_key: data_key.to_owned(),
        },
        None => {
            remarks.extend(life.remark());
            Key::Managed(ManagedKey {
                secret: profile.auth_key_secret_name.clone(),
                data_key: identity::data_key(service, control_plane),
                user: identity::user(&plane.user_template, subject.namespace, service),
                tags,
                reusable,
                ephemeral,
                expiration: life.expiration,
                buffer: life.buffer,
            })
        }
    };
    Ok(Tailscale {
        control_plane: control_plane.to_owned(),
        login_server: &plane.login_server,
        private_ca: plane.ca_bundle.is_some(),
        service: service.to_owned(),
        hostname: read::hostname(subject, asked, service)?,
        key,
        delivery,
        delivery_asked,
        state,
        native,
        wait,
        accept_dns: asked.switch(Name::AcceptDns)?.unwrap_or(false),
        accept_routes: asked.switch(Name::AcceptRoutes)?.unwrap_or(false),
        extra_args: network::extra_args(asked, profile)?,
        proxy,
        proxy_env,
        image: read::image(asked, profile)?,
        resources: read::resources(asked, read::TAILSCALE)?,
    })
}
