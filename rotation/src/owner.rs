//! Which service a user of the control plane was created for, and so which keys a Secret may claim. Pure.
//!
//! A tenant can write everything in its namespace, including the record in its Secret. So the control plane's own list decides
//! whether a key may be expired, deleted, adopted or counted for a service: the display name of the key's user holds the
//! namespace and the service that Sidescale created it for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sidescale_core::fingerprint::same_fingerprint;
use sidescale_core::id::{KeyId, UserId};
use sidescale_core::objects::{PreAuthKey, User};
use sidescale_webhook::identity;

/// Prefix of every display name that Sidescale writes.
pub const PREFIX: &str = "sidescale ";

/// A service of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceOwner {
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
}

/// Name and former names of this installation: they tell its users from those of other clusters and releases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installation {
    name: String,
    former: Vec<String>,
}

/// A user that keys are created for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUser {
    /// Name of the user.
    pub name: String,
    /// The service that this installation created it for; none for a user in `adoptUsers`, which belongs to a person.
    pub owner: Option<ServiceOwner>,
    /// When the user was created, if known.
    pub created: Option<Timestamp>,
}

/// Owner of nodes and keys that belong together: a service, under any user name, or an adopted user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyHolder {
    /// A service that users were created for.
    Service(ServiceOwner),
    /// A user in `adoptUsers`, by name.
    Adopted(String),
}

/// A record's claim to a key.
#[derive(Clone, Copy, Debug)]
pub struct KeyClaim<'a> {
    /// The Secret's namespace, and the service of the record's entry.
    pub owner: &'a ServiceOwner,
    /// Id of the key.
    pub id: KeyId,
    /// Its exact expiry: after a restore from a backup, the control plane assigns ids again.
    pub expires: Timestamp,
}

impl ServiceOwner {
    /// Returns the owner with this namespace and service.
    #[must_use]
    pub fn new(namespace: &str, service: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
        }
    }

    /// Parses the display name that any installation gave a user, for commands that only list.
    #[must_use]
    pub fn of_any_installation(display_name: &str) -> Option<Self> {
        let (_, owner) = display_name.strip_prefix(PREFIX)?.rsplit_once(' ')?;
        Self::parse(owner)
    }

    fn parse(text: &str) -> Option<Self> {
        let (namespace, service) = text.split_once('/')?;
        let fits = is_label(namespace) && identity::is_service(service);
        fits.then(|| Self::new(namespace, service))
    }
}

impl std::fmt::Display for ServiceOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)
    }
}

impl Installation {
    /// Returns the installation of this name; it also owns users with one of the `former` names.
    #[must_use]
    pub fn new(name: &str, former: &[String]) -> Self {
        Self {
            name: name.to_owned(),
            former: former.to_vec(),
        }
    }

    /// Returns the name of the installation, as it stands in the display names of its users.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the display name for the user of this service.
    #[must_use]
    pub fn owner_tag(&self, owner: &ServiceOwner) -> String {
        format!("{PREFIX}{} {owner}", self.name)
    }

    /// Parses a display name; none if this installation did not write it.
    #[must_use]
    pub fn owner_of(&self, display_name: &str) -> Option<ServiceOwner> {
        let rest = display_name.strip_prefix(PREFIX)?;
        let names = std::iter::once(&self.name).chain(&self.former);
        names
            .filter_map(|name| rest.strip_prefix(name.as_str())?.strip_prefix(' '))
            .find_map(ServiceOwner::parse)
    }

    /// Returns the users that keys are created for, by id: those of this installation, and those in `adopted`.
    #[must_use]
    pub fn key_users<'a>(
        &self,
        users: impl Iterator<Item = &'a User>,
        adopted: &[String],
    ) -> BTreeMap<UserId, KeyUser> {
        let local = users.filter(|user| !user.from_provider);
        let used = local.filter_map(|user| {
            let owner = self.owner_of(&user.display_name);
            (owner.is_some() || adopted.contains(&user.name)).then(|| {
                let key_user = KeyUser {
                    name: user.name.clone(),
                    owner,
                    created: user.created_at,
                };
                (user.id, key_user)
            })
        });
        used.collect()
    }
}

impl KeyUser {
    /// Returns the holder of the user's keys.
    #[must_use]
    pub fn holder(&self) -> KeyHolder {
        match &self.owner {
            Some(owner) => KeyHolder::Service(owner.clone()),
            None => KeyHolder::Adopted(self.name.clone()),
        }
    }

    /// Returns whether keys of this user are the service's own. `adopted` is the name of the user that the service's keys are
    /// created for: a user in `adoptUsers` has no owner, so only its name tells.
    #[must_use]
    pub fn serves(&self, owner: &ServiceOwner, adopted: &str) -> bool {
        match &self.owner {
            Some(known) => known == owner,
            None => self.name == adopted,
        }
    }
}

