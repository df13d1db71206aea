//! Medians, spreads and ratios, and the tables of a run.

use std::fmt::Write as _;

use super::{
    machine::Machine,
    record::{Better, Measurement, Results, Version},
};

/// The middle of some values and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let ends = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick);
        Some(Self { median: median(values)?, min: ends(f64::min)?, max: ends(f64::max)? })
    }

    fn print(self, scale: f64, decimals: usize) -> String {
        let [median, min, max] = [self.median, self.min, self.max].map(|value| format!("{:.decimals$}", value * scale));
        if min == max { median } else { format!("{median} ({min}–{max})") }
    }
}

/// The middle value; of an even number the mean of the two in the middle. None of none.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// The value below which lies this share of all. None of none.
pub(super) fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)? as u32;
    let index = (0..=last).find(|index| f64::from(*index) >= f64::from(last) * share)?;
    sorted.get(index as usize).copied()
}

/// A figure on every side.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) figure: String,
    pub(super) unit: String,
    pub(super) better: Better,
    /// One for each side of the table.
    pub(super) cells: Vec<Cell>,
}

/// A figure on one side.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) value: Option<Spread>,
    /// Ratios to the reference, of turns of the same pair. None on the reference itself.
    pub(super) ratio: Option<Spread>,
}

/// All figures between the same kind of ends.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub(super) between: String,
    pub(super) sides: Vec<String>,
    pub(super) lines: Vec<Line>,
}

/// One table for each kind of ends, in the order of the measurements.
pub(super) fn tables(results: &Results, reference: &str) -> Vec<Table> {
    let all = &results.measurements;
    distinct(all.iter().map(|measurement| &measurement.between))
        .into_iter()
        .map(|between| {
            let ours: Vec<&Measurement> = all.iter().filter(|measurement| measurement.between == between).collect();
            let sides = distinct(ours.iter().map(|measurement| &measurement.side));
            let figures = distinct(ours.iter().map(|measurement| &measurement.figure));
            let line = |figure: &String| {
                let of_figure: Vec<&Measurement> =
                    ours.iter().filter(|measurement| measurement.figure == *figure).copied().collect();
                let first = of_figure.first().expect("each figure was found among these");
                let cells = sides.iter().map(|side| cell(&of_figure, side, reference)).collect();
                Line { figure: figure.clone(), unit: first.unit.clone(), better: first.better, cells }
            };
            Table { lines: figures.iter().map(line).collect(), between, sides }
        })
        .collect()
}

/// In the order in which they first come.
fn distinct<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(name) {
            seen.push(name.clone());
        }
    }
    seen
}

fn cell(of_figure: &[&Measurement], side: &str, reference: &str) -> Cell {
    let of = |side: &str, pair: u32| of_figure.iter().find(|m| m.side == side && m.pair == pair).map(|m| m.value);
    let ours: Vec<&&Measurement> = of_figure.iter().filter(|measurement| measurement.side == side).collect();
    let values: Vec<f64> = ours.iter().map(|measurement| measurement.value).collect();
    let ratio = |measurement: &&&Measurement| {
        let reference = of(reference, measurement.pair).filter(|value| *value > 0.0)?;
        Some(measurement.value / reference)
    };
    let ratios: Vec<f64> = ours.iter().filter_map(ratio).collect();
    Cell { value: Spread::of(&values), ratio: Spread::of(&ratios).filter(|_| side != reference) }
}

/// The tables, with what they were measured on above them and what could not be measured below.
pub(super) fn markdown(results: &Results, reference: &str, smoke: bool) -> String {
    let mut text = heading(&results.machines);
    if smoke {
        text.push_str("\n**Smoke run: these figures mean nothing.**\n");
    }
    for table in tables(results, reference) {
        let _ = writeln!(text, "\n### Between {}\n", table.between);
        text.push_str(&medians(&table));
        let ratios = ratios(&table, reference);
        if !ratios.is_empty() {
            let _ = write!(text, "\nDivided by {reference}, turn by turn:\n\n{ratios}");
        }
    }
    if !results.versions.is_empty() {
        let version = |version: &Version| format!("{}: {}", version.side, version.version);
        let versions: Vec<String> = results.versions.iter().map(version).collect();
        let _ = writeln!(text, "\nVersions: {}.", versions.join("; "));
    }
    if !results.failures.is_empty() {
        text.push_str("\n### Not measured\n\n| side | between | row | why |\n|---|---|---|---|\n");
        for failure in &results.failures {
            let row = if failure.row.is_empty() { "all" } else { &failure.row };
            let _ = writeln!(text, "| {} | {} | {row} | {} |", failure.side, failure.between, failure.reason);
        }
    }
    text
}

