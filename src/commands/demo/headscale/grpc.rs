//! The embedded Headscale by gRPC, as 0.28 and 0.29 serve it on their Unix socket; shares its state with REST. I/O:
//! tonic.

use jiff::Timestamp;
use sidescale_proto::v1::headscale_service_server::{HeadscaleService, HeadscaleServiceServer};
use sidescale_proto::{Time, v1};
use tonic::{Code, Request, Response, Status};

use super::state::{
    NewKey, ServerState, StateError, StoredApiKey, StoredKey, StoredNode, StoredUser,
};
use super::{Call, Embedded, Flavour, reply};

type GrpcAnswer<T> = Result<Response<T>, Status>;

/// Prefix of all its methods.
pub(super) const PATH: &str = "/headscale.v1.HeadscaleService/";

/// Returns the service, to be mounted at [`PATH`].
pub(super) fn service(server: Embedded) -> HeadscaleServiceServer<Embedded> {
    HeadscaleServiceServer::new(server)
}

/// Returns the kind of request of a method.
pub(super) fn kind(method: &str) -> Call {
    match method {
        "ListUsers" => Call::ListUsers,
        "CreateUser" => Call::CreateUser,
        "DeleteUser" => Call::DeleteUser,
        "ListPreAuthKeys" => Call::ListPreAuthKeys,
        "CreatePreAuthKey" => Call::CreatePreAuthKey,
        "ExpirePreAuthKey" => Call::ExpirePreAuthKey,
        "DeletePreAuthKey" => Call::DeletePreAuthKey,
        "ListNodes" => Call::ListNodes,
        "DeleteNode" | "RenameNode" | "ExpireNode" => Call::ChangeNode,
        "ListApiKeys" => Call::ListApiKeys,
        "CreateApiKey" | "ExpireApiKey" | "DeleteApiKey" => Call::ChangeApiKey,
        _ => Call::Other,
    }
}

#[tonic::async_trait]
impl HeadscaleService for Embedded {
    async fn health(&self, _: Request<v1::HealthRequest>) -> GrpcAnswer<v1::HealthResponse> {
        done(v1::HealthResponse {
            database_connectivity: true,
        })
    }

    async fn check_policy(
        &self,
        _: Request<v1::CheckPolicyRequest>,
    ) -> GrpcAnswer<v1::CheckPolicyResponse> {
        match self.shared.flavour {
            Flavour::V0_28 => Err(Status::unimplemented("unknown method CheckPolicy")),
            Flavour::V0_29 | Flavour::Main => done(v1::CheckPolicyResponse {}),
        }
    }

    async fn list_users(
        &self,
        _: Request<v1::ListUsersRequest>,
    ) -> GrpcAnswer<v1::ListUsersResponse> {
        let users = self.inner().state.users.iter().map(user).collect();
        done(v1::ListUsersResponse { users })
    }

    async fn create_user(
        &self,
        request: Request<v1::CreateUserRequest>,
    ) -> GrpcAnswer<v1::CreateUserResponse> {
        let v1::CreateUserRequest { name, display_name } = request.into_inner();
        let now = self.now();
        let mut inner = self.inner();
        let created = inner.state.create_user(&name, &display_name, "", now);
        let user = created.map(user).map_err(failed)?;
        done(v1::CreateUserResponse { user: Some(user) })
    }

    async fn delete_user(
        &self,
        request: Request<v1::DeleteUserRequest>,
    ) -> GrpcAnswer<v1::DeleteUserResponse> {
        let all_keys = self.shared.flavour.deletes_all_keys();
        let id = request.into_inner().id;
        self.inner()
            .state
            .delete_user(id, all_keys)
            .map_err(failed)?;
        done(v1::DeleteUserResponse {})
    }

    async fn list_pre_auth_keys(
        &self,
        _: Request<v1::ListPreAuthKeysRequest>,
    ) -> GrpcAnswer<v1::ListPreAuthKeysResponse> {
        let inner = self.inner();
        let keys = inner.state.keys.iter();
        let pre_auth_keys = keys
            .map(|key| pre_auth_key(&inner.state, key, false))
            .collect();
        done(v1::ListPreAuthKeysResponse { pre_auth_keys })
    }

