//! Headscale 0.28 and 0.29 by gRPC: the calls we make, client and server, generated from `headscale/v1`. Pure.

/// A point in time as messages hold it.
pub use prost_types::Timestamp as Time;

/// Messages, client and server of `headscale.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::too_many_lines,
    reason = "generated; the .proto file says what each is"
)]
pub mod v1 {
    tonic::include_proto!("headscale.v1");
}
