//! The contract between the weaved processes: what control asks of the data plane and what it hears back.
//!
//! Control sends the complete [`DesiredState`]; the data plane applies the difference and answers with the
//! [`Generation`] it has reached. Everything else is an [`Event`], a [`Stats`] snapshot or opaque control bytes.
//!
//! INVARIANT: types and their encodings only. No logic beyond parsing and printing, no I/O beyond [`framing`].

pub mod balancer;
mod cipher;
mod desired;
mod event;
pub mod framing;
pub mod gateway;
mod id;
mod secret;
mod stats;
#[cfg(feature = "testing")]
pub mod testing;
mod threads;

pub use cipher::{CipherChoice, CipherChoiceError};
pub use desired::{DesiredState, Neighbour, OffloadSwitches, Overlay, PeerConfig, RulesVerdict, Switch, SwitchError};
pub use event::{Event, LinkEnd, Problem, Request, TargetFailure};
pub use id::{Generation, IdError, MacAddr, PeerId};
pub use secret::{ClusterSecret, SecretKey};
pub use stats::{
    Counter, DeviceStatus, FeatureStatus, Force, LinkStatus, PackingStatus, PeerStatus, SendsStatus, SessionStatus,
    Stats, WorkersStatus,
};
pub use threads::{MAX_WORKERS, SourcePorts, SourcePortsError, WorkerCount, WorkerCountError};

/// Version of this contract. Both ends say it first; they must agree exactly, because both come from one executable.
pub const API_VERSION: u32 = 4;

/// The largest run of control bytes that one [`Request::SendControl`] or [`Event::Control`] may carry.
pub const MAX_CONTROL_BYTES: usize = 60_000;
