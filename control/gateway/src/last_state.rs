//! The last state that control has told, in a file: the gateway answers from it after its own restart too.
//!
//! It lies in the run directory, which a reboot empties: names from before a reboot are nobody's.
//!
//! INVARIANT: at every instant the file holds a whole state or does not exist.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
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
}

impl LastState {
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self { dir: run_dir.to_owned() }
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
    fn a_state_of_another_version_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = framing::encode(&(GATEWAY_API_VERSION + 1)).unwrap();
        bytes.extend(framing::encode(&state()).unwrap());
        fs::write(dir.path().join(NAME), bytes).unwrap();
        assert_eq!(LastState::new(dir.path()).load(), None);
    }
}
