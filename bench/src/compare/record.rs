//! Every measurement, on disk as soon as it is made: one JSON object a line, and those lines read back.
//!
//! ```text
//! {"machine": {"cpu": "…", "kernel": "…", "commit": "…", …}}
//! {"between": "guests", "row": "tcp1", "figure": "TCP, 1 stream", "side": "vxlan", "pair": 0, "value": 1.2e10, …}
//! {"failure": "no ping was answered in 15 s", "between": "hosts", "row": "", "side": "tinc"}
//! ```

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::machine::Machine;

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    Higher,
    Lower,
}

/// One number that a turn has given.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    /// What tables call it.
    pub(super) name: String,
    pub(super) value: f64,
    /// Empty for a count.
    pub(super) unit: String,
    pub(super) better: Better,
}

/// A figure with where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Measurement {
    /// Guests, hosts or containers.
    pub(super) between: String,
    /// What `--rows` calls the work.
    pub(super) row: String,
    pub(super) figure: String,
    pub(super) side: String,
    /// Number of the turn.
    pub(super) pair: u32,
    pub(super) value: f64,
    pub(super) unit: String,
    pub(super) better: Better,
}

/// Something that could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// For people.
    #[serde(rename = "failure")]
    pub(super) reason: String,
    pub(super) between: String,
    /// Empty when the side did not even start.
    pub(super) row: String,
    pub(super) side: String,
}

/// What a program that is not ours says that it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) version: String,
    pub(super) side: String,
}

/// What a run has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Results {
    /// Of each file that was read, or of the run.
    pub(super) machines: Vec<Machine>,
    pub(super) measurements: Vec<Measurement>,
    pub(super) failures: Vec<Failure>,
    pub(super) versions: Vec<Version>,
}

/// Keeps results and writes them down.
pub(super) struct Recorder {
    path: PathBuf,
    file: File,
    results: Results,
    /// The first thing that went wrong with the file. A measurement is not given up for it.
    write_error: Option<io::Error>,
}

impl Recorder {
    /// Begins a file, named after the time and the commit, with a line about the machine.
    pub(super) fn create(dir: &Path, machine: &Machine) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(format!("{}-{}.jsonl", machine.unix_seconds, machine.commit));
        let file = File::create(&path)?;
        let results = Results { machines: vec![machine.clone()], ..Results::default() };
        let mut recorder = Self { path, file, results, write_error: None };
        recorder.write(&json!({ "machine": machine }));
        Ok(recorder)
    }

    /// Takes a measurement.
    pub(super) fn add(&mut self, measurement: Measurement) {
        let Measurement { figure, side, value, unit, .. } = &measurement;
        eprintln!("  {figure}: {side} {value:.6} {unit}");
        self.write(&measurement);
        self.results.measurements.push(measurement);
    }

    /// Takes note of what could not be measured; once for the same reason.
    pub(super) fn fail(&mut self, failure: Failure) {
        if self.results.failures.contains(&failure) {
            return;
        }
        eprintln!("  {} {}: not measured: {}", failure.side, failure.row, failure.reason);
        self.write(&failure);
        self.results.failures.push(failure);
    }

    /// Takes note of what runs.
    pub(super) fn add_version(&mut self, version: Version) {
        self.write(&version);
        self.results.versions.push(version);
    }

    /// Where the results are, and all of them; or why they are not all on disk.
    pub(super) fn finish(self) -> io::Result<(PathBuf, Results)> {
        match self.write_error {
            Some(error) => Err(error),
            None => Ok((self.path, self.results)),
        }
    }

    fn write(&mut self, line: &impl Serialize) {
        let written = serde_json::to_string(line).map_err(io::Error::from);
        if let Err(error) = written.and_then(|line| writeln!(self.file, "{line}")) {
            self.write_error.get_or_insert(error);
        }
    }
}

impl Results {
    /// Reads a file of a run and adds what is in it. Turns of different runs are no pairs, so those of later files get
    /// numbers of their own.
    pub(super) fn read(&mut self, path: &Path) -> Result<(), String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let first_pair = self.measurements.iter().map(|measurement| measurement.pair + 1).max().unwrap_or(0);
        for (number, line) in text.lines().enumerate() {
            self.read_line(line, first_pair)
                .map_err(|error| format!("{}, line {}: {error}", path.display(), number + 1))?;
        }
        Ok(())
    }

    fn read_line(&mut self, line: &str, first_pair: u32) -> Result<(), serde_json::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Line {
            Machine { machine: Machine },
            Failure(Failure),
            Version(Version),
            Measurement(Measurement),
        }
        match serde_json::from_str(line)? {
            Line::Machine { machine } => self.machines.push(machine),
            Line::Failure(failure) => self.failures.push(failure),
            Line::Version(version) if self.versions.contains(&version) => {}
            Line::Version(version) => self.versions.push(version),
            Line::Measurement(mut measurement) => {
                measurement.pair += first_pair;
                self.measurements.push(measurement);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::create(dir.path(), &Machine::quiet()).unwrap();
        recorder.add(Measurement {
            between: "guests".into(),
            row: "tcp1".into(),
            figure: "TCP, 1 stream".into(),
            side: "vxlan".into(),
            pair: 2,
            value: 1.5e9,
            unit: "bit/s".into(),
            better: Better::Higher,
        });
        let failure =
            Failure { reason: "no ping".into(), between: "hosts".into(), row: String::new(), side: "tinc".into() };
        recorder.fail(failure.clone());
        recorder.fail(failure);
        let (path, written) = recorder.finish().unwrap();
        assert_eq!(written.failures.len(), 1, "the same reason counts once");
        let mut read = Results::default();
        read.read(&path).unwrap();
        assert_eq!(read, written);
        read.read(&path).unwrap();
        let pairs: Vec<u32> = read.measurements.iter().map(|measurement| measurement.pair).collect();
        assert_eq!(pairs, [2, 5], "turns of two runs are no pair");
        assert!(Results::default().read_line("{\"else\": 1}", 0).is_err());
    }
}
