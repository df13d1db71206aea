//! Where log lines go: standard error, or a file that cannot grow without end.
//!
//! The detached processes of a node append to one file. Whoever finds it full copies it to the older half and cuts it
//! to nothing; because all append, the others go on at its new beginning.
//!
//! INVARIANT: file and older half together take at most about twice [`MAX_LOG_BYTES`].
//!
//! Field names used throughout: `peer`, `name`, `endpoint`, `target`, `generation`, `part`, `pid`, `error`, `path`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use tracing_subscriber::EnvFilter;

use crate::{failure::Failure, paths::Paths};

/// Some weeks of a healthy node.
const MAX_LOG_BYTES: u64 = 8 << 20;

/// Where this process logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error: a terminal, or the journal of systemd.
    Stderr,
    /// The node's log file.
    File,
}

/// Sets up logging for this process. The filter comes from `WEAVED_LOG`, as in `WEAVED_LOG=debug`.
pub fn init(target: &LogTarget, paths: &Paths) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_env("WEAVED_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let installed = match target {
        LogTarget::Stderr => builder.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).try_init(),
        LogTarget::File => {
            let log = BoundedLog::open(&paths.log(), &paths.old_log(), MAX_LOG_BYTES).map_err(|error| {
                Failure::refused(format!("cannot write the log {}: {error}", paths.log().display()))
            })?;
            builder.with_ansi(false).with_writer(Mutex::new(log)).try_init()
        }
    };
    installed.map_err(|error| Failure::refused(format!("cannot set up the log: {error}")))
}

/// Opens the log for appending, as standard error of a detached process.
pub fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The end of a log, in whole lines.
pub fn tail(path: &Path, at_most: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let begin = file.metadata()?.len().saturating_sub(at_most);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(at_most).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let cut = if begin == 0 { 0 } else { text.find('\n').map_or(0, |newline| newline + 1) };
    Ok(text[cut..].to_owned())
}

struct BoundedLog {
    file: File,
    path: PathBuf,
    old_path: PathBuf,
    max_bytes: u64,
}

impl BoundedLog {
    fn open(path: &Path, old_path: &Path, max_bytes: u64) -> io::Result<Self> {
        Ok(Self { file: open_append(path)?, path: path.into(), old_path: old_path.into(), max_bytes })
    }

    /// Moves a full log aside. Another process may be about to do the same; the lock and the second look decide.
    fn rotate_if_full(&self) -> io::Result<()> {
        if self.file.metadata()?.len() < self.max_bytes {
            return Ok(());
        }
        self.file.lock()?;
        let outcome = (|| {
            if self.file.metadata()?.len() >= self.max_bytes {
                fs::copy(&self.path, &self.old_path)?;
                self.file.set_len(0)?;
            }
            Ok(())
        })();
        self.file.unlock()?;
        outcome
    }
}

impl Write for BoundedLog {
    /// A log that cannot be written (a full disk) is no reason to stop moving frames.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let attempt = self.file.write_all(line).and_then(|()| self.rotate_if_full());
        drop(attempt);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_begins_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "first\nsecond\nthird\n").unwrap();
        assert_eq!(tail(&path, 1000).unwrap(), "first\nsecond\nthird\n");
        assert_eq!(tail(&path, 10).unwrap(), "third\n");
        assert!(tail(&dir.path().join("none"), 10).is_err());
    }

    #[test]
    fn two_writers_together_never_pass_the_bound_and_lose_no_recent_line() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old_path) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut writers = [0, 1].map(|_| BoundedLog::open(&path, &old_path, 1000).unwrap());
        for number in 0..200 {
            writeln!(writers[number % 2], "line {number:04}").unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= 1000);
        }
        let both = fs::read_to_string(&old_path).unwrap() + &fs::read_to_string(&path).unwrap();
        assert!(both.len() <= 2000);
        for number in 120..200 {
            assert!(both.contains(&format!("line {number:04}\n")), "{number}");
        }
    }
}
