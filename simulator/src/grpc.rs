//! The embedded Headscale by gRPC, as 0.28 and 0.29 serve it on their Unix socket: the calls of the API key manager. I/O:
//! tonic.

use jiff::Timestamp;
use sidescale_proto::v1::headscale_service_server::{HeadscaleService, HeadscaleServiceServer};
use sidescale_proto::{Time, v1};
use tonic::{Code, Request, Response, Status};

use super::state::{StateError, StoredApiKey};
use super::{Call, Embedded, reply, secret};

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
        "ListPreAuthKeys" => Call::ListPreAuthKeys,
        "ListApiKeys" => Call::ListApiKeys,
        "CreateApiKey" | "ExpireApiKey" => Call::ChangeApiKey,
        _ => Call::Other,
    }
}

#[tonic::async_trait]
impl HeadscaleService for Embedded {
    async fn health(&self, _: Request<v1::HealthRequest>) -> GrpcAnswer<v1::HealthResponse> {
        done(v1::HealthResponse {})
    }

    /// The client only looks at whether it is answered.
    async fn list_pre_auth_keys(
        &self,
        _: Request<v1::ListPreAuthKeysRequest>,
    ) -> GrpcAnswer<v1::ListPreAuthKeysResponse> {
        done(v1::ListPreAuthKeysResponse {})
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
        let key = self
            .inner()
            .state
            .add_api_key(secret("hskey-api-"), now, expiration);
        let api_key = key.expose().to_owned();
        done(v1::CreateApiKeyResponse { api_key })
    }

    async fn expire_api_key(
        &self,
        request: Request<v1::ExpireApiKeyRequest>,
    ) -> GrpcAnswer<v1::ExpireApiKeyResponse> {
        let id = Some(request.into_inner().id).filter(|&id| id != 0);
        let now = self.now();
        let expired = self.inner().state.expire_api_key(id, None, now);
        expired.map_err(failed)?;
        done(v1::ExpireApiKeyResponse {})
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

fn api_key(key: &StoredApiKey) -> v1::ApiKey {
    v1::ApiKey {
        id: key.id,
        prefix: key.shown(),
        expiration: Some(end(key.expiration)),
        created_at: Some(to_proto(key.created_at)),
        last_seen: None,
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
