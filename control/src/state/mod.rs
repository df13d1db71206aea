//! What a node remembers: its identity, the cluster's secret, its settings, its targets and the cluster's records.
//!
//! One file for each, written whole and durably ([`file`]). A file that does not read back as it was written is an
//! error that names it; it is never overwritten by something made up.
//!
//! INVARIANT: the directory has mode 0700 and each file 0600.

pub mod file;
pub mod identity;
pub mod kv_file;
pub mod password;
pub mod settings;
pub mod token;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use weaved_api::ClusterSecret;

pub use file::{Record, StateError};
pub use identity::Identity;
pub use settings::{DockerChoice, Settings};

use crate::{node::Persisted, paths};

/// The cluster's secret as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRecord {
    /// The pre-shared key of the cluster.
    pub secret: ClusterSecret,
}

impl Record for SecretRecord {
    const NAME: &'static str = "secret";
    const VERSION: u32 = 1;
}

/// What the operator asked for while the node ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wishes {
    /// Peers to connect to, as they were given: names stay names.
    pub targets: Vec<String>,
    /// Whether the host's own overlay address is announced to the cluster.
    pub exposed: bool,
    /// The slice that Docker was told of, or was seen to use. It must not be exchanged for another one, also while
    /// Docker does not run.
    pub docker_slice: Option<Ipv4Net>,
}

impl Record for Wishes {
    const NAME: &'static str = "wishes";
    const VERSION: u32 = 1;
}

impl Record for Persisted {
    const NAME: &'static str = "node";
    const VERSION: u32 = 1;
}

/// The state directory of one node.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store in this directory, which need not exist yet.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Makes the directory.
    pub fn create(&self) -> Result<(), StateError> {
        paths::create_private_dir(&self.dir).map_err(|source| StateError::Unwritable { path: self.dir.clone(), source })
    }

    /// What was saved last; `None` when nothing was.
    pub fn load<R: Record>(&self) -> Result<Option<R>, StateError> {
        file::load(&self.path::<R>())
    }

    /// Saves, and returns when it would survive a power cut.
    pub fn save<R: Record>(&self, record: &R) -> Result<(), StateError> {
        file::save(&self.path::<R>(), record)
    }

    /// Forgets one record, if there is one.
    pub fn remove<R: Record>(&self) -> Result<(), StateError> {
        remove_file(&self.path::<R>())
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that holds a record.
    pub fn path<R: Record>(&self) -> PathBuf {
        self.dir.join(format!("{}.json", R::NAME))
    }

    /// Removes every file of ours, and the directory when nothing else is in it.
    pub fn remove_all(&self, names: &[&str]) -> Result<(), StateError> {
        for name in names {
            remove_file(&self.dir.join(name))?;
        }
        match fs::remove_dir(&self.dir) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                // A mount point or a directory that an operator made stays; it is empty of ours.
                tracing::debug!(%error, "state directory stays");
            }
            _ => {}
        }
        Ok(())
    }
}

/// Removes a file that may already be gone.
fn remove_file(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StateError::Unwritable { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("state"));
        store.create().unwrap();
        (dir, store)
    }

    #[test]
    fn what_was_saved_is_loaded_and_private() {
        let (_dir, store) = store();
        assert_eq!(store.load::<Wishes>().unwrap(), None);
        let wishes = Wishes { targets: vec!["b:6783".into()], exposed: true, docker_slice: None };
        store.save(&wishes).unwrap();
        assert_eq!(store.load::<Wishes>().unwrap(), Some(wishes));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.path::<Wishes>()), 0o600);
        assert_eq!(mode(&store.dir), 0o700);
    }

    #[test]
    fn removal_leaves_foreign_files_and_may_be_repeated() {
        let (_dir, store) = store();
        store.save(&Wishes::default()).unwrap();
        fs::write(store.dir.join("notes.txt"), "the operator's").unwrap();
        store.remove_all(&["wishes.json"]).unwrap();
        store.remove_all(&["wishes.json"]).unwrap();
        assert!(store.dir.join("notes.txt").exists());
        assert!(!store.path::<Wishes>().exists());
        fs::remove_file(store.dir.join("notes.txt")).unwrap();
        store.remove_all(&["wishes.json"]).unwrap();
        assert!(!store.dir.exists());
    }
}