/// Returns whether a key is what a Secret's record says it is, so that the Secret may claim it.
///
/// `row` and `users` come from one fresh listing of the control plane. A key with tags only has no user and is never owned.
#[must_use]
pub fn owns(
    row: &PreAuthKey,
    users: &BTreeMap<UserId, KeyUser>,
    claim: &KeyClaim<'_>,
    adopted: &str,
) -> bool {
    let user = row.user.and_then(|user| users.get(&user));
    let same_end = |end| same_fingerprint(end, claim.expires);
    row.id == claim.id
        && row.expiration.is_some_and(same_end)
        && user.is_some_and(|user| user.serves(claim.owner, adopted))
}

fn is_label(namespace: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !namespace.is_empty() && namespace.len() <= 63 && namespace.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation() -> Installation {
        Installation::new("uid-1 sidescale", &["old name".to_owned()])
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn reads_the_display_names_that_it_writes() {
        let owner = ServiceOwner::new("shop", "api.v2");
        let tag = installation().owner_tag(&owner);
        assert_eq!(tag, "sidescale uid-1 sidescale shop/api.v2");
        assert_eq!(installation().owner_of(&tag), Some(owner));
        for (display_name, want) in [
            ("sidescale old name shop/web", Some(("shop", "web"))),
            ("sidescale uid-2 sidescale shop/web", None),
            ("sidescale uid-1 sidescale-b shop/web", None),
            ("sidescale uid-1 sidescale", None),
            ("sidescale uid-1 sidescale shop", None),
            ("sidescale uid-1 sidescale Shop/web", None),
            ("sidescale uid-1 sidescale shop/web/x", None),
            ("sidescale uid-1 sidescale /web", None),
            ("sidescale uid-1 sidescale shop/", None),
            ("sidescale uid-1 sidescale a shop/web", None),
            ("Sidescale uid-1 sidescale shop/web", None),
            ("shop/web", None),
            ("", None),
        ] {
            let want = want.map(|(namespace, service)| ServiceOwner::new(namespace, service));
            assert_eq!(
                installation().owner_of(display_name),
                want,
                "{display_name}"
            );
        }
    }

    fn users() -> BTreeMap<UserId, KeyUser> {
        let user = |id, name: &str, display_name: &str, from_provider| User {
            id: UserId::from(id),
            name: name.into(),
            display_name: display_name.into(),
            from_provider,
            created_at: Some(at(1)),
        };
        let mark = "sidescale uid-1 sidescale shop/web";
        let users = [
            user(1, "shop.web", mark, false),
            // An administrator gave it another name.
            user(2, "renamed", mark, false),
            user(3, "shop.web", mark, true),
            user(4, "other.web", "sidescale uid-1 sidescale other/web", false),
            user(5, "adopted", "", false),
            user(6, "person", "Pat", false),
            user(7, "shop.web", "sidescale old name shop/web", false),
        ];
        installation().key_users(users.iter(), &["adopted".to_owned()])
    }

    #[test]
    fn keys_are_made_for_users_of_ours_and_adopted_ones() {
        let ids: Vec<_> = users().keys().filter_map(|id| id.0.number()).collect();
        assert_eq!(ids, [1, 2, 4, 5, 7]);
    }

    #[test]
    fn a_secret_speaks_of_the_keys_of_its_own_service_alone() {
        let owner = ServiceOwner::new("shop", "web");
        let row = |user: Option<u64>, id, expires| PreAuthKey {
            id: KeyId::from(id),
            prefix: None,
            user: user.map(UserId::from),
            reusable: true,
            ephemeral: true,
            used: false,
            expiration: expires,
            created_at: None,
            tags: Vec::new(),
        };
        let end = Timestamp::new(100, 123_456_000).unwrap();
        let claim = KeyClaim {
            owner: &owner,
            id: KeyId::from(9),
            expires: end,
        };
        for (user, id, expires, adopted, want, why) in [
            (Some(1), 9, Some(end), "", true, "its user's"),
            (Some(2), 9, Some(end), "", true, "whatever that is called"),
            (Some(7), 9, Some(end), "", true, "made under a former name"),
            (Some(3), 9, Some(end), "", false, "a provider's user"),
            (
                Some(4),
                9,
                Some(end),
                "other.web",
                false,
                "another namespace's",
            ),
            (Some(5), 9, Some(end), "adopted", true, "adopted for it"),
            (
                Some(5),
                9,
                Some(end),
                "shop.web",
                false,
                "adopted for another",
            ),
            (Some(6), 9, Some(end), "person", false, "a person's"),
            (Some(99), 9, Some(end), "", false, "nobody's"),
            (None, 9, Some(end), "", false, "tags alone"),
            (Some(1), 8, Some(end), "", false, "another id"),
            (Some(1), 9, Some(at(100)), "", false, "another end"),
            (Some(1), 9, None, "", false, "no end"),
        ] {
            let owned = owns(&row(user, id, expires), &users(), &claim, adopted);
            assert_eq!(owned, want, "{why}");
        }
        let elsewhere = ServiceOwner::new("shop", "api");
        let claim = KeyClaim {
            owner: &elsewhere,
            ..claim
        };
        assert!(!owns(&row(Some(1), 9, Some(end)), &users(), &claim, ""));
    }
}
