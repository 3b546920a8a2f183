//! The pre-auth key that a pod refers to: one given by the author, the service's shared key, or a per-pod key. Pure.

use std::cmp::Ordering;
use std::time::Duration;

use super::asked::{Annotation as Name, Asked};
use super::life::{self, Bounds};
use super::{Refusal, StateStorage, Subject, read};
use crate::forms;
use crate::identity;
use crate::keys::PREFIX;
use crate::profile::{ControlPlaneSettings, Profile, Rotation};

/// Longest lifetime of a single-use per-pod key: it has to last until the pod has joined, and is renewed until then.
const POD_KEY_LIFE: Duration = Duration::from_secs(3600);

/// Longest data key that a Secret accepts.
const LONGEST_DATA_KEY: usize = 253;

const MODE: &str = "want shared or per-pod";

/// Pre-auth key that an injected pod refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthKeyRef {
    /// Created, renewed and deleted by Sidescale.
    Managed(ManagedKey),
    /// The user's own Secret (`auth-key-secret`): never read, rotated or overwritten.
    Given {
        /// Name of the Secret in the pod's namespace.
        secret: String,
        /// Data key in it.
        data_key: String,
    },
}

/// A key that rotation creates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedKey {
    /// Name of the Secret in the pod's namespace.
    pub secret: String,
    /// Data key: `<service>-authkey` or `<service>_<control-plane>-authkey`; for a per-pod key with digits after
    /// the service.
    pub data_key: String,
    /// Headscale user.
    pub user: String,
    /// Tags of the key.
    pub tags: Vec<String>,
    /// Whether the key may be used more than once.
    pub reusable: bool,
    /// Whether Headscale deletes its nodes when they go offline.
    pub ephemeral: bool,
    /// Lifetime of the key.
    pub expiration: Duration,
    /// How long before expiry the key is renewed.
    pub buffer: Duration,
}

/// Which pods share a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyScope {
    /// One for all pods of a service.
    Shared,
    /// One for each pod.
    PerPod,
}

/// What a key is named after.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyNames<'a> {
    pub(super) service: &'a str,
    pub(super) control_plane: &'a str,
    pub(super) plane: &'a ControlPlaneSettings,
}

/// Returns the key, within what the profile allows.
pub(super) fn key(
    subject: &Subject<'_>,
    asked: &Asked<'_>,
    state: StateStorage<'_>,
    names: KeyNames<'_>,
    (profile, rotation): (&Profile, &Rotation),
    remarks: &mut Vec<String>,
) -> Result<AuthKeyRef, Refusal> {
    let tags = read::tags(asked, profile)?;
    let mode = mode(asked, state)?;
    let bounds = |least| Bounds::of_auth_keys(subject, least, asked.profile(), profile, rotation);
    let life = match mode {
        KeyScope::Shared => {
            let bounds = bounds(rotation.min_auth_key_expiration);
            life::life(asked, [Name::Expiration, Name::Buffer], bounds)?
        }
        KeyScope::PerPod => {
            let bounds = bounds(rotation.min_pod_auth_key_expiration);
            life::short_life(asked, Name::Expiration, POD_KEY_LIFE, bounds)?
        }
    };
    let reusable = reusable(asked, state, mode)?;
    let ephemeral = ephemeral(asked, state)?;
    if let Some((secret, data_key)) = given(asked, mode)? {
        return Ok(AuthKeyRef::Given {
            secret: secret.to_owned(),
            data_key: data_key.to_owned(),
        });
    }
    let KeyNames {
        service,
        control_plane,
        plane,
    } = names;
    remarks.extend(life.remark());
    let (secret, data_key) = match mode {
        KeyScope::Shared => {
            let data_key = identity::data_key(service, control_plane);
            (profile.auth_key_secret_name.clone(), data_key)
        }
        KeyScope::PerPod => {
            let data_key = identity::pod_data_key(service, subject.request, control_plane);
            if data_key.len() > LONGEST_DATA_KEY {
                let over = data_key.len() - LONGEST_DATA_KEY;
                let want = format!(
                    "the service's name is too long for a per-pod key, by {over}: want shared, or a shorter \"{PREFIX}service\""
                );
                return Err(asked.bad(Name::Mode, &want));
            }
            (identity::POD_SECRET.to_owned(), data_key)
        }
    };
    Ok(AuthKeyRef::Managed(ManagedKey {
        secret,
        data_key,
        user: identity::user(&plane.user_template, subject.namespace, service),
        tags,
        reusable,
        ephemeral,
        expiration: life.expiration,
        buffer: life.buffer,
    }))
}

