//! The users that keys are made for: found, made, or refused because they are another's. I/O.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use super::{Plane, Trouble};
use crate::control_plane::{Error, User, UserId};
use crate::rotation::state::State;

impl Plane {
    /// Refuses a user that is known to be another's, or missing where people make them; asks again before it does.
    ///
    /// # Errors
    /// The user is not ours, or missing, or the call failed.
    pub async fn check_user(&self, name: &str) -> Result<(), Trouble> {
        let wrong = |plane: &Self| match plane.users().get(name) {
            Some(user) if plane.may_use(user) => None,
            Some(user) => Some(plane.not_ours(user)),
            None if plane.manages_users => None,
            None => Some(plane.missing(name)),
        };
        if wrong(self).is_none() {
            return Ok(());
        }
        self.list_users().await?;
        wrong(self).map_or(Ok(()), Err)
    }

    /// The user to make a key for: known, or made now if that is ours to do.
    pub(super) async fn user(&self, name: &str) -> Result<UserId, Trouble> {
        let known = self.users().get(name).cloned();
        if let Some(user) = known.filter(|user| self.may_use(user)) {
            return Ok(user.id);
        }
        if self.manages_users && !self.users().contains_key(name) {
            // Asked first and looked up only if it is taken: a new service waits for one call less.
            match self
                .counted("create_user", self.client.create_user(name, &self.mark))
                .await
            {
                Ok(user) => {
                    let id = user.id;
                    self.users().insert(name.to_owned(), user);
                    return Ok(id);
                }
                Err(Error::Conflict { .. }) => {}
                Err(error @ Error::Refused { .. }) => {
                    // Some versions say no more than 500 of a name that is taken.
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
            Some(user) if self.may_use(&user) => Ok(user.id),
            Some(user) => Err(self.not_ours(&user)),
            None if !self.manages_users => Err(self.missing(name)),
            None => {
                let message = format!(
                    "control plane \"{}\": user \"{name}\" came and went: trying again",
                    self.name
                );
                Err(Trouble {
                    state: State::Degraded,
                    message,
                    of_plane: false,
                })
            }
        }
    }

    pub(super) async fn list_users(&self) -> Result<(), Error> {
        let listed = self.counted("list_users", self.client.list_users()).await?;
        // Names are unique among users without a provider; the others are nobody's of ours.
        let ours = listed.into_iter().filter(|user| !user.from_provider);
        *self.users() = ours.map(|user| (user.name.clone(), user)).collect();
        Ok(())
    }

    pub(super) fn may_use(&self, user: &User) -> bool {
        self.is_ours(user) || !user.from_provider && self.adopted.contains(&user.name)
    }

    pub(super) fn is_ours(&self, user: &User) -> bool {
        !user.from_provider && user.display_name == self.mark
    }

    fn not_ours(&self, user: &User) -> Trouble {
        let (plane, name, mark) = (&self.name, &user.name, &self.mark);
        let another = match user.display_name.starts_with("sidescale ") {
            true => {
                "; where that is another cluster's, set clusterName here, which parts their users"
            }
            false => "",
        };
        let message = format!(
            "user \"{name}\" of control plane \"{plane}\" was not made by this installation: its display name \
             is \"{}\", want \"{mark}\"; rename that user, or list it under controlPlanes.{plane}.adoptUsers \
             to have keys made for it{another}",
            user.display_name
        );
        Trouble {
            state: State::UserNotOurs,
            message,
            of_plane: false,
        }
    }

    fn missing(&self, name: &str) -> Trouble {
        let (plane, mark) = (&self.name, &self.mark);
        // The mark is ours to give away: whoever may make users may make one for us.
        let message = format!(
            "control plane \"{plane}\" has no user \"{name}\", and rotation.users: never leaves making it to people; paste \
             this where headscale runs, once: headscale users create {name} --display-name \"{mark}\""
        );
        Trouble {
            state: State::UserMissing,
            message,
            of_plane: false,
        }
    }

    pub(super) fn users(&self) -> MutexGuard<'_, BTreeMap<String, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
