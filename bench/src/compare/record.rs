//! Every measurement, on disk as soon as it is made: one JSON object a line.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::machine::Machine;

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measurement {
    /// What was measured.
    pub(super) row: &'static str,
    /// Of which overlay.
    pub(super) side: &'static str,
    /// Number of the pair of turns, or of the repetition.
    pub(super) pair: u32,
    pub(super) value: f64,
    /// Empty for a count.
    pub(super) unit: &'static str,
}

/// Keeps measurements and writes them down.
pub(super) struct Recorder {
    path: PathBuf,
    file: File,
    measurements: Vec<Measurement>,
    /// The first thing that went wrong with the file. A measurement is not given up for it.
    failure: Option<io::Error>,
}

impl Recorder {
    /// Begins a file, named after the time and the commit, with a line about the machine.
    pub(super) fn create(dir: &Path, machine: &Machine) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}-{}.jsonl", machine.unix_seconds, machine.commit));
        let file = File::create(&path)?;
        let mut recorder = Self { path, file, measurements: Vec::new(), failure: None };
        recorder.write(&json!({ "machine": machine.to_json() }));
        Ok(recorder)
    }

    /// Takes a measurement.
    pub(super) fn add(&mut self, measurement: Measurement) {
        let Measurement { row, side, pair, value, unit } = &measurement;
        self.write(&json!({ "row": row, "side": side, "pair": pair, "value": value, "unit": unit }));
        eprintln!("  {row}: {side} {value} {unit}");
        self.measurements.push(measurement);
    }

    /// Writes down something that belongs to the run.
    pub(super) fn note(&mut self, name: &str, value: impl Into<Value>) {
        let value: Value = value.into();
        self.write(&json!({ "note": name, "value": value }));
    }

    /// Where the measurements are, and all of them; or why they are not all on disk.
    pub(super) fn finish(self) -> io::Result<(PathBuf, Vec<Measurement>)> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok((self.path, self.measurements)),
        }
    }

    fn write(&mut self, line: &Value) {
        if let Err(error) = writeln!(self.file, "{line}") {
            self.failure.get_or_insert(error);
        }
    }
}
