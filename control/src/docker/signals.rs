//! Which signals ask a container to end.

/// Numbers of signal(7) on x86 and Arm that are used to end programs.
const NAMES: [(&str, u8); 9] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("TERM", 15),
    ("WINCH", 28),
    ("PWR", 30),
];
/// `SIGRTMIN` as programs see it; systemd in a container is ended by `SIGRTMIN+3`.
const REAL_TIME_MIN: u8 = 34;

/// True when the signal of a `kill` event ends what listens to it. `own` is what the image says ends it.
pub(super) fn asks_to_stop(signal: &str, own: &str) -> bool {
    let Some(number) = parse(signal) else { return false };
    matches!(number, 2 | 3 | 9 | 15) || parse(own) == Some(number)
}

fn parse(text: &str) -> Option<u8> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: u8 = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return offset.checked_add(REAL_TIME_MIN);
    }
    let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    known.or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_end_drain_and_those_that_reload_do_not() {
        for (signal, own) in [
            ("15", ""),
            ("9", ""),
            ("SIGTERM", ""),
            ("28", "SIGWINCH"),
            ("37", "SIGRTMIN+3"),
            ("10", "USR1"),
            ("34", "RTMIN"),
        ] {
            assert!(asks_to_stop(signal, own), "{signal} {own}");
        }
        for (signal, own) in [("1", ""), ("28", ""), ("10", "SIGTERM"), ("", ""), ("", "nonsense"), ("x", "x")] {
            assert!(!asks_to_stop(signal, own), "{signal} {own}");
        }
    }
}
