//! What the owner of a workload is told when its key was replaced. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::events::{About, Notice};
use crate::rotation::demand::SecretRef;
use crate::rotation::outcome::{Minted, Outcome};
use crate::rotation::plan::Why;
use crate::rotation::workload::Workload;

/// Bounds the Events of one new key: pods that nothing owns are a workload each.
const MOST_TOLD: usize = 4;

/// The workloads whose pods use a key, by Secret and data key.
pub(super) type Users = BTreeMap<(String, String), BTreeSet<Workload>>;

/// Says what to tell of the keys that a job has replaced; of a first key nothing, as nobody had another.
pub(super) fn notices(
    secret: &SecretRef,
    outcome: &Outcome,
    users: &Users,
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

/// Why it was replaced, and what becomes of the one before.
fn what(why: Why, overlap: Duration) -> Option<String> {
    let overlap = SignedDuration::try_from(overlap).unwrap_or_default();
    let goes_on = format!("the one before it goes on for {overlap:#}");
    let what = match why {
        // A key of a single pod that has not joined is no news of its workload.
        Why::First | Why::NotJoined => return None,
        Why::ValueLost => format!("its value was no longer in the Secret; {goes_on}"),
        Why::Refused(flaw) => format!("the value that stood there {}", flaw.as_str()),
        Why::Lost => "the control plane no longer had the one before it".to_owned(),
        Why::NotOwned => {
            "the one before it is of a user that was not created for this service".to_owned()
        }
        Why::Changed => format!("the pods ask for other tags or properties; {goes_on}"),
        Why::Requested => {
            format!(
                "somebody asked for that; {goes_on}, or ended at once if that was asked for too"
            )
        }
        Why::Due => format!("it was due; {goes_on}"),
    };
    Some(what)
}

fn note(secret: &SecretRef, minted: &Minted, expires: Option<Timestamp>, what: &str) -> String {
    let Minted {
        data_key,
        control_plane,
        id,
        ..
    } = minted;
    let expires = expires.map_or_else(String::new, |end| format!(" and is valid until {:.0}", end));
    format!(
        "key {data_key} of Secret {} was replaced: {what}. The new one has id {} at control plane {control_plane}\
         {expires}. Pods that run stay connected; containers started from now on use it",
        secret.name, id.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::KeyId;
    use crate::rotation::known::KeyEnd;
    use crate::rotation::workload::Kind;

    fn outcome(why: Why) -> Outcome {
        let end = KeyEnd {
            id: KeyId(7),
            at: Timestamp::from_second(1_800_000_000).unwrap(),
            confirmed: Some(true),
        };
        Outcome {
            minted: vec![Minted {
                data_key: "web-authkey".into(),
                control_plane: "default".into(),
                id: KeyId(7),
                replaced: Some(KeyId(5)),
                why,
            }],
            ends: [("web-authkey".to_owned(), end)].into(),
            ..Outcome::default()
        }
    }

    fn users(count: usize) -> Users {
        let user = |n| Workload {
            kind: Kind::StatefulSet,
            name: format!("web-{n}").into(),
            uid: Some(n as u128),
        };
        let key = ("keys".to_owned(), "web-authkey".to_owned());
        [(key, (0..count).map(user).collect())].into()
    }

    fn told(why: Why, count: usize) -> Vec<Notice> {
        let secret = SecretRef::new("shop", "keys");
        let hour = Duration::from_secs(3_600);
        notices(&secret, &outcome(why), &users(count), hour)
    }

    #[test]
    fn each_workload_is_told_which_key_and_until_when_and_a_first_key_is_nobodys_news() {
        let notices = told(Why::Due, 2);
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
        assert_eq!(told(Why::First, 2), []);
        assert_eq!(told(Why::Due, 0), []);
        assert_eq!(told(Why::Changed, 100).len(), MOST_TOLD);
        assert!(!told(Why::Lost, 1)[0].note.contains("goes on"));
    }
}
