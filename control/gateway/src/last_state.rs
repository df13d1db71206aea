//! The last state that control has told, in a file: the gateway answers from it after its own restart too.
//!
//! It lies in the run directory, which a reboot empties: names from before a reboot are nobody's. The time of the file is that until which
//! a gateway has served: one that comes long after it does not know what was switched meanwhile.
//!
//! INVARIANT: at every instant the file holds a whole state or does not exist.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use weaved_api::{
    framing,
    gateway::{GATEWAY_API_VERSION, GatewayState},
};

/// Where it lies in the run directory.
const NAME: &str = "gateway.state";
/// Where the next one is written.
const NEW_NAME: &str = "gateway.state.new";

/// The file.
#[derive(Clone, Debug)]
pub(crate) struct LastState {
    dir: PathBuf,
    /// Which file was read last.
    seen: Option<(u64, SystemTime)>,
}

impl LastState {
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self { dir: run_dir.to_owned(), seen: None }
    }

    /// The state, if there is one that this program understands.
    pub(crate) fn load(&self) -> Option<GatewayState> {
        let read = || -> io::Result<Option<GatewayState>> {
            let mut file = File::open(self.dir.join(NAME))?;
            // What another version wrote may decode to nonsense.
            if framing::read_message::<u32>(&mut file)? != Some(GATEWAY_API_VERSION) {
                return Ok(None);
            }
            framing::read_message(&mut file)
        };
        match read() {
            Ok(state) => state,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, "the names from before cannot be read; waiting for control");
                None
            }
        }
    }

    /// For how long nobody has served by it, as far as the clock knows; nothing without a file.
    pub(crate) fn age(&self) -> Duration {
        let touched = fs::metadata(self.dir.join(NAME)).and_then(|file| file.modified()).ok();
        touched.and_then(|touched| SystemTime::now().duration_since(touched).ok()).unwrap_or_default()
    }

    /// It is served by.
    pub(crate) fn touch(&self) {
        let touched = File::open(self.dir.join(NAME)).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(%error, "the last state is not touched");
        }
    }

    /// The state, if the file may be another than the one that was seen last.
    pub(crate) fn load_newer(&mut self) -> Option<GatewayState> {
        let file = fs::metadata(self.dir.join(NAME)).ok()?;
        let seen = Some((file.ino(), file.modified().ok()?));
        if self.seen == seen {
            return None;
        }
        self.seen = seen;
        self.load()
    }

    /// Replaces it.
    pub(crate) fn save(&self, state: &GatewayState) -> io::Result<()> {
        let new = self.dir.join(NEW_NAME);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut bytes = framing::encode(&GATEWAY_API_VERSION)?;
        bytes.extend(framing::encode(state)?);
        file.write_all(&bytes)?;
        // No sync: the file outlives processes, not the machine.
        fs::rename(new, self.dir.join(NAME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::testing::state;

    #[test]
    fn the_last_state_is_read_back_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = LastState::new(dir.path());
        assert_eq!(file.load(), None);
        file.save(&state()).unwrap();
        assert_eq!(file.load(), Some(state()));
        let path = dir.path().join(NAME);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(file.load(), None);
    }

    #[test]
    fn its_age_is_the_time_since_it_was_touched() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = LastState::new(dir.path());
        assert_eq!((file.age(), file.load_newer()), (Duration::ZERO, None));
        file.save(&state()).unwrap();
        let long_ago = SystemTime::now() - Duration::from_mins(1);
        File::open(dir.path().join(NAME)).unwrap().set_modified(long_ago).unwrap();
        assert!(file.age() >= Duration::from_mins(1));
        assert!(file.load_newer().is_some() && file.load_newer().is_none());
        file.touch();
        assert!(file.age() < Duration::from_mins(1) && file.load_newer().is_some());
    }

    #[test]
    fn a_state_of_another_version_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = framing::encode(&(GATEWAY_API_VERSION + 1)).unwrap();
        bytes.extend(framing::encode(&state()).unwrap());
        fs::write(dir.path().join(NAME), bytes).unwrap();
        assert_eq!(LastState::new(dir.path()).load(), None);
    }
}
