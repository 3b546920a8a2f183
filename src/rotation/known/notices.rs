//! What people are told of one Secret. State, no I/O.

use std::collections::BTreeMap;

use sidescale_webhook::identity::POD_SECRET;

use super::fight::{FIGHTS, Fight};
use super::{Failing, Known};
use crate::events::{About, Notice};
use crate::quote::{self, quoted};
use crate::rotation::demand::SecretRef;
use crate::rotation::problem::Trouble;
use crate::rotation::state::State;

impl Known {
    /// What to tell people of this Secret.
    pub(in crate::rotation) fn notices<'a>(
        &'a self,
        secret: &SecretRef,
        of_plane: impl Fn(&str) -> Option<&'a Trouble>,
    ) -> Vec<Notice> {
        let notice = |state: State, note: String| Notice {
            namespace: secret.namespace.clone(),
            about: About::secret(&secret.name),
            warning: true,
            reason: state.as_str(),
            note,
        };
        if let Some(Failing { trouble, away, .. }) = &self.trouble {
            // Who would take the Event is away.
            let notice = (!away).then(|| notice(trouble.state, trouble.message.clone()));
            return notice.into_iter().collect();
        }
        let mut notices: BTreeMap<State, Notice> = BTreeMap::new();
        let refused = self.refused.iter().map(|(data_key, flaw)| {
            let (data_key, flaw) = (quoted(data_key), flaw.as_str());
            let note = format!(
                "the value that somebody wrote to data key {data_key} of Secret {secret} {flaw}: another key was made \
                 in its place. To use a key of your own, write the whole value of a living, reusable pre-auth key of that \
                 control plane there"
            );
            Notice {
                reason: "ValueRefused",
                ..notice(State::Ready, note)
            }
        });
        let unended = self.unended.iter();
        let unended = unended.filter(|(_, (_, failing))| failing.said);
        let unended = unended.map(|(data_key, (id, failing))| {
            let (id, data_key, trouble) = (id.0, quoted(data_key), &failing.trouble.message);
            let note = format!(
                "key {id}, an old one of data key {data_key} of Secret {secret}, was not ended, and whoever has it may \
                 still join with it: {trouble}. It is tried again, every five minutes in the end; by hand: headscale \
                 preauthkeys expire --id {id}"
            );
            Notice {
                reason: "KeyNotEnded",
                ..notice(State::Degraded, note)
            }
        });
        for (key, state) in &self.states {
            let failing = self.failing.get(key).map(|failing| &failing.trouble);
            let data_key = quote::name(key);
            let note = match state {
                State::Ready | State::Paused => continue,
                State::QuotaExceeded => self.too_many(secret, &data_key),
                State::Contended => self.contended(secret, key),
                State::Degraded
                | State::NoCredentials
                | State::InvalidCredentials
                | State::SecretNotOurs
                | State::UserNotOurs
                | State::UserMissing
                | State::Unsupported
                | State::Throttled
                | State::TooManyRows => {
                    // What is known of the control plane by now may be newer than the state.
                    if let Some(trouble) = of_plane(key).or(failing) {
                        let note = || notice(trouble.state, trouble.message.clone());
                        notices.entry(trouble.state).or_insert_with(note);
                    }
                    continue;
                }
            };
            notices
                .entry(*state)
                .or_insert_with(|| notice(*state, note));
        }
        let copied = self.copied_from.iter().map(|from| Notice {
            reason: "SecretCopied",
            ..notice(State::Ready, copied(secret, from))
        });
        let first = copied.chain(refused).chain(unended);
        first.chain(notices.into_values()).collect()
    }

    /// What is said of a key that is one too many: for the pods of a namespace, for the bytes of a Secret, or for the quota.
    fn too_many(&self, secret: &SecretRef, data_key: &str) -> String {
        let key = format!("key {data_key} of Secret {secret}");
        if secret.name == POD_SECRET {
            return format!(
                "{key} is one too many: a Secret has room for the keys of some 2000 pods of a namespace; run fewer pods with \
                 sidescale.io/key-mode: per-pod there, or set key-mode to shared"
            );
        }
        if self.full {
            return format!(
                "{key} has no room there: a Secret may have 1 MiB, and this one is nearly full; take out data keys that do \
                 not belong there, or have the operator set authKeySecretName in a profile, so that services have another Secret"
            );
        }
        format!(
            "{key} is one too many: the namespace has as many services as rotation.maxServicesPerNamespace allows; remove \
             some, or raise that number"
        )
    }

    fn contended(&self, secret: &SecretRef, data_key: &str) -> String {
        let SecretRef { namespace, name } = secret;
        let by = self.fights.get(data_key).and_then(Fight::by);
        let data_key = quote::name(data_key);
        let (who, find) = match by {
            Some(manager) => (
                format!("field manager {}", quoted(manager)),
                "see what it wrote",
            ),
            None => ("another writer".to_owned(), "find it"),
        };
        format!(
            "key {data_key} of Secret {secret} was made {FIGHTS} times within an hour because {who} keeps putting an \
             older state back: it is made once an hour from now on, and the one made last stays valid; {find} with \
             kubectl get secret {name} -n {namespace} -o yaml --show-managed-fields, and have it leave the Secret alone"
        )
    }
}

/// What is said of a Secret that was copied. The name it was copied from stands in a record that anybody may have written.
fn copied(secret: &SecretRef, from: &SecretRef) -> String {
    let from = quoted(&from.to_string());
    format!(
        "Secret {secret} was copied from Secret {from}, whose keys are for the services there: its keys are created anew; \
         leave Secrets of keys out of backups and of tools that copy Secrets"
    )
}
