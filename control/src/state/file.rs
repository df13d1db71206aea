//! One state file: written durably, read strictly.
//!
//! Two lines of JSON. The first says what the second is and holds its digest; the second is the record.
//!
//! ```text
//! {"weaved":"settings","version":1,"sha256":"<64 digits>"}
//! {"port":6783,…}
//! ```
//!
//! The digest is SHA-256 over name, version and second line.
//!
//! A write goes to a temporary file in the same directory, which is synced and renamed over the old one; then the
//! directory is synced.
//!
//! INVARIANT: at every instant the name holds the whole old record or the whole new one. A file that does not match
//! its digest is reported, never replaced.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// Larger than any record; a longer file is not ours.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Something with a file of its own.
pub trait Record: Serialize + DeserializeOwned {
    /// File name without its `.json`.
    const NAME: &'static str;
    /// Grows when an older reader would misunderstand.
    const VERSION: u32;
}

/// A state file that cannot be used. Nothing has been changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is not what was written.
    #[error(
        "state file {} is damaged ({reason}); it was not changed: restore it from a backup, \
         or give this host up with `weaved reset --force`",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer `weaved` wrote it.
    #[error("state file {} is of version {found}, this weaved knows {known}; use the newer weaved", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The newest version that this executable reads.
        known: u32,
    },
    /// The system refuses to read it.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses to write it.
    #[error("cannot write {}: {source}; check free space and permissions there, then try again", path.display())]
    Unwritable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    weaved: String,
    version: u32,
    sha256: String,
}

/// Reads a record; `None` when there is no file.
pub fn load<R: Record>(path: &Path) -> Result<Option<R>, StateError> {
    let unreadable = |source| StateError::Unreadable { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    parse(path, &bytes).map(Some)
}

/// Writes a record so that it survives a power cut after this returns.
pub fn save<R: Record>(path: &Path, record: &R) -> Result<(), StateError> {
    let unwritable = |source| StateError::Unwritable { path: path.to_owned(), source };
    let body = Zeroizing::new(serde_json::to_vec(record).map_err(|error| unwritable(error.into()))?);
    let header = Header { weaved: R::NAME.into(), version: R::VERSION, sha256: digest::<R>(R::VERSION, &body) };
    let mut bytes = Zeroizing::new(serde_json::to_vec(&header).map_err(|error| unwritable(error.into()))?);
    bytes.push(b'\n');
    bytes.extend_from_slice(&body);
    bytes.push(b'\n');
    write_durably(path, &bytes).map_err(unwritable)
}

/// Replaces a file whole, or leaves it whole.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let temporary = dir.join(format!(".{name}.new"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // A full disk must not keep the half-written copy as well.
        drop(fs::remove_file(&temporary));
    }
    written?;
    File::open(dir)?.sync_all()
}

fn parse<R: Record>(path: &Path, bytes: &[u8]) -> Result<R, StateError> {
    let damaged = |reason: String| StateError::Damaged { path: path.to_owned(), reason };
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no header line".into()))?;
    let header: Header =
        serde_json::from_slice(&bytes[..end]).map_err(|_| damaged("its header line is not ours".into()))?;
    if header.weaved != R::NAME {
        return Err(damaged(format!("it holds `{}`, not `{}`", header.weaved.escape_debug(), R::NAME)));
    }
    if header.version > R::VERSION {
        return Err(StateError::Newer { path: path.to_owned(), found: header.version, known: R::VERSION });
    }
    let body = bytes[end + 1..].strip_suffix(b"\n").ok_or_else(|| damaged("its end is missing".into()))?;
    if digest::<R>(header.version, body) != header.sha256 {
        return Err(damaged("its checksum does not match".into()));
    }
    serde_json::from_slice(body).map_err(|error| damaged(format!("it does not parse at column {}", error.column())))
}

/// Over all that matters: the kind of record, its version and the record.
fn digest<R: Record>(version: u32, body: &[u8]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(format!("{} {version}\n", R::NAME).as_bytes());
    context.update(body);
    context.finish().as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Note {
        text: String,
    }

    impl Record for Note {
        const NAME: &'static str = "note";
        const VERSION: u32 = 3;
    }

    fn saved() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note.json");
        save(&path, &Note { text: "ten hosts".into() }).unwrap();
        (dir, path)
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed_and_the_file_left_alone() {
        let (_dir, path) = saved();
        let good = fs::read(&path).unwrap();
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(load::<Note>(&path).is_err(), "bit of byte {index}");
            fs::write(&path, &good[..index]).unwrap();
            let error = load::<Note>(&path).unwrap_err().to_string();
            assert!(error.contains("note.json") && error.contains("weaved reset"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), good[..index]);
        }
    }

    #[test]
    fn another_record_in_the_place_is_refused() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Other {}
        impl Record for Other {
            const NAME: &'static str = "other";
            const VERSION: u32 = 1;
        }
        let (_dir, path) = saved();
        assert!(load::<Other>(&path).unwrap_err().to_string().contains("holds `note`, not `other`"));
    }

    #[test]
    fn a_file_of_a_newer_version_asks_for_the_newer_program() {
        let (_dir, path) = saved();
        let newer = fs::read_to_string(&path).unwrap().replace("\"version\":3", "\"version\":4");
        fs::write(&path, newer).unwrap();
        assert!(matches!(load::<Note>(&path), Err(StateError::Newer { found: 4, known: 3, .. })));
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_record_and_no_temporary_file() {
        let (dir, path) = saved();
        // A directory in the place of the temporary file is what a test can do as root.
        fs::create_dir(dir.path().join(".note.json.new")).unwrap();
        let error = save(&path, &Note { text: "eleven".into() }).unwrap_err();
        assert!(error.to_string().contains("cannot write"), "{error}");
        assert_eq!(load::<Note>(&path).unwrap(), Some(Note { text: "ten hosts".into() }));
    }
}
