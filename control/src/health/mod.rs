//! How instances are: checks that this node runs for what is registered on it.
//!
//! [`schedule`] decides without I/O when which check runs and what its results mean.

mod exec;
mod grpc;
pub mod http;
pub mod probes;
pub mod schedule;
mod spec;
mod tls;

#[cfg(any(test, feature = "testing"))]
pub(crate) use grpc::status_of as grpc_status;
pub use spec::{
    Certificates, CheckSpec, DEFAULT_INTERVAL, DEFAULT_TIMEOUT, ExecProbe, GrpcProbe, HttpProbe, MAX_THRESHOLD,
    MAX_TIMEOUT, MIN_DEREGISTER_AFTER, MIN_INTERVAL, Probe,
};
