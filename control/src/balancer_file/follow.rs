//! The file on the disk: looked at every second, read anew when it is another one.
//!
//! The last good text is kept beside the node's state, so that a control that starts with a bad file balances as the one before.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use weaved_gateway::bounded_file;

use super::{BalancerFile, MAX_FILE_BYTES};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The last good text, in the state directory.
const KEPT_NAME: &str = "balancer.last-good.toml";

/// What is in force, and what is wrong with the file.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The last one that was understood; empty without a file.
    pub file: Arc<BalancerFile>,
    /// In a sentence, with file and line.
    pub problem: Option<String>,
}

/// What tells that a file is another than before; None for no file.
type Signature = Option<(u64, i64, i64, u64)>;

/// Looks at the file again and again.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    kept: PathBuf,
    /// None before the first look.
    seen: Option<Signature>,
    loaded: Loaded,
}

impl Follower {
    /// Follows the file at `path`, which need not exist.
    pub fn new(path: &Path, state_dir: &Path) -> Self {
        let (path, kept) = (path.to_owned(), state_dir.join(KEPT_NAME));
        Self { path, kept, seen: None, loaded: Loaded::default() }
    }

    /// What is there, when it is other than at the last look.
    pub fn look(&mut self) -> Option<Loaded> {
        let signature = signature(&self.path);
        let is_first = self.seen.is_none();
        if self.seen == Some(signature) {
            return None;
        }
        self.seen = Some(signature);
        match bounded_file::read_text(&self.path, MAX_FILE_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.loaded = Loaded::default();
                drop(fs::remove_file(&self.kept));
            }
            Err(error) => self.on_bad(&format!("cannot be read: {error}"), is_first),
            Ok(text) => match BalancerFile::parse(&text) {
                Ok(file) => {
                    self.loaded = Loaded { file: Arc::new(file), problem: None };
                    if let Err(error) = fs::write(&self.kept, text) {
                        tracing::warn!(%error, path = %self.kept.display(), "cannot keep the balancer's last good file");
                    }
                }
                Err(error) => self.on_bad(&error.to_string(), is_first),
            },
        }
        Some(self.loaded.clone())
    }

    fn on_bad(&mut self, reason: &str, is_first: bool) {
        if is_first && let Ok(file) = read(&self.kept) {
            self.loaded.file = Arc::new(file);
        }
        let problem = format!("{}: {reason}; what was read before stays in force", self.path.display());
        tracing::warn!("{problem}");
        self.loaded.problem = Some(problem);
    }

    /// Tells what is new until nobody listens.
    pub async fn follow(mut self, news: watch::Sender<Loaded>) {
        while !news.is_closed() {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let looked = tokio::task::spawn_blocking(move || {
                let loaded = self.look();
                (self, loaded)
            });
            let Ok((back, loaded)) = looked.await else { return };
            self = back;
            if let Some(loaded) = loaded {
                news.send_replace(loaded);
            }
        }
    }
}

/// Reads and understands a file. The error is one line.
pub fn read(path: &Path) -> Result<BalancerFile, String> {
    let text = bounded_file::read_text(path, MAX_FILE_BYTES)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    BalancerFile::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn signature(path: &Path) -> Signature {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[[listen]]\naddress = \"0.0.0.0:80\"\nservice = \"web\"\n";

    #[test]
    fn a_bad_file_leaves_the_old_one_in_force_also_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("balancer.toml");
        let mut follower = Follower::new(&path, dir.path());
        assert!(follower.look().unwrap().file.is_empty());
        assert!(follower.look().is_none());
        fs::write(&path, GOOD).unwrap();
        assert!(!follower.look().unwrap().file.is_empty());
        fs::write(&path, format!("{GOOD}nonsense = 1\n")).unwrap();
        let loaded = follower.look().unwrap();
        assert!(!loaded.file.is_empty());
        let problem = loaded.problem.unwrap();
        assert!(problem.contains("balancer.toml: line 4: ") && problem.contains("stays in force"), "{problem}");
        let loaded = Follower::new(&path, dir.path()).look().unwrap();
        assert!(!loaded.file.is_empty() && loaded.problem.is_some());
        // Without a file nothing is balanced, also later.
        fs::remove_file(&path).unwrap();
        let loaded = follower.look().unwrap();
        assert!(loaded.file.is_empty() && loaded.problem.is_none());
        fs::write(&path, "nonsense").unwrap();
        assert!(Follower::new(&path, dir.path()).look().unwrap().file.is_empty());
    }
}
