//! Replacing a file: a candidate in the same directory, synced, checked by the caller, renamed.
//!
//! The destination's owner and mode stay; where it is a symbolic link, the file behind it is replaced. And removing one.
//!
//! INVARIANT: a reader of the destination sees the old file or the new one, whole. A candidate that is dropped is removed; that of
//! a process that was killed, by the next write of the same file.

use std::{
    borrow::Cow,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use rustix::process::{Pid, test_kill_process};

use crate::failure::Failure;

/// What the name of a candidate ends in, behind that of its file and the number of its process.
const CANDIDATE_ENDING: &str = ".weaved-new";

/// The mode of a file that is new.
const NEW_FILE_MODE: u32 = 0o644;

/// Files of a directory that are looked at for candidates of the dead: one who writes into a heap does not pay for all of it.
const MAX_LOOKED_AT: usize = 10_000;

/// The part of a mode that is kept.
const MODE_BITS: u32 = 0o7777;

/// A new version of a file, beside it.
#[derive(Debug)]
pub struct Candidate {
    path: PathBuf,
    destination: PathBuf,
}

/// Whether the destination has this content and, if one is asked for, this mode.
pub fn is_current(destination: &Path, content: &[u8], mode: Option<u32>) -> bool {
    let Ok(metadata) = fs::metadata(destination) else { return false };
    let has_mode = mode.is_none_or(|mode| metadata.mode() & MODE_BITS == mode);
    has_mode && metadata.len() == content.len() as u64 && fs::read(destination).is_ok_and(|old| old == content)
}

/// Removes a file that may already be gone.
pub fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::refused(format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

impl Candidate {
    /// Writes the candidate; the destination is not touched.
    pub fn write(destination: &Path, content: &[u8], mode: Option<u32>) -> io::Result<Self> {
        let destination = behind_links(destination);
        let old = match fs::metadata(&destination) {
            Ok(metadata) if !metadata.is_file() => return Err(io::Error::other("it is no regular file")),
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (path, mut file) = create_beside(&destination)?;
        let candidate = Self { path, destination };
        file.write_all(content)?;
        if let Some(old) = &old
            && (old.uid(), old.gid()) != (file.metadata()?.uid(), file.metadata()?.gid())
        {
            fchown(&file, Some(old.uid()), Some(old.gid()))
                .map_err(|error| io::Error::new(error.kind(), format!("cannot keep its owner: {error}")))?;
        }
        let kept_mode = old.map_or(NEW_FILE_MODE, |old| old.mode() & MODE_BITS);
        file.set_permissions(Permissions::from_mode(mode.unwrap_or(kept_mode)))?;
        file.sync_all()?;
        Ok(candidate)
    }

    /// Where it is, for the check.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it the destination.
    pub fn commit(self) -> io::Result<()> {
        fs::rename(&self.path, &self.destination)?;
        File::open(parent(&self.destination))?.sync_all()
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        // After a commit there is none.
        drop(fs::remove_file(&self.path));
    }
}

/// Readable by nobody else until it has its owner and mode.
fn create_beside(destination: &Path) -> io::Result<(PathBuf, File)> {
    let (dir, name) = place_of(destination)?;
    remove_leftovers(dir, &name);
    let path = hidden(dir, &name, &format!(".{}{CANDIDATE_ENDING}", std::process::id()));
    // Left behind by a process with our number that was killed.
    drop(fs::remove_file(&path));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((path, file))
}

/// A file of ours beside one that may be behind links.
pub fn beside(destination: &Path, ending: &str) -> io::Result<PathBuf> {
    let destination = behind_links(destination);
    let (dir, name) = place_of(&destination)?;
    Ok(hidden(dir, &name, ending))
}

fn place_of(file: &Path) -> io::Result<(&Path, Cow<'_, str>)> {
    let name = file.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    Ok((parent(file), name.to_string_lossy()))
}

/// Hidden, with an ending of its own: a program that includes every `*.conf` must not read it.
fn hidden(dir: &Path, name: &str, ending: &str) -> PathBuf {
    dir.join(format!(".{name}{ending}"))
}

fn behind_links(destination: &Path) -> PathBuf {
    fs::canonicalize(destination).unwrap_or_else(|_| destination.to_path_buf())
}

/// Removes what processes that were killed within a write of this file have left there. What cannot be removed stays.
fn remove_leftovers(dir: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.map_while(Result::ok).take(MAX_LOOKED_AT) {
        let writer = entry.file_name().to_str().and_then(|candidate| writer_of(candidate, name));
        // Neither of these follows a link.
        if writer.is_some_and(is_dead) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Whose candidate of the file `name` this is.
fn writer_of(candidate: &str, name: &str) -> Option<Pid> {
    let text = candidate.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(CANDIDATE_ENDING)?;
    let number: i32 = text.parse().ok().filter(|number: &i32| *number > 0 && number.to_string() == text)?;
    Pid::from_raw(number)
}

fn is_dead(process: Pid) -> bool {
    test_kill_process(process) == Err(rustix::io::Errno::SRCH)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn a_dropped_candidate_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "old").unwrap();
        let candidate = Candidate::write(&path, b"new", None).unwrap();
        assert_eq!(fs::read(candidate.path()).unwrap(), b"new");
        drop(candidate);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn what_a_killed_process_left_goes_with_the_next_write_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        // No process has such a number; the first one lives.
        let dead = i32::MAX - 1;
        let left = [format!(".f.{dead}.weaved-new"), format!(".f.{}.weaved-new", dead - 1)];
        let others = [
            ".f.1.weaved-new".to_owned(),
            format!(".g.{dead}.weaved-new"),
            format!(".f.0{dead}.weaved-new"),
            format!(".f.+{dead}.weaved-new"),
            format!(".f.-{dead}.weaved-new"),
            format!(".f.x.{dead}.weaved-new"),
            format!("f.{dead}.weaved-new"),
            format!(".f.{dead}.weaved-new.conf"),
        ];
        for name in left.iter().chain(&others) {
            fs::write(dir.path().join(name), "half").unwrap();
        }
        let (link, folder) = (format!(".f.{}.weaved-new", dead - 2), format!(".f.{}.weaved-new", dead - 3));
        std::os::unix::fs::symlink(dir.path().join(&others[0]), dir.path().join(&link)).unwrap();
        fs::create_dir(dir.path().join(&folder)).unwrap();
        Candidate::write(&path, b"new", None).unwrap().commit().unwrap();
        let mut kept: Vec<String> = others.into_iter().chain([link, folder, "f".into()]).collect();
        kept.sort();
        let mut found = names(dir.path());
        found.sort();
        assert_eq!(found, kept);
    }

    #[test]
    fn mode_and_owner_stay_unless_a_mode_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
        }
        Candidate::write(&path, b"new", None).unwrap().commit().unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & MODE_BITS, 0o640);
        assert!(!is_root || (metadata.uid(), metadata.gid()) == (65534, 65534));
        assert!(is_current(&path, b"new", None) && !is_current(&path, b"old", None));
        assert!(!is_current(&path, b"new", Some(0o600)));
        Candidate::write(&path, b"new", Some(0o600)).unwrap().commit().unwrap();
        assert!(is_current(&path, b"new", Some(0o600)));
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn behind_a_link_the_file_is_replaced_and_the_link_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        Candidate::write(&link, b"new", None).unwrap().commit().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn a_file_is_removed_once_and_what_is_no_file_stays_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "old").unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        let refused = remove(dir.path()).unwrap_err().to_string();
        assert!(refused.starts_with("cannot remove ") && dir.path().exists(), "{refused}");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Candidate::write(dir.path(), b"x", None).is_err());
        assert!(Candidate::write(&dir.path().join("no/such/dir"), b"x", None).is_err());
    }
}