    async fn create_pre_auth_key(
        &self,
        request: Request<v1::CreatePreAuthKeyRequest>,
    ) -> GrpcAnswer<v1::CreatePreAuthKeyResponse> {
        let v1::CreatePreAuthKeyRequest {
            user,
            reusable,
            ephemeral,
            expiration,
            acl_tags,
        } = request.into_inner();
        let now = self.now();
        let new = NewKey {
            user: Some(user).filter(|&id| id != 0),
            reusable,
            ephemeral,
            expiration: expiration.and_then(from_proto),
            tags: acl_tags,
        };
        let mut inner = self.inner();
        let id = inner
            .state
            .create_key(new, now)
            .map(|key| key.id)
            .map_err(failed)?;
        let state = &inner.state;
        let key = state.keys.iter().find(|key| key.id == id);
        done(v1::CreatePreAuthKeyResponse {
            pre_auth_key: key.map(|key| pre_auth_key(state, key, true)),
        })
    }

    /// The real server does not check whether the key exists.
    async fn expire_pre_auth_key(
        &self,
        request: Request<v1::ExpirePreAuthKeyRequest>,
    ) -> GrpcAnswer<v1::ExpirePreAuthKeyResponse> {
        let now = self.now();
        let _ = self.inner().state.expire_key(request.into_inner().id, now);
        done(v1::ExpirePreAuthKeyResponse {})
    }

    /// The same as for its expiry.
    async fn delete_pre_auth_key(
        &self,
        request: Request<v1::DeletePreAuthKeyRequest>,
    ) -> GrpcAnswer<v1::DeletePreAuthKeyResponse> {
        let _ = self.inner().state.delete_key(request.into_inner().id);
        done(v1::DeletePreAuthKeyResponse {})
    }

    async fn list_api_keys(
        &self,
        _: Request<v1::ListApiKeysRequest>,
    ) -> GrpcAnswer<v1::ListApiKeysResponse> {
        let api_keys = self.inner().state.api_keys.iter().map(api_key).collect();
        done(v1::ListApiKeysResponse { api_keys })
    }

    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> GrpcAnswer<v1::CreateApiKeyResponse> {
        let expiration = request.into_inner().expiration.and_then(from_proto);
        let now = self.now();
        let key = self.inner().state.add_api_key(now, expiration);
        let api_key = key.expose().to_owned();
        done(v1::CreateApiKeyResponse { api_key })
    }

    async fn expire_api_key(
        &self,
        request: Request<v1::ExpireApiKeyRequest>,
    ) -> GrpcAnswer<v1::ExpireApiKeyResponse> {
        let v1::ExpireApiKeyRequest { prefix, id } = request.into_inner();
        let now = self.now();
        self.inner()
            .state
            .expire_api_key(
                named(id),
                Some(&*prefix).filter(|text| !text.is_empty()),
                now,
            )
            .map_err(failed)?;
        done(v1::ExpireApiKeyResponse {})
    }

