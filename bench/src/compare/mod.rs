//! Sides in turns: the same work on each, on one machine, in one run.
//!
//! ```text
//!   for each kind of ends and each kind of underlay that the rows need:
//!       one lab, all sides up                        [`side`]
//!       for each row, for each pair: vxlan, weaved, vxlan, weaved, …    [`row`]
//!   every figure to disk at once                     [`record`]
//!   medians, spreads, ratios of pairs                [`summary`]
//! ```
//!
//! All sides are up all the time; those whose turn it is not are idle. All ends share the cores of the machine, so a
//! figure alone says little: ratios of turns that followed each other are what counts.
//!
//! The data planes run without control, from a file: that is all that these rows need.
//!
//! INVARIANT: nothing is asserted about a figure but that it exists.
//! INVARIANT: a side or a row that fails is recorded with its reason, and the run goes on.

mod chart;
mod machine;
mod meter;
mod options;
mod plan;
mod record;
mod row;
mod side;
mod summary;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use weaved_netns_tests::Lab;

pub use self::options::Options;
use self::{
    machine::Machine,
    options::Verb,
    plan::Plan,
    record::{Failure, Figure, Measurement, Recorder, Results, Version},
    row::{Row, Special},
    side::{Between, Side, Subject, Underlay},
};

/// Measures everything, writes the results and prints the tables.
pub fn main(options: &Options) -> ExitCode {
    let outcome = match &options.verb {
        Some(Verb::Report { files, reference, chart, into }) => {
            report(files, reference, chart.as_deref(), into.as_deref())
        }
        None => run(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weaved-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report(files: &[PathBuf], reference: &str, chart: Option<&Path>, into: Option<&Path>) -> Result<(), String> {
    let mut results = Results::default();
    files.iter().try_for_each(|path| results.read(path))?;
    let text = summary::markdown(&results, reference, false);
    if let Some(path) = chart {
        write(path, &chart::svg(&results, reference))?;
    }
    let Some(path) = into else {
        println!("{text}");
        return Ok(());
    };
    let page = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let page = between_marks(&page, &text).ok_or(format!("{} has no lines {MARKS:?}", path.display()))?;
    write(path, &page)
}

/// The page with `text` where the old tables were.
fn between_marks(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(MARKS[0])?;
    let (_, after) = rest.split_once(MARKS[1])?;
    Some(format!("{before}{}\n\n{text}\n{}{after}", MARKS[0], MARKS[1]))
}

/// Between these lines of a page are the tables.
const MARKS: [&str; 2] = ["<!-- figures -->", "<!-- end of figures -->"];

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn run(options: &Options) -> Result<(), String> {
    let (subjects, selection, plan) = (options.subjects()?, options.selection()?, options.plan());
    let machine = Machine::look();
    let recorder = Recorder::create(&options.results, &machine);
    let mut recorder = recorder.map_err(|error| format!("cannot write to {}: {error}", options.results.display()))?;
    for subject in &subjects {
        if let Some(version) = subject.version() {
            recorder.add_version(Version { version, side: subject.name.clone() });
        }
    }
    let mut run = Run { plan, subjects, recorder: &mut recorder };
    for between in &options.between {
        for underlay in [Underlay::Cable, Underlay::Card, Underlay::Relay] {
            let rows: Vec<Row> = selection.rows.iter().copied().filter(|row| row.underlay() == underlay).collect();
            run.rows(*between, underlay, &rows)?;
        }
    }
    for special in &selection.specials {
        run.special(*special)?;
    }
    let (path, results) =
        recorder.finish().map_err(|error| format!("the results are not complete on disk: {error}"))?;
    println!("{}", summary::markdown(&results, &options.reference, options.smoke));
    eprintln!("every measurement: {}", path.display());
    Ok(())
}

/// What stays the same in a run.
struct Run<'a> {
    plan: Plan,
    subjects: Vec<Subject>,
    recorder: &'a mut Recorder,
}

impl Run<'_> {
    /// Rows on one kind of underlay, in a lab of their own.
    fn rows(&mut self, between: Between, underlay: Underlay, rows: &[Row]) -> Result<(), String> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut lab = open_lab()?;
        let mut sides = Vec::new();
        for (number, subject) in self.subjects.iter().enumerate().filter(|(_, subject)| subject.fits(between)) {
            match Side::start(&mut lab, &format!("s{number}"), subject, between, underlay) {
                Ok(side) => sides.push(side),
                Err(reason) => self.recorder.fail(failure(between, "", &subject.name, reason)),
            }
        }
        for row in rows {
            row.prepare(&lab, &sides);
            for pair in 0..self.plan.pair_count {
                eprintln!("{} between {}, pair {} of {}", row.name(), between.name(), pair + 1, self.plan.pair_count);
                for number in order(pair, sides.len()) {
                    self.turn(*row, &sides[number], between, pair);
                }
            }
        }
        Ok(())
    }

    /// One measurement of a row on a side.
    fn turn(&mut self, row: Row, side: &Side, between: Between, pair: u32) {
        match row.measure(side, &self.plan) {
            Ok(figures) => {
                let place = (between.name(), row.name(), side.name.as_str());
                figures.into_iter().for_each(|figure| self.recorder.add(measurement(place, pair, figure)));
            }
            Err(reason) => self.recorder.fail(failure(between, row.name(), &side.name, reason)),
        }
    }

    /// What concerns the product alone, in a lab of its own.
    fn special(&mut self, special: Special) -> Result<(), String> {
        if !self.subjects.iter().any(Subject::is_weaved) {
            return Ok(());
        }
        eprintln!("{}", special.name());
        let mut lab = open_lab()?;
        let place = (Between::Guests.name(), special.name(), "weaved");
        let mut report = |pair: u32, figure: Figure| self.recorder.add(measurement(place, pair, figure));
        if let Err(reason) = special.measure(&mut lab, &self.plan, &mut report) {
            self.recorder.fail(failure(Between::Guests, special.name(), "weaved", reason));
        }
        Ok(())
    }
}

/// The order of sides in a turn: each begins as often as another, because who comes first after the pause between turns is
/// slower (by a tenth in a ping, where a side was compared with itself).
fn order(pair: u32, side_count: usize) -> impl Iterator<Item = usize> {
    (0..side_count).map(move |place| (place + pair as usize) % side_count)
}

fn open_lab() -> Result<Lab, String> {
    Lab::open_alone("bench").ok_or_else(|| "WEAVED_NETNS=skip is set".to_owned())
}

fn measurement((between, row, side): (&str, &str, &str), pair: u32, figure: Figure) -> Measurement {
    let Figure { name, value, unit, better } = figure;
    let [between, row, side] = [between, row, side].map(str::to_owned);
    Measurement { between, row, figure: name, side, pair, value, unit, better }
}

fn failure(between: Between, row: &str, side: &str, reason: String) -> Failure {
    Failure { reason, between: between.name().to_owned(), row: row.to_owned(), side: side.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_has_every_place_in_turn() {
        let orders: Vec<Vec<usize>> = (0..3).map(|pair| order(pair, 3).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
        assert_eq!(order(7, 0).count(), 0);
    }

    #[test]
    fn tables_replace_the_old_ones_and_nothing_else() {
        let page = "before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n";
        let new = "before\n<!-- figures -->\n\nnew\n<!-- end of figures -->\nafter\n";
        assert_eq!(between_marks(page, "new").as_deref(), Some(new));
        assert_eq!(between_marks("no marks", "new"), None);
    }
}
