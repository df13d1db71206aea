//! Waiting for conditions instead of sleeping.

use std::time::{Duration, Instant};

/// How long things may take that normally take less than a second; generous, because cores are shared.
pub const SOON: Duration = Duration::from_secs(20);
/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Waits that are longer are told: `--nocapture` shows what a suite spends its time on.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// Waits until `condition` holds; panics at the deadline with `what` was waited for.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// Waits until `probe` gives a value; panics at the deadline with `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let end = begun + deadline;
    loop {
        if let Some(value) = probe() {
            if begun.elapsed() > WORTH_TELLING {
                println!("waited {:.1} s until {what}", begun.elapsed().as_secs_f64());
            }
            return value;
        }
        assert!(Instant::now() < end, "waited {} s in vain until {what}", deadline.as_secs());
        std::thread::sleep(POLL_INTERVAL);
    }
}
