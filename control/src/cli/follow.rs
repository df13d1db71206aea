//! What verbs share that follow something until they are interrupted: they outlast a restart of control.

use std::time::Duration;

use super::output;
use crate::failure::Failure;

/// Pause before control is asked again when it does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Asks until there is an answer. That there is none is told once.
pub(super) fn until_answered<T>(mut ask: impl FnMut() -> Result<T, Failure>) -> T {
    let mut is_told = false;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(failure) if !std::mem::replace(&mut is_told, true) => output::complain(failure),
            Err(_) => {}
        }
        std::thread::sleep(RETRY);
    }
}
