//! How verbs talk: lines on standard output, complaints on standard error, tables, and a spinner for what takes long.
//!
//! A line that cannot be written, for a full disk say, is remembered: the verb goes on, and fails at its end ([`finish`]).
//!
//! INVARIANT: a reader that goes away (`weaved status | head`) is no error.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    sync::OnceLock,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use serde::Serialize;

use crate::failure::Failure;

/// What ends earlier needs no spinner.
const SPINNER_PATIENCE: Duration = Duration::from_secs(1);

/// Why the first line that could not be written was not.
static LOST: OnceLock<Failure> = OnceLock::new();

/// One line, or several, for people.
pub fn say(text: impl fmt::Display) {
    if let Err(failure) = written(writeln!(io::stdout().lock(), "{text}")) {
        // The first one counts.
        drop(LOST.set(failure));
    }
}

/// What writing to standard output came to.
pub fn written(outcome: io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::refused(format!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// At the end of a verb: whether all that was said is written.
pub fn finish() -> Result<(), Failure> {
    let flushed = written(io::stdout().lock().flush());
    LOST.get().map_or(flushed, |failure| Err(failure.clone()))
}

/// What is wrong, on standard error.
pub fn complain(text: impl fmt::Display) {
    drop(writeln!(io::stderr().lock(), "weaved: {text}"));
}

/// A table for people.
pub fn say_table(table: Table) -> Result<(), Failure> {
    say(table);
    Ok(())
}

/// State for programs.
pub fn say_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value);
    say(text.map_err(|error| Failure::refused(format!("cannot print as JSON: {error}")))?);
    Ok(())
}

/// Turns on a terminal, and only after a second.
pub struct Spinner {
    message: &'static str,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Spinner {
    /// Begins to count.
    pub fn new(message: &'static str) -> Self {
        Self { message, since: Instant::now(), bar: None }
    }

    /// Called while waiting.
    pub fn tick(&mut self) {
        if self.bar.is_none() && self.since.elapsed() >= SPINNER_PATIENCE && io::stderr().is_terminal() {
            self.bar = Some(ProgressBar::new_spinner().with_message(self.message));
        }
        if let Some(bar) = &self.bar {
            bar.tick();
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Columns as wide as they need to be.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// One more row, with as many cells as there are headings.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(printable).collect());
    }

    /// Without the column of this heading, if nothing but the usual is in it.
    #[must_use]
    pub fn without_usual(mut self, heading: &str, usual: &str) -> Self {
        let (headings, rows) = self.rows.split_first().expect("headings are the first row from the start");
        let column = headings.iter().position(|cell| cell == heading);
        let is_usual = |column: &usize| rows.iter().all(|row| row.get(*column).is_none_or(|cell| cell == usual));
        if let Some(column) = column.filter(is_usual) {
            self.rows.iter_mut().filter(|row| column < row.len()).for_each(|row| drop(row.remove(column)));
        }
        self
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column_count = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..column_count).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            write!(f, "{}{}", if index == 0 { "" } else { "\n" }, line.trim_end())?;
        }
        Ok(())
    }
}

/// Names come from other hosts: they must not move the cursor.
fn printable(cell: String) -> String {
    if cell.chars().any(char::is_control) { cell.escape_debug().to_string() } else { cell }
}

/// A time as people say it: the two largest units.
pub fn ago(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A number of bytes as people say it.
pub fn bytes(count: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB"];
    let unit = units.iter().enumerate().rev().find(|(power, _)| count >= 1000_u64.pow(*power as u32));
    match unit {
        None | Some((0, _)) => format!("{count} B"),
        Some((power, unit)) => {
            let tenths = count / (1000_u64.pow(power as u32) / 10);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_left_is_no_failure_and_a_full_disk_is_one() {
        assert_eq!(written(Err(io::ErrorKind::BrokenPipe.into())), Ok(()));
        let full = written(Err(io::ErrorKind::StorageFull.into())).unwrap_err().to_string();
        assert!(full.starts_with("cannot write the output: "), "{full}");
    }

    #[test]
    fn columns_line_up_and_names_cannot_move_the_cursor() {
        let mut table = Table::new(&["NAME", "ADDRESS"]);
        table.row(["web".into(), "10.32.0.2".into()]);
        table.row(["evil\x1b[2J".into(), "x".into()]);
        let text = table.to_string();
        assert_eq!(text.lines().nth(1), Some("web            10.32.0.2"));
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn times_and_sizes_read_well() {
        let times = [0, 59_999, 61_000, 3_660_000, 90_000_000].map(ago);
        assert_eq!(times, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!([0, 999, 1000, 123_456, 5_000_000_000].map(bytes), ["0 B", "999 B", "1.0 KB", "123.4 KB", "5.0 GB"]);
    }
}
