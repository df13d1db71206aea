//! How many threads carry frames.

use std::{fmt, num::NonZeroU8, str::FromStr};

use serde::{Deserialize, Serialize};

/// Workers that a data plane can have: as many as there are lanes for.
pub const MAX_WORKERS: usize = 8;

/// How many threads of the data plane carry frames, each with a queue of the TAP and a socket of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WorkerCount {
    /// As many as suit the processors that the data plane may use.
    #[default]
    Auto,
    /// So many, at most [`MAX_WORKERS`].
    Exactly(NonZeroU8),
}

/// From how many ports of the sender datagrams leave, so that bundled links and queues of network cards share the work.
///
/// With more than one, nothing between the hosts may insist that datagrams come from the port that the handshake came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourcePorts(NonZeroU8);

/// A text that is no number of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("choose a number from 1 to {MAX_WORKERS}")]
pub struct SourcePortsError;

impl SourcePorts {
    /// How many.
    pub fn count(self) -> usize {
        self.0.get().into()
    }
}

impl Default for SourcePorts {
    /// The one that all others send to.
    fn default() -> Self {
        Self(NonZeroU8::MIN)
    }
}

impl fmt::Display for SourcePorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SourcePorts {
    type Err = SourcePortsError;

    fn from_str(text: &str) -> Result<Self, SourcePortsError> {
        let count = text.parse().ok().filter(|count: &NonZeroU8| usize::from(count.get()) <= MAX_WORKERS);
        count.map(Self).ok_or(SourcePortsError)
    }
}

impl TryFrom<String> for SourcePorts {
    type Error = SourcePortsError;

    fn try_from(text: String) -> Result<Self, SourcePortsError> {
        text.parse()
    }
}

impl From<SourcePorts> for String {
    fn from(count: SourcePorts) -> Self {
        count.to_string()
    }
}

/// A text that is no number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("choose auto or a number from 1 to {MAX_WORKERS}")]
pub struct WorkerCountError;

impl fmt::Display for WorkerCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(count) => count.fmt(f),
        }
    }
}

impl FromStr for WorkerCount {
    type Err = WorkerCountError;

    fn from_str(text: &str) -> Result<Self, WorkerCountError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let count = text.parse().ok().filter(|count: &NonZeroU8| usize::from(count.get()) <= MAX_WORKERS);
        count.map(Self::Exactly).ok_or(WorkerCountError)
    }
}

impl TryFrom<String> for WorkerCount {
    type Error = WorkerCountError;

    fn try_from(text: String) -> Result<Self, WorkerCountError> {
        text.parse()
    }
}

impl From<WorkerCount> for String {
    fn from(count: WorkerCount) -> Self {
        count.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_workers_is_read_as_it_is_written_and_nothing_else_is() {
        for text in ["auto", "1", "3", "8"] {
            let count: WorkerCount = text.parse().unwrap();
            assert_eq!(count.to_string(), text);
            assert_eq!(serde_json::to_string(&count).unwrap(), format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<WorkerCount>(&format!("\"{text}\"")).unwrap(), count);
        }
        assert_eq!(SourcePorts::default().to_string(), "1");
        assert_eq!("8".parse::<SourcePorts>().map(SourcePorts::count), Ok(8));
        assert!(["0", "9", "auto"].iter().all(|text| text.parse::<SourcePorts>().is_err()));
        for text in ["0", "9", "256", "-1", "", "Auto", "2 "] {
            assert_eq!(text.parse::<WorkerCount>(), Err(WorkerCountError), "{text:?}");
            assert!(serde_json::from_str::<WorkerCount>(&format!("\"{text}\"")).is_err(), "{text:?}");
        }
    }
}
