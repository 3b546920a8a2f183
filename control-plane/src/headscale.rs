//! Headscale: by REST, and by gRPC on its Unix socket before 0.30. I/O.

mod grpc;
mod rest;
mod wire;

pub(crate) use grpc::HeadscaleGrpc;
pub(crate) use rest::HeadscaleRest;
