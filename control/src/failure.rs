//! Why a verb did not do what was asked: one line for the operator and an exit code for scripts.
//!
//! INVARIANT: a message is one line; it says what is wrong and what to do. It never holds a secret.

use std::{fmt, process::ExitCode};

/// A verb's refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: FailureKind,
    message: String,
}

/// What a script can tell apart by the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Exit code 1: understood, and refused for the reason given.
    Refused,
    /// Exit code 2: the arguments make no sense.
    Usage,
    /// Exit code 3: `weaved` is not running here, or does not answer.
    Unreachable,
}

impl Failure {
    /// Refused with a reason.
    pub fn refused(message: impl fmt::Display) -> Self {
        Self::new(FailureKind::Refused, message)
    }

    /// Wrong usage.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(FailureKind::Usage, message)
    }

    /// The process that should do it does not answer.
    pub fn unreachable(message: impl fmt::Display) -> Self {
        Self::new(FailureKind::Unreachable, message)
    }

    /// Which of the three.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    fn new(kind: FailureKind, message: impl fmt::Display) -> Self {
        let message = message.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { kind, message }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<FailureKind> for ExitCode {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Refused => Self::from(1),
            FailureKind::Usage => Self::from(2),
            FailureKind::Unreachable => Self::from(3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_always_one_line() {
        let failure = Failure::refused("first\n  second\tthird");
        assert_eq!(failure.to_string(), "first second third");
    }
}
