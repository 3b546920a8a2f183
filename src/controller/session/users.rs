//! The users that keys are created for: found, created, or refused because they are another's. I/O.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use sidescale_control_plane::Error;
use sidescale_core::id::UserId;
use sidescale_core::key_state::KeyState;
use sidescale_core::objects::User;
use sidescale_core::problem::Problem;
use sidescale_rotation::owner::{PREFIX, ServiceOwner};

use super::Session;

/// Maximum number of characters shown of a display name.
const SHOWN: usize = 200;

impl Session {
    /// Fails for a user that belongs to another owner, or is missing where people create users; lists users again before it fails.
    ///
    /// # Errors
    /// The user belongs to another owner or is missing, or the call failed.
    pub async fn check_user(&self, name: &str, owner: &ServiceOwner) -> Result<(), Problem> {
        let wrong = |plane: &Self| match plane.users().get(name) {
            Some(user) if plane.may_use(user, owner) => None,
            Some(user) => Some(plane.not_ours(user, owner)),
            None if plane.manages_users => None,
            None => Some(plane.missing(name, owner)),
        };
        if wrong(self).is_none() {
            return Ok(());
        }
        self.list_users().await?;
        wrong(self).map_or(Ok(()), Err)
    }

    /// Returns the user to create a key for; creates the user if Sidescale manages users.
    pub(super) async fn user(&self, name: &str, owner: &ServiceOwner) -> Result<UserId, Problem> {
        let known = self.users().get(name).cloned();
        if let Some(user) = known.filter(|user| self.may_use(user, owner)) {
            return Ok(user.id);
        }
        if self.manages_users && !self.users().contains_key(name) {
            let tag = self.installation.owner_tag(owner);
            // Created first, and looked up only if the name is taken: a new service waits for one call less.
            match self
                .counted("create_user", self.client.create_user(name, &tag))
                .await
            {
                Ok(user) => {
                    // Everything known of its keys later depends on this.
                    if user.name != name || !self.is_owned(&user, owner) {
                        return Err(self.created_otherwise(name, &tag));
                    }
                    let id = user.id;
                    self.users().insert(name.to_owned(), user);
                    return Ok(id);
                }
                Err(Error::Conflict { .. }) => {}
                Err(error @ Error::Refused { .. }) => {
                    // Some versions answer only 500 if a name is taken.
                    self.list_users().await?;
                    if !self.users().contains_key(name) {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.list_users().await?;
        let found = self.users().get(name).cloned();
        match found {
            Some(user) if self.may_use(&user, owner) => Ok(user.id),
            Some(user) => Err(self.not_ours(&user, owner)),
            None if !self.manages_users => Err(self.missing(name, owner)),
            None => {
                let message = format!(
                    "control plane \"{}\": user \"{name}\" disappeared between two calls: retrying",
                    self.name
                );
                Err(Problem {
                    state: KeyState::Degraded,
                    message,
                    of_plane: false,
                })
            }
        }
    }

    pub(super) async fn list_users(&self) -> Result<(), Error> {
        let listed = self.counted("list_users", self.client.list_users()).await?;
        // Names are unique among users without a provider; the others are never ours.
        let ours = listed.into_iter().filter(|user| !user.from_provider);
        *self.users() = ours.map(|user| (user.name.clone(), user)).collect();
        Ok(())
    }

    fn may_use(&self, user: &User, owner: &ServiceOwner) -> bool {
        self.is_owned(user, owner) || !user.from_provider && self.adopted.contains(&user.name)
    }

    /// Returns whether Sidescale created the user for this service.
    fn is_owned(&self, user: &User, owner: &ServiceOwner) -> bool {
        let created_for = self.installation.owner_of(&user.display_name);
        !user.from_provider && created_for.as_ref() == Some(owner)
    }

    fn not_ours(&self, user: &User, owner: &ServiceOwner) -> Problem {
        let (plane, name) = (&self.name, &user.name);
        let tag = self.installation.owner_tag(owner);
        let another = match user.display_name.starts_with(PREFIX) {
            true => {
                "; if it belongs to another cluster, set clusterName here, so that the users' names differ; if it has a \
                 former name of this installation, list that name under formerInstallations"
            }
            false => "",
        };
        let shown: String = user.display_name.chars().take(SHOWN).collect();
        let message = format!(
            "user {name:?} of control plane \"{plane}\" was not created by this installation for service {owner}: its \
             display name is {shown:?}, want {tag:?}; rename that user, or list it under controlPlanes.{plane}.adoptUsers to \
             have keys created for it{another}"
        );
        Problem {
            state: KeyState::UserNotOurs,
            message,
            of_plane: false,
        }
    }

    fn created_otherwise(&self, name: &str, tag: &str) -> Problem {
        let message = format!(
            "control plane \"{}\" created a user with another name or display name than requested, want {name:?} and \
             {tag:?}: no key is created for it; check that nothing between Sidescale and Headscale rewrites requests, and \
             delete that user",
            self.name
        );
        Problem {
            state: KeyState::Degraded,
            message,
            of_plane: false,
        }
    }

    fn missing(&self, name: &str, owner: &ServiceOwner) -> Problem {
        let (plane, tag) = (&self.name, self.installation.owner_tag(owner));
        // It is safe to show the tag: anybody who may create users may create one for us.
        let message = format!(
            "control plane \"{plane}\" has no user \"{name}\", and with rotation.users: never Sidescale does not create it; \
             run this once where headscale runs: headscale users create {name} --display-name \"{tag}\""
        );
        Problem {
            state: KeyState::UserMissing,
            message,
            of_plane: false,
        }
    }

    pub(super) fn users(&self) -> MutexGuard<'_, BTreeMap<String, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
