//! What the data plane is started with.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use weaved_api::DesiredState;

/// Bits of a file's mode that let others read it.
const READABLE_BY_OTHERS: u32 = 0o044;

/// Arguments of `weaved dataplane`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the Unix socket goes.
    pub run_dir: PathBuf,
    /// A desired state in JSON, in place of control or until it comes. Read again on `SIGHUP`.
    pub desired_state: Option<PathBuf>,
}

/// The file with the desired state is of no use. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// It cannot be read.
    #[error("cannot read the desired state {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no desired state.
    #[error("{path} is not a desired state: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
}

/// Reads a desired state. Warns when others can read it, because it holds the keys.
pub fn read_desired_state(path: &Path) -> Result<DesiredState, StateFileError> {
    let unreadable = |source| StateFileError::Unreadable { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(unreadable)?.mode();
    if mode & READABLE_BY_OTHERS != 0 {
        tracing::warn!(path = %path.display(), "others can read the keys in this file: `chmod 600` it");
    }
    let text = fs::read(path).map_err(unreadable)?;
    serde_json::from_slice(&text).map_err(|source| StateFileError::Malformed { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let error = read_desired_state(&path).unwrap_err().to_string();
        assert!(error.contains("state.json") && error.contains("No such file"), "{error}");
        fs::write(&path, b"{\"generation\": ").unwrap();
        let error = read_desired_state(&path).unwrap_err().to_string();
        assert!(error.contains("state.json is not a desired state") && error.contains("line 1"), "{error}");
    }
}
