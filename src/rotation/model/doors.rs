//! The ways to the world: as a Secret store and as a Headscale, each call with a stop before and after. Tests.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use sidescale_core::id::KeyId;
use sidescale_core::objects::{MintedKey, NewPreAuthKey, Node, PreAuthKey, User};
use sidescale_core::release::HeadscaleRelease;
use sidescale_core::secret::StoredSecret;

use super::world::{Mishap, World};
use crate::control_plane::{At, Error, Version};
use crate::store::StoreError;

/// Access to the world; clones share it.
#[derive(Clone)]
pub struct Door(Arc<Mutex<World>>);

/// Waits once, so that the poller may let another future go first, or never return to this one.
struct Stop(bool);

impl Future for Stop {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            Poll::Ready(())
        } else {
            // A pool of many such futures polls only those that were woken.
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

impl Door {
    pub(super) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn read(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<StoredSecret>, StoreError> {
        Stop(false).await;
        let read = {
            let mut world = self.world();
            match world.store_mishap(false) {
                None => Ok(world.read(namespace, name)),
                Some(_) => Err(late("get", namespace, name)),
            }
        };
        Stop(false).await;
        read
    }

    pub(crate) async fn list(&self, name: &str) -> Result<Vec<StoredSecret>, StoreError> {
        Stop(false).await;
        let listed = {
            let mut world = self.world();
            match world.store_mishap(false) {
                None => Ok(world.list(name)),
                Some(_) => Err(late("list", "*", name)),
            }
        };
        Stop(false).await;
        listed
    }

    pub(crate) async fn write(&self, secret: &StoredSecret) -> Result<StoredSecret, StoreError> {
        Stop(false).await;
        let (namespace, name) = (secret.namespace.as_str(), secret.name.as_str());
        let conflict = || StoreError::Conflict {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let written = {
            let mut world = self.world();
            match world.store_mishap(true) {
                Some(Mishap::Refused) => Err(late("update", namespace, name)),
                mishap => {
                    let written = world.write(secret).ok_or_else(conflict);
                    match mishap {
                        None | Some(Mishap::Refused) => written,
                        Some(Mishap::AnswerLost) => Err(late("update", namespace, name)),
                        // The client retried by itself, and met its own write.
                        Some(Mishap::AskedTwice) => Err(conflict()),
                    }
                }
            }
        };
        Stop(false).await;
        written
    }

    pub(crate) async fn probe(&self) -> Result<Version, Error> {
        self.call(|_| Ok(())).await?;
        Ok(Version {
            text: "model".into(),
            release: HeadscaleRelease::V0_29,
        })
    }

    pub(crate) async fn list_users(&self) -> Result<Vec<User>, Error> {
        self.call(|world| Ok(world.users())).await
    }

    pub(crate) async fn create_user(&self, name: &str, display_name: &str) -> Result<User, Error> {
        self.call(|world| {
            world
                .create_user(name, display_name)
                .ok_or_else(|| Error::Conflict {
                    at: at(),
                    status: 409,
                    message: String::new(),
                })
        })
        .await
    }

    pub(crate) async fn list_pre_auth_keys(&self) -> Result<Vec<PreAuthKey>, Error> {
        self.call(|world| Ok(world.keys())).await
    }

    pub(crate) async fn create_pre_auth_key(
        &self,
        new: &NewPreAuthKey,
    ) -> Result<MintedKey, Error> {
        self.call(|world| {
            world.create_key(new).ok_or_else(|| Error::NotFound {
                at: at(),
                message: String::new(),
            })
        })
        .await
    }

    pub(crate) async fn expire_pre_auth_key(&self, id: KeyId) -> Result<(), Error> {
        self.call(|world| {
            world.expire(id);
            Ok(())
        })
        .await
    }

    pub(crate) async fn list_nodes(&self) -> Result<Vec<Node>, Error> {
        self.call(|_| Ok(Vec::new())).await
    }

    async fn call<T>(
        &self,
        effect: impl FnOnce(&mut World) -> Result<T, Error>,
    ) -> Result<T, Error> {
        Stop(false).await;
        let answer = {
            let mut world = self.world();
            match world.headscale_mishap() {
                None => effect(&mut world),
                Some(Mishap::Refused) => Err(lost()),
                Some(Mishap::AnswerLost | Mishap::AskedTwice) => {
                    let _ = effect(&mut world);
                    Err(lost())
                }
            }
        };
        Stop(false).await;
        answer
    }
}

/// Returns the answer to calls that the model does not implement.
pub(crate) fn none<T>() -> Result<T, Error> {
    Err(lost())
}

fn at() -> At {
    At {
        control_plane: "default".into(),
        method: "POST",
        url: "model".into(),
    }
}

fn lost() -> Error {
    Error::TimedOut {
        at: at(),
        after: Duration::from_secs(10),
    }
}

fn late(verb: &'static str, namespace: &str, name: &str) -> StoreError {
    StoreError::TimedOut {
        verb,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}
