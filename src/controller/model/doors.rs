//! The ways to the world: as a Secret store and as a Headscale, each call with a stop before and after. Tests.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sidescale_control_plane::{At, ControlPlane, Error, RowList, Version};
use sidescale_core::id::{KeyId, NodeId, UserId};
use sidescale_core::objects::{MintedKey, NewPreAuthKey, Node, PreAuthKey, User};
use sidescale_core::release::HeadscaleRelease;
use sidescale_core::secret::StoredSecret;

use super::world::{Mishap, World};
use crate::store::{Secrets, StoreError};

/// Access to the world; clones share it.
#[derive(Clone)]
pub(super) struct Door(Arc<Mutex<World>>);

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

impl Secrets for Door {
    fn read<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<StoredSecret>, StoreError>> {
        let call = async move {
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
        };
        call.boxed()
    }

    fn fold<'a>(
        &'a self,
        name: &'a str,
        each: &'a mut (dyn FnMut(StoredSecret) + Send),
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let call = async move {
            Stop(false).await;
            let listed = {
                let mut world = self.world();
                match world.store_mishap(false) {
                    None => Ok(world.list(name)),
                    Some(_) => Err(late("list", "*", name)),
                }
            };
            Stop(false).await;
            listed?.into_iter().for_each(each);
            Ok(())
        };
        call.boxed()
    }

    fn write<'a>(
        &'a self,
        secret: &'a StoredSecret,
    ) -> BoxFuture<'a, Result<StoredSecret, StoreError>> {
        let call = async move {
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
        };
        call.boxed()
    }
}

impl ControlPlane for Door {
    fn name(&self) -> &str {
        "model"
    }

    fn probe(&self) -> BoxFuture<'_, Result<Version, Error>> {
        let version = |_: &mut World| {
            Ok(Version {
                text: "model".into(),
                release: HeadscaleRelease::V0_29,
            })
        };
        self.call(version).boxed()
    }

    fn list_users(&self) -> BoxFuture<'_, Result<Vec<User>, Error>> {
        self.call(|world| Ok(world.users())).boxed()
    }

    fn create_user<'a>(
        &'a self,
        name: &'a str,
        display_name: &'a str,
    ) -> BoxFuture<'a, Result<User, Error>> {
        let taken = || Error::Conflict {
            at: at(),
            status: 409,
            message: String::new(),
        };
        let call = self.call(move |world| {
            let created = world.create_user(name, display_name);
            created.ok_or_else(taken)
        });
        call.boxed()
    }

    fn delete_user(&self, _: UserId) -> BoxFuture<'_, Result<(), Error>> {
        none()
    }

    fn list_last_pre_auth_keys(&self) -> BoxFuture<'_, Result<RowList<PreAuthKey>, Error>> {
        self.call(|world| Ok(RowList::all(world.keys()))).boxed()
    }

    fn create_pre_auth_key<'a>(
        &'a self,
        new: &'a NewPreAuthKey,
    ) -> BoxFuture<'a, Result<MintedKey, Error>> {
        let missing = || Error::NotFound {
            at: at(),
            message: String::new(),
        };
        let call = self.call(move |world| world.create_key(new).ok_or_else(missing));
        call.boxed()
    }

    fn expire_pre_auth_key(&self, id: KeyId) -> BoxFuture<'_, Result<(), Error>> {
        let call = self.call(move |world| {
            world.expire(id);
            Ok(())
        });
        call.boxed()
    }

    fn delete_pre_auth_key(&self, _: KeyId) -> BoxFuture<'_, Result<(), Error>> {
        none()
    }

    fn list_nodes(&self) -> BoxFuture<'_, Result<Vec<Node>, Error>> {
        self.call(|_| Ok(Vec::new())).boxed()
    }

    fn delete_node(&self, _: NodeId) -> BoxFuture<'_, Result<(), Error>> {
        none()
    }

    fn rename_node<'a>(&'a self, _: NodeId, _: &'a str) -> BoxFuture<'a, Result<Node, Error>> {
        none()
    }
}

/// Returns the answer to calls that the model does not implement.
fn none<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, Error>> {
    std::future::ready(Err(lost())).boxed()
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