/// Returns whether the service shares a key. A single-use key does not work where each start of the container needs one.
fn mode(asked: &Asked<'_>, state: StateStorage<'_>) -> Result<KeyScope, Refusal> {
    let Some(value) = asked.get(Name::Mode) else {
        return Ok(KeyScope::Shared);
    };
    match value.text {
        "shared" => Ok(KeyScope::Shared),
        "per-pod" if state == StateStorage::Memory => {
            let want = format!(
                "with \"{PREFIX}state\" memory, each start of the container logs in again, and a per-pod key works only once: want shared, or state emptydir"
            );
            Err(asked.bad(Name::Mode, &want))
        }
        "per-pod" => Ok(KeyScope::PerPod),
        _ => Err(asked.bad(Name::Mode, MODE)),
    }
}

/// Returns whether the key is reusable.
fn reusable(asked: &Asked<'_>, state: StateStorage<'_>, mode: KeyScope) -> Result<bool, Refusal> {
    let reusable = asked.switch(Name::Reusable)?;
    match mode {
        KeyScope::PerPod
            if reusable == Some(true) && beside_mode(asked, Name::Reusable).is_le() =>
        {
            let want = format!(
                "with \"{PREFIX}key-mode\" per-pod, each key works only once: remove this annotation, or set key-mode to \
                 shared"
            );
            Err(asked.bad(Name::Reusable, &want))
        }
        KeyScope::PerPod => Ok(false),
        KeyScope::Shared if reusable == Some(false) && state == StateStorage::Memory => Err(asked
            .bad(
                Name::Reusable,
                "with state memory, each start of the container uses the key again: want true",
            )),
        KeyScope::Shared => Ok(reusable.unwrap_or(true)),
    }
}

/// Compares the source of `key` with that of `key-mode`: less is nearer to the pod.
fn beside_mode(asked: &Asked<'_>, key: Name) -> Ordering {
    let place = |key| asked.get(key).map(|value| value.place);
    place(key).cmp(&place(Name::Mode))
}

/// Returns whether Headscale deletes the key's nodes when they go offline.
fn ephemeral(asked: &Asked<'_>, state: StateStorage<'_>) -> Result<bool, Refusal> {
    let ephemeral = asked.switch(Name::Ephemeral)?.unwrap_or(true);
    if !ephemeral && !matches!(state, StateStorage::Volume(_)) {
        return Err(asked.bad(
            Name::Ephemeral,
            "without stored state, every pod would leave a node behind: want true, or state volume:<name> in a StatefulSet",
        ));
    }
    Ok(ephemeral)
}

/// Returns the Secret and data key that the author gives in place of a managed key.
fn given<'a>(asked: &Asked<'a>, mode: KeyScope) -> Result<Option<(&'a str, &'a str)>, Refusal> {
    let Some(value) = asked.get(Name::Secret) else {
        return Ok(None);
    };
    let given = forms::secret_reference(value.text)
        .ok_or_else(|| asked.bad(Name::Secret, forms::SECRET_REFERENCE))?;
    let refuse = |key| {
        let want = format!(
            "this applies to keys that Sidescale creates, and \"{PREFIX}auth-key-secret\" names your own: remove one of the \
             two"
        );
        Err(asked.bad(key, &want))
    };
    // A setting for managed keys from a source further away gives way to it.
    if mode == KeyScope::PerPod && beside_mode(asked, Name::Secret).is_ge() {
        return refuse(Name::Mode);
    }
    for key in [Name::Tags, Name::Reusable, Name::Expiration, Name::Buffer] {
        if value.on_pod() && asked.get(key).is_some_and(|value| value.on_pod()) {
            return refuse(key);
        }
    }
    Ok(Some(given))
}
