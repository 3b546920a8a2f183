//! Events for the owner of a workload whose key was replaced. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sidescale_core::notice::{About, Notice};
use sidescale_core::secret::SecretRef;

use crate::outcome::{CreatedKey, JobOutcome};
use crate::plan::KeyReason;
use crate::workload::Workload;

/// Maximum number of Events for one new key: each pod without an owner is its own workload.
const MOST_TOLD: usize = 4;

/// The workloads whose pods use a key, by Secret and data key.
pub(super) type WorkloadsOfKeys = BTreeMap<(String, String), BTreeSet<Workload>>;

/// Returns the Events about keys that a job has replaced; a first key has none, as it replaced nothing.
pub fn notices(
    secret: &SecretRef,
    outcome: &JobOutcome,
    users: &WorkloadsOfKeys,
    overlap: Duration,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    for minted in &outcome.minted {
        let Some(what) = what(minted.why, overlap) else {
            continue;
        };
        let expires = outcome.ends.get(&minted.data_key).map(|end| end.at);
        let note = note(secret, minted, expires, &what);
        let users = users.get(&(secret.name.clone(), minted.data_key.clone()));
        for user in users.into_iter().flatten().take(MOST_TOLD) {
            notices.push(Notice {
                namespace: secret.namespace.clone(),
                about: About::Workload {
                    api_version: user.kind.api_version(),
                    kind: user.kind.as_str(),
                    name: user.name.to_string(),
                    uid: user.uid,
                },
                warning: false,
                reason: "KeyRotated",
                note: note.clone(),
            });
        }
    }
    notices
}

/// Returns why the key was replaced, and what happens to the one before.
fn what(why: KeyReason, overlap: Duration) -> Option<String> {
    let overlap = SignedDuration::try_from(overlap).unwrap_or_default();
    let goes_on = format!("the old key stays valid for {overlap:#}");
    let what = match why {
        // A key of a single pod that has not joined is not reported on its workload.
        KeyReason::First | KeyReason::NotJoined => return None,
        KeyReason::ValueLost => format!("its value was missing from the Secret; {goes_on}"),
        KeyReason::Refused(flaw) => format!("the value in the Secret {}", flaw.as_str()),
        KeyReason::Lost => "the control plane no longer has the old key".to_owned(),
        KeyReason::NotOwned => {
            "the old key belongs to a user that was not created for this service".to_owned()
        }
        KeyReason::Changed => format!("the pods now request other tags or properties; {goes_on}"),
        KeyReason::Requested => {
            format!("a rotation was requested; {goes_on}, unless --revoke expired it at once")
        }
        KeyReason::Due => format!("it was due; {goes_on}"),
    };
    Some(what)
}

fn note(secret: &SecretRef, minted: &CreatedKey, expires: Option<Timestamp>, what: &str) -> String {
    let CreatedKey {
        data_key,
        control_plane,
        id,
        ..
    } = minted;
    let expires = expires.map_or_else(String::new, |end| format!(" and is valid until {:.0}", end));
    format!(
        "key {data_key} of Secret {} was replaced: {what}. The new key has id {} at control plane {control_plane}{expires}. \
         Running pods stay connected; containers that start from now on use the new key",
        secret.name, id.0
    )
}

#[cfg(test)]
mod tests {
    use sidescale_core::id::KeyId;

    use super::*;
    use crate::record::DatedKey;
    use crate::secret_state::KeyEnd;
    use crate::workload::OwnerKind;

    fn outcome(why: KeyReason) -> JobOutcome {
        let end = KeyEnd {
            id: KeyId::from(7),
            at: Timestamp::from_second(1_800_000_000).unwrap(),
            confirmed: Some(true),
        };
        JobOutcome {
            minted: vec![CreatedKey {
                data_key: "web-authkey".into(),
                control_plane: "default".into(),
                id: KeyId::from(7),
                created: Timestamp::UNIX_EPOCH,
                replaced: Some(DatedKey {
                    id: KeyId::from(5),
                    created: Timestamp::UNIX_EPOCH,
                }),
                why,
            }],
            ends: [("web-authkey".to_owned(), end)].into(),
            ..JobOutcome::default()
        }
    }

    fn users(count: usize) -> WorkloadsOfKeys {
        let user = |n| Workload {
            kind: OwnerKind::StatefulSet,
            name: format!("web-{n}").into(),
            uid: Some(n as u128),
        };
        let key = ("keys".to_owned(), "web-authkey".to_owned());
        [(key, (0..count).map(user).collect())].into()
    }

    fn told(why: KeyReason, count: usize) -> Vec<Notice> {
        let secret = SecretRef::new("shop", "keys");
        let hour = Duration::from_secs(3_600);
        notices(&secret, &outcome(why), &users(count), hour)
    }

    #[test]
    fn each_workload_is_told_which_key_and_until_when_and_a_first_key_is_nobodys_news() {
        let notices = told(KeyReason::Due, 2);
        assert_eq!(notices.len(), 2);
        let Notice {
            about,
            note,
            warning,
            ..
        } = &notices[1];
        assert!(!warning);
        let named = About::Workload {
            api_version: "apps/v1",
            kind: "StatefulSet",
            name: "web-1".into(),
            uid: Some(1),
        };
        assert_eq!(*about, named);
        for part in [
            "web-authkey",
            "Secret keys",
            "id 7",
            "default",
            "2027-01-15T08:00:00Z",
            "1h",
            "was due",
        ] {
            assert!(note.contains(part), "{part}: {note}");
        }
        assert_eq!(told(KeyReason::First, 2), []);
        assert_eq!(told(KeyReason::Due, 0), []);
        assert_eq!(told(KeyReason::Changed, 100).len(), MOST_TOLD);
        assert!(!told(KeyReason::Lost, 1)[0].note.contains("stays valid"));
    }
}
