//! The Events about one Secret. State, no I/O.

use std::collections::BTreeMap;

use sidescale_core::key_state::KeyState;
use sidescale_core::notice::{About, Notice};
use sidescale_core::problem::Problem;
use sidescale_core::quote::{self, quoted};
use sidescale_core::secret::SecretRef;
use sidescale_webhook::identity::POD_SECRET;

use super::contention::{Contention, OVERWRITES};
use super::{Failing, SecretState};

impl SecretState {
    /// Returns the Events about this Secret.
    pub fn notices<'a>(
        &'a self,
        secret: &SecretRef,
        of_plane: impl Fn(&str) -> Option<&'a Problem>,
    ) -> Vec<Notice> {
        let notice = |state: KeyState, note: String| Notice {
            namespace: secret.namespace.clone(),
            about: About::secret(&secret.name),
            warning: true,
            reason: state.as_str(),
            note,
        };
        if let Some(Failing { problem, away, .. }) = &self.problem {
            // The API server, which takes Events, is unavailable.
            let notice = (!away).then(|| notice(problem.state, problem.message.clone()));
            return notice.into_iter().collect();
        }
        let mut notices: BTreeMap<KeyState, Notice> = BTreeMap::new();
        let refused = self.refused.iter().map(|(data_key, flaw)| {
            let (data_key, flaw) = (quoted(data_key), flaw.as_str());
            let note = format!(
                "the value that was written to data key {data_key} of Secret {secret} {flaw}: Sidescale replaced it with a \
                 new key. To use your own key, write the complete value of a valid, reusable pre-auth key of that control \
                 plane there"
            );
            Notice {
                reason: "ValueRefused",
                ..notice(KeyState::Ready, note)
            }
        });
        let unended = self.unended.iter();
        let unended = unended.filter(|(_, (_, failing))| failing.said);
        let unended = unended.map(|(data_key, (id, failing))| {
            let (id, data_key, problem) = (id.0, quoted(data_key), &failing.problem.message);
            let note = format!(
                "old key {id} of data key {data_key} of Secret {secret} was not expired, so anyone who has it can still \
                 join: {problem}. Sidescale keeps retrying, at least every five minutes; to expire it yourself: headscale \
                 preauthkeys expire --id {id}"
            );
            Notice {
                reason: "KeyNotEnded",
                ..notice(KeyState::Degraded, note)
            }
        });
        for (key, state) in &self.states {
            let failing = self.failing.get(key).map(|failing| &failing.problem);
            let data_key = quote::name(key);
            let note = match state {
                KeyState::Ready | KeyState::Paused => continue,
                KeyState::QuotaExceeded => self.too_many(secret, &data_key),
                KeyState::Contended => self.contended(secret, key),
                KeyState::Degraded
                | KeyState::NoCredentials
                | KeyState::InvalidCredentials
                | KeyState::SecretNotOurs
                | KeyState::UserNotOurs
                | KeyState::UserMissing
                | KeyState::Unsupported
                | KeyState::Throttled
                | KeyState::TooManyRows => {
                    // The current state of the control plane may be newer than the key's state.
                    if let Some(problem) = of_plane(key).or(failing) {
                        let note = || notice(problem.state, problem.message.clone());
                        notices.entry(problem.state).or_insert_with(note);
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
            ..notice(KeyState::Ready, copied(secret, from))
        });
        let first = copied.chain(refused).chain(unended);
        first.chain(notices.into_values()).collect()
    }

    /// Returns the text about a key that is one too many: for the pods of a namespace, for the size of a Secret, or for the quota.
    fn too_many(&self, secret: &SecretRef, data_key: &str) -> String {
        let key = format!("key {data_key} of Secret {secret}");
        if secret.name == POD_SECRET {
            return format!(
                "{key} exceeds the limit: a Secret has room for the keys of about 2000 pods of a namespace; run fewer pods \
                 with sidescale.io/key-mode: per-pod there, or set key-mode to shared"
            );
        }
        if self.full {
            return format!(
                "{key} does not fit: a Secret is limited to 1 MiB, and this one is nearly full; remove data keys that do not \
                 belong there, or ask the operator to set authKeySecretName in a profile, so that services use another \
                 Secret"
            );
        }
        format!(
            "{key} exceeds the limit: the namespace already has as many services as rotation.maxServicesPerNamespace allows; \
             remove some, or raise that number"
        )
    }

    fn contended(&self, secret: &SecretRef, data_key: &str) -> String {
        let SecretRef { namespace, name } = secret;
        let by = self.fights.get(data_key).and_then(Contention::by);
        let data_key = quote::name(data_key);
        let (who, find) = match by {
            Some(manager) => (
                format!("field manager {}", quoted(manager)),
                "see what it wrote",
            ),
            None => ("another writer".to_owned(), "find it"),
        };
        format!(
            "key {data_key} of Secret {secret} was created {OVERWRITES} times within an hour because {who} keeps restoring \
             an older state: from now on, Sidescale creates it at most once an hour, and the last one stays valid; {find} \
             with kubectl get secret {name} -n {namespace} -o yaml --show-managed-fields, and stop it from writing to the \
             Secret"
        )
    }
}

/// Returns the text about a copied Secret. The name of the original comes from a record that anybody may have written.
fn copied(secret: &SecretRef, from: &SecretRef) -> String {
    let from = quoted(&from.to_string());
    format!(
        "Secret {secret} was copied from Secret {from}, whose keys belong to the services there: Sidescale creates new keys \
         for this one; exclude Secrets of keys from backups and from tools that copy Secrets"
    )
}
