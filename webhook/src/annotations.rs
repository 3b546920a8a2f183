//! Every key, its form, its default: metadata and policy -> Injection, or an error its author can act on. Pure.

use std::time::Duration;

mod asked;
mod read;

use asked::{Asked, Key as Name};

use crate::identity::{self, Hostname, Owner};
use crate::profile::{Delivery, Policy, Resources};

pub(crate) use asked::{KNOWN, Support};
pub(crate) use read::{HOSTNAME, TAGS};

pub use asked::unknown;

/// Is the shortest life of a key: shorter ones would have us mint without end.
pub(crate) const SHORTEST_LIFE: Duration = Duration::from_secs(60);

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

/// Holds everything that one injection needs, parsed and allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection<'a> {
    /// Profile that was used.
    pub profile: &'a str,
    /// Its hash.
    pub profile_hash: &'a str,
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
    /// Whether the app waits until the node is up.
    pub wait: bool,
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

/// Says why a pod is denied, with the text its author reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Kind of trouble, a bounded label.
    pub reason: DenyReason,
    /// Names the annotation, the value, what is accepted and what to do.
    pub message: String,
}

/// Why a pod is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// An annotation's value cannot be read.
    BadValue,
    /// The profile or control plane does not allow it, or does not exist.
    NotAllowed,
    /// No service name can be derived.
    NoService,
    /// Known, and not built yet.
    NotSupported,
}

/// Why a pod is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Our receipt and container are there.
    AlreadyInjected,
    /// `inject: "false"`, or the namespace is disabled.
    Disabled,
    /// `hostNetwork: true`.
    HostNetwork,
    /// A mirror pod of a static pod.
    MirrorPod,
    /// A container or volume has a name of ours.
    NameTaken,
    /// Opted in by its namespace, and no service name can be derived.
    NoService,
    /// Nothing asks for a sidecar.
    NotRequested,
    /// Not a pod's creation.
    NotAPodCreate,
    /// A Windows pod.
    Windows,
}

impl DenyReason {
    /// The bounded label for metrics and audit annotations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadValue => "badValue",
            Self::NotAllowed => "notAllowed",
            Self::NoService => "noService",
            Self::NotSupported => "notSupported",
        }
    }
}

impl SkipReason {
    /// What the pod's creator is warned of; nothing where leaving it alone is what was asked.
    pub(crate) fn remark(self) -> Option<&'static str> {
        match self {
            Self::HostNetwork => {
                Some("no sidecar: the pod has hostNetwork, and the node is not ours to join")
            }
            Self::NameTaken => Some(
                "no sidecar: a container is named 'tailscale', or a volume's name begins with 'sidescale-'; rename it",
            ),
            Self::NoService => Some(
                "no sidecar: no service can be named after this pod, set annotation 'sidescale.io/service'",
            ),
            Self::Windows => Some("no sidecar: Windows pods are not supported"),
            Self::NotRequested => Some(
                "no sidecar: nothing asks for one, set annotation 'sidescale.io/inject' to 'tailscale'",
            ),
            Self::AlreadyInjected | Self::Disabled | Self::MirrorPod | Self::NotAPodCreate => None,
        }
    }

    /// The bounded label for metrics, audit annotations and the receipt.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyInjected => "reinvoked",
            Self::Disabled => "disabled",
            Self::HostNetwork => "hostNetwork",
            Self::MirrorPod => "mirrorPod",
            Self::NameTaken => "nameTaken",
            Self::NoService => "noService",
            Self::NotRequested => "notRequested",
            Self::NotAPodCreate => "notAPodCreate",
            Self::Windows => "windows",
        }
    }
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
    let asked = Asked::of(subject);
    let on_pod = match read::inject(&asked) {
        Ok(Some(true)) => true,
        Ok(None) if subject.namespace_opted_in => false,
        Ok(None) => return Decision::Skip(SkipReason::NotRequested),
        Ok(Some(false)) => return Decision::Skip(SkipReason::Disabled),
        Err(refusal) => return Decision::Deny(refusal),
    };
    let service = match service(subject, &asked) {
        Ok(Some(service)) => service,
        Ok(None) if on_pod => return Decision::Deny(no_service(subject)),
        Ok(None) => return Decision::Skip(SkipReason::NoService),
        Err(refusal) => return Decision::Deny(refusal),
    };
    match injection(subject, &asked, service, policy) {
        Ok(injection) => Decision::Inject(Box::new(injection)),
        Err(refusal) => Decision::Deny(refusal),
    }
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
    asked: &Asked<'a>,
    service: &'a str,
    policy: &'a Policy,
) -> Result<Injection<'a>, Refusal> {
    asked.refuse_what_is_not_built()?;
    let profile_name = crate::profile::DEFAULT;
    let Some(profile) = policy.profiles.get(profile_name) else {
        let message =
            format!("the configuration has no profile {profile_name:?}: have the operator add it");
        return Err(Refusal {
            reason: DenyReason::NotAllowed,
            message,
        });
    };
    let (control_plane, plane) = read::control_plane(asked, profile, policy)?;
    let tags = read::tags(asked, profile)?;
    let (expiration, buffer) = read::life(asked, profile)?;
    let reusable = asked.switch(Name::Reusable)?.unwrap_or(profile.reusable);
    let (delivery, delivery_asked) = read::delivery(asked, profile)?;
    read::only_what_is_built(asked)?;
    let key = match read::given_key(asked, profile)? {
        Some((secret, data_key)) => Key::Given {
            secret: secret.to_owned(),
            data_key: data_key.to_owned(),
        },
        None => Key::Managed(ManagedKey {
            secret: profile.auth_key_secret_name.clone(),
            data_key: identity::data_key(service, control_plane),
            user: identity::user(&plane.user_template, subject.namespace, service),
            tags,
            reusable,
            ephemeral: true,
            expiration,
            buffer,
        }),
    };
    Ok(Injection {
        profile: profile_name,
        profile_hash: &profile.hash,
        control_plane: control_plane.to_owned(),
        login_server: &plane.login_server,
        private_ca: plane.ca_bundle.is_some(),
        service: service.to_owned(),
        hostname: read::hostname(subject, asked, profile, service)?,
        key,
        delivery,
        delivery_asked,
        wait: asked.switch(Name::Wait)?.unwrap_or(profile.wait),
        image: &profile.image,
        resources: read::resources(asked, profile)?,
    })
}
