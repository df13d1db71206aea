//! Medians, spreads and ratios, and the table of a run.

use std::fmt::Write as _;

use super::{machine::Machine, record::Measurement};

/// The middle of some values and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// The middle value; of an even number the mean of the two in the middle. None of none.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// The table, with what it was measured on above it.
pub(super) fn markdown(machine: &Machine, measurements: &[Measurement], smoke: bool) -> String {
    let Machine { cpu, core_count, memory_mib, kernel, commit, .. } = machine;
    let mut text = format!("{cpu}, {core_count} cores, {memory_mib} MiB · Linux {kernel} · commit {commit}\n");
    if smoke {
        text.push_str("\n**Smoke run: these figures mean nothing.**\n");
    }
    for objection in machine.objections() {
        let _ = writeln!(text, "\n**Not to be published: {objection}.**");
    }
    text.push_str("\n| row | vxlan | weaved | weaved ÷ vxlan |\n|---|---|---|---|\n");
    let mut rows: Vec<&str> = Vec::new();
    for measurement in measurements {
        if !rows.contains(&measurement.row) {
            rows.push(measurement.row);
        }
    }
    for row in rows {
        let of_row: Vec<&Measurement> = measurements.iter().filter(|measurement| measurement.row == row).collect();
        let _ =
            writeln!(text, "| {row} | {} | {} | {} |", side(&of_row, "vxlan"), side(&of_row, "weaved"), ratio(&of_row));
    }
    text
}

fn side(row: &[&Measurement], name: &str) -> String {
    let of_side: Vec<&&Measurement> = row.iter().filter(|measurement| measurement.side == name).collect();
    let values: Vec<f64> = of_side.iter().map(|measurement| measurement.value).collect();
    let (Some(spread), Some(first)) = (Spread::of(&values), of_side.first()) else { return "–".to_owned() };
    let (scale, unit) = readable(first.unit);
    spread.print(scale, if scale < 1.0 { 2 } else { 0 }, unit)
}

/// Of turns that followed each other.
fn ratio(row: &[&Measurement]) -> String {
    let of = |side: &str, pair: u32| row.iter().find(|m| m.side == side && m.pair == pair).map(|m| m.value);
    let pairs = row.iter().filter(|measurement| measurement.side == "weaved").map(|measurement| measurement.pair);
    let ratios: Vec<f64> = pairs.filter_map(|pair| Some(of("weaved", pair)? / of("vxlan", pair)?)).collect();
    Spread::of(&ratios).map_or_else(|| "–".to_owned(), |spread| spread.print(1.0, 2, ""))
}

fn readable(unit: &'static str) -> (f64, &'static str) {
    match unit {
        "bit/s" => (1e-9, " Gbit/s"),
        "byte" => (1.0 / f64::from(1 << 20), " MiB"),
        "µs" => (1.0, " µs"),
        "ms" => (1.0, " ms"),
        other => (1.0, other),
    }
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let ends = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick);
        Some(Self { median: median(values)?, min: ends(f64::min)?, max: ends(f64::max)? })
    }

    fn print(self, scale: f64, decimals: usize, unit: &str) -> String {
        let [median, min, max] = [self.median, self.min, self.max].map(|value| format!("{:.decimals$}", value * scale));
        if min == max { format!("{median}{unit}") } else { format!("{median}{unit} ({min}–{max})") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(side: &'static str, pair: u32, value: f64) -> Measurement {
        Measurement { row: "tcp", side, pair, value, unit: "bit/s" }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn ratios_are_of_pairs_and_not_of_medians() {
        let all = [
            measured("vxlan", 0, 1e9),
            measured("weaved", 0, 2e9),
            measured("vxlan", 1, 10e9),
            measured("weaved", 1, 5e9),
            measured("vxlan", 2, 4e9),
            measured("weaved", 2, 4e9),
        ];
        let row: Vec<&Measurement> = all.iter().collect();
        assert_eq!(ratio(&row), "1.00 (0.50–2.00)");
        assert_eq!(side(&row, "vxlan"), "4.00 Gbit/s (1.00–10.00)");
    }

    #[test]
    fn a_row_of_one_side_has_no_ratio() {
        let all = [Measurement { row: "outage", side: "weaved", pair: 0, value: 120.4, unit: "ms" }];
        let row: Vec<&Measurement> = all.iter().collect();
        assert_eq!((side(&row, "weaved").as_str(), side(&row, "vxlan").as_str()), ("120 ms", "–"));
        assert_eq!(ratio(&row), "–");
    }
}
