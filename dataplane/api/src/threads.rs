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
        for text in ["0", "9", "256", "-1", "", "Auto", "2 "] {
            assert_eq!(text.parse::<WorkerCount>(), Err(WorkerCountError), "{text:?}");
            assert!(serde_json::from_str::<WorkerCount>(&format!("\"{text}\"")).is_err(), "{text:?}");
        }
    }
}
