//! Whether who reads a file is still to be told of it: a mark beside the file, so that it outlives the process.
//!
//! INVARIANT: the mark is there before the file changes, and goes after a reload that has worked. A process that is killed in between
//! leaves it to the next one, which may reload once for nothing but never leaves it out.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use crate::host::replace::beside;

/// What the name of the mark ends in, behind that of its file.
const ENDING: &str = ".weaved-reload";

/// A reload that is owed or not.
#[derive(Debug)]
pub struct Owed {
    /// None for a destination that is none, which is never written.
    mark: Option<PathBuf>,
    is_owed: bool,
}

impl Owed {
    /// As an earlier process has left it.
    pub fn of(destination: &Path) -> Self {
        let mark = beside(destination, ENDING).ok();
        let is_owed = mark.as_ref().is_some_and(|mark| fs::symlink_metadata(mark).is_ok());
        Self { mark, is_owed }
    }

    /// Whether a reload is owed.
    pub fn is_owed(&self) -> bool {
        self.is_owed
    }

    /// The file is about to change. A link in the place of the mark is not followed.
    pub fn owe(&mut self) -> io::Result<()> {
        if let Some(mark) = &self.mark {
            match OpenOptions::new().write(true).create_new(true).open(mark) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        self.is_owed = true;
        Ok(())
    }

    /// Who reads it has been told. Where the mark stays, the next process tells him again.
    pub fn settle(&mut self) {
        if !std::mem::take(&mut self.is_owed) {
            return;
        }
        let removed = self.mark.as_ref().map_or(Ok(()), fs::remove_file);
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = ?self.mark, %error, "cannot remove the mark; the next start reloads once more");
        }
    }
}
