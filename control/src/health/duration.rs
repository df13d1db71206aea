//! Durations as Go writes them (`1m30s`, `500ms`), which is how Consul's clients do.

use std::time::Duration;

/// Longer ones are cut: nobody waits for a check so long.
const MAX: Duration = Duration::from_hours(24 * 366);

/// Reads a duration; a number alone is seconds. None when it is none, negative ones included.
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return scale(text, 1e9);
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let number_len = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let (number, behind) = rest.split_at(number_len);
        let unit_len = behind.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_len);
        let nanoseconds = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        sum = (sum + scale(number, nanoseconds)?).min(MAX);
        rest = behind;
    }
    (!text.is_empty()).then_some(sum)
}

fn scale(number: &str, nanoseconds: f64) -> Option<Duration> {
    let value: f64 = number.parse().ok()?;
    Some(Duration::try_from_secs_f64(value * nanoseconds / 1e9).unwrap_or(MAX).min(MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_and_plain_seconds_are_read() {
        for (text, milliseconds) in
            [("10s", 10_000), ("1m0s", 60_000), ("60000ms", 60_000), ("1.5h", 5_400_000), ("15", 15_000), ("0", 0)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "10 s", "1d", "ten", "1.2.3s", "1s2"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&format!("{}h", "9".repeat(300))), Some(MAX));
    }
}
