//! Durations as Go writes them (`1m30s`, `500ms`), which is how Consul and its clients do.

use std::time::Duration;

/// Go counts nanoseconds in 63 bits: some 292 years. What is longer is none.
const MAX_SECONDS: f64 = 9_223_372_036.0;

/// Reads a duration in Go's notation: `300ms`, `1.5h`, `+1m0s`, `0`. None for anything else, negative ones too.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number_len = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let (number, behind) = rest.split_at(number_len);
        let unit_len = behind.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_len);
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * factor;
        rest = behind;
    }
    if seconds > MAX_SECONDS { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

/// As [`parse`], with blanks around it, and a number alone is seconds: as people write it for containers.
pub fn parse_or_seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_number { parse(&format!("{text}s")) } else { parse(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("60000ms", 60_000),
            ("10s", 10_000),
            ("+10s", 10_000),
            ("5m", 300_000),
            ("1m0s", 60_000),
            ("1.5h", 5_400_000),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
            assert_eq!(parse_or_seconds(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "+", "s", "-1s", "10 s", "1x", "1d", "ten", "1s2", "1..2s", "9999999999999999999999h", "é"] {
            assert_eq!((parse(text), parse_or_seconds(text)), (None, None), "{text}");
        }
        assert_eq!(parse(&format!("{}h", "9".repeat(300))), None);
    }

    #[test]
    fn a_number_alone_is_seconds_for_people_only() {
        assert_eq!((parse("15"), parse(" 15s ")), (None, None));
        for (text, milliseconds) in [("15", 15_000), (" 15s ", 15_000), ("0.5", 500)] {
            assert_eq!(parse_or_seconds(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!((parse_or_seconds("."), parse_or_seconds("1.2.3")), (None, None));
    }
}