/// The machine, and whatever is wrong with a run.
pub(super) fn heading(machines: &[Machine]) -> String {
    let Some(Machine { cpu, core_count, memory_mib, kernel, .. }) = machines.first() else { return String::new() };
    let commits = distinct(machines.iter().map(|machine| &machine.commit)).join(", ");
    let mut text = format!("{cpu}, {core_count} cores, {memory_mib} MiB · Linux {kernel} · commit {commits}\n");
    if machines.iter().any(|machine| (&machine.cpu, &machine.kernel) != (cpu, kernel)) {
        text.push_str("\n**Not to be published: the runs are of different machines.**\n");
    }
    let objections: Vec<String> = machines.iter().flat_map(Machine::objections).collect();
    for objection in distinct(objections.iter()) {
        let _ = writeln!(text, "\n**Not to be published: {objection}.**");
    }
    text
}

fn medians(table: &Table) -> String {
    let mut text = header("figure", &table.sides);
    for line in &table.lines {
        let largest = line.cells.iter().filter_map(|cell| cell.value).map(|value| value.max).fold(0.0, f64::max);
        let (scale, decimals, unit) = readable(&line.unit, largest);
        let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
        let cell = |cell: &Cell| cell.value.map_or("–".to_owned(), |value| value.print(scale, decimals));
        push_row(&mut text, &format!("{}{unit}", line.figure), line.cells.iter().map(cell));
    }
    text
}

/// Empty when there is nothing to compare with.
fn ratios(table: &Table, reference: &str) -> String {
    let column = |name: &String| name != reference;
    let sides: Vec<String> = table.sides.iter().filter(|name| column(name)).cloned().collect();
    let mut text = header("figure", &sides);
    let mut has_any = false;
    for line in &table.lines {
        let cells = table.sides.iter().zip(&line.cells).filter(|(side, _)| column(side)).map(|(_, cell)| cell.ratio);
        if cells.clone().all(|ratio| ratio.is_none()) {
            continue;
        }
        has_any = true;
        let mark = if line.better == Better::Lower { " (less is better)" } else { "" };
        let cell = |ratio: Option<Spread>| ratio.map_or("–".to_owned(), |ratio| ratio.print(1.0, 2));
        push_row(&mut text, &format!("{}{mark}", line.figure), cells.map(cell));
    }
    if has_any { text } else { String::new() }
}

fn header(first: &str, columns: &[String]) -> String {
    format!("| {first} | {} |\n|---|{}\n", columns.join(" | "), "---|".repeat(columns.len()))
}

fn push_row(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let _ = writeln!(text, "| {first} | {} |", cells.collect::<Vec<_>>().join(" | "));
}

/// Scale, decimals and unit that suit values up to `largest`.
pub(super) fn readable(unit: &str, largest: f64) -> (f64, usize, &str) {
    match unit {
        "bit/s" => (1e-9, if largest < 1e9 { 3 } else { 2 }, "Gbit/s"),
        "byte" => (1.0 / f64::from(1 << 20), 1, "MiB"),
        "packets/s" => (1e-3, if largest < 1e4 { 2 } else { 0 }, "k packets/s"),
        "requests/s" => (1e-3, 1, "k requests/s"),
        "s/GB" | "%" => (1.0, 2, unit),
        other => (1.0, 0, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(side: &str, pair: u32, value: f64) -> Measurement {
        Measurement {
            between: "guests".into(),
            row: "tcp1".into(),
            figure: "TCP".into(),
            side: side.into(),
            pair,
            value,
            unit: "bit/s".into(),
            better: Better::Higher,
        }
    }

    fn results(measurements: &[Measurement]) -> Results {
        Results { measurements: measurements.to_vec(), ..Results::default() }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<f64> = (0..101).rev().map(f64::from).collect();
        for (share, value) in [(0.0, 0.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(quantile(&values, share), Some(value));
        }
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn ratios_are_of_pairs_and_not_of_medians() {
        let all = results(&[
            measured("vxlan", 0, 1e9),
            measured("weaved", 0, 2e9),
            measured("vxlan", 1, 10e9),
            measured("weaved", 1, 5e9),
            measured("vxlan", 2, 4e9),
            measured("weaved", 2, 4e9),
        ]);
        let text = markdown(&all, "vxlan", false);
        assert!(text.contains("| TCP, Gbit/s | 4.00 (1.00–10.00) | 4.00 (2.00–5.00) |"), "{text}");
        assert!(text.contains("| TCP | 1.00 (0.50–2.00) |"), "{text}");
    }

    #[test]
    fn without_the_reference_there_are_no_ratios() {
        let text = markdown(&results(&[measured("weaved", 0, 2e9)]), "vxlan", true);
        assert!(text.contains("| TCP, Gbit/s | 2.00 |") && !text.contains("Divided by"), "{text}");
        assert!(text.contains("these figures mean nothing"), "{text}");
    }

    #[test]
    fn what_could_not_be_measured_says_why() {
        let failure = super::super::record::Failure {
            reason: "no ping was answered".into(),
            between: "hosts".into(),
            row: String::new(),
            side: "tinc".into(),
        };
        let text = markdown(&Results { failures: vec![failure], ..Results::default() }, "vxlan", false);
        assert!(text.contains("| tinc | hosts | all | no ping was answered |"), "{text}");
    }
}