    async fn delete_api_key(
        &self,
        request: Request<v1::DeleteApiKeyRequest>,
    ) -> GrpcAnswer<v1::DeleteApiKeyResponse> {
        let v1::DeleteApiKeyRequest { prefix, id } = request.into_inner();
        self.inner()
            .state
            .delete_api_key(named(id), Some(&*prefix).filter(|text| !text.is_empty()))
            .map_err(failed)?;
        done(v1::DeleteApiKeyResponse {})
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> GrpcAnswer<v1::ListNodesResponse> {
        let inner = self.inner();
        let nodes = inner.state.nodes.iter();
        let nodes = nodes.map(|one| node(&inner.state, one)).collect();
        done(v1::ListNodesResponse { nodes })
    }

    async fn delete_node(
        &self,
        request: Request<v1::DeleteNodeRequest>,
    ) -> GrpcAnswer<v1::DeleteNodeResponse> {
        let id = request.into_inner().node_id;
        self.inner()
            .state
            .delete_node(id)
            .map_err(|_| Status::not_found("node not found"))?;
        done(v1::DeleteNodeResponse {})
    }

    async fn rename_node(
        &self,
        request: Request<v1::RenameNodeRequest>,
    ) -> GrpcAnswer<v1::RenameNodeResponse> {
        let v1::RenameNodeRequest { node_id, new_name } = request.into_inner();
        let shortest = self.shared.flavour.shortest_node_name();
        let mut inner = self.inner();
        inner
            .state
            .rename_node(node_id, &new_name, shortest)
            .map_err(failed)?;
        let node = find(&inner.state, node_id);
        done(v1::RenameNodeResponse { node })
    }

    async fn expire_node(
        &self,
        request: Request<v1::ExpireNodeRequest>,
    ) -> GrpcAnswer<v1::ExpireNodeResponse> {
        let id = request.into_inner().node_id;
        let now = self.now();
        let mut inner = self.inner();
        inner.state.expire_node(id, now).map_err(failed)?;
        let node = find(&inner.state, id);
        done(v1::ExpireNodeResponse { node })
    }
}

fn done<T>(answer: T) -> GrpcAnswer<T> {
    Ok(Response::new(answer))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(problem: StateError) -> Status {
    let (code, text) = reply::code(&problem);
    Status::new(Code::from_i32(i32::from(code)), text)
}

fn named(id: u64) -> Option<u64> {
    Some(id).filter(|&id| id != 0)
}

fn user(user: &StoredUser) -> v1::User {
    v1::User {
        id: user.id,
        name: user.name.clone(),
        created_at: Some(to_proto(user.created_at)),
        display_name: user.display_name.clone(),
        email: user.email.clone(),
        provider_id: user.provider_id(),
        provider: user.provider.clone(),
    }
}

fn pre_auth_key(state: &ServerState, key: &StoredKey, whole: bool) -> v1::PreAuthKey {
    let owner = state.users.iter().find(|user| Some(user.id) == key.user);
    v1::PreAuthKey {
        user: owner.map(user),
        id: key.id,
        key: key.shown(whole),
        reusable: key.reusable,
        ephemeral: key.ephemeral,
        used: key.used,
        expiration: Some(end(key.expiration)),
        created_at: Some(to_proto(key.created_at)),
        acl_tags: key.tags.clone(),
    }
}

fn api_key(key: &StoredApiKey) -> v1::ApiKey {
    v1::ApiKey {
        id: key.id,
        prefix: key.shown(),
        expiration: Some(end(key.expiration)),
        created_at: Some(to_proto(key.created_at)),
        last_seen: None,
    }
}

fn find(state: &ServerState, id: u64) -> Option<v1::Node> {
    let found = state.nodes.iter().find(|node| node.id == id);
    found.map(|found| node(state, found))
}

fn node(state: &ServerState, node: &StoredNode) -> v1::Node {
    let joined_with = state.keys.iter().find(|key| Some(key.id) == node.key);
    let owner = state.users.iter().find(|user| Some(user.id) == node.user);
    let tagged = || v1::User {
        id: 2_147_455_555,
        name: "tagged-devices".to_owned(),
        ..v1::User::default()
    };
    v1::Node {
        id: node.id,
        name: node.name.clone(),
        user: if node.tags.is_empty() {
            owner.map(user)
        } else {
            Some(tagged())
        },
        last_seen: Some(to_proto(node.last_seen)),
        expiry: node.expiry.map(to_proto),
        pre_auth_key: joined_with.map(|key| pre_auth_key(state, key, false)),
        created_at: Some(to_proto(node.created_at)),
        given_name: node.given_name.clone(),
        online: node.online,
        tags: node.tags.clone(),
    }
}

/// Returns year 1 for a time that was not given.
fn end(time: Option<Timestamp>) -> Time {
    time.map_or(
        Time {
            seconds: -62_135_596_800,
            nanos: 0,
        },
        to_proto,
    )
}

/// Our times are after 1970, so the fraction counts forward.
fn to_proto(time: Timestamp) -> Time {
    Time {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

fn from_proto(time: Time) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}
