//! The key-value store on the disk: `kv.redb`, one table for each kind of row.
//!
//! redb writes copy-on-write pages with checksums and switches roots with one sync, so a torn tail is the state before it.
//! After an error it takes nothing more through the same handle: the next write opens the file anew, which recovers it.
//!
//! INVARIANT: [`KvFile::write`] returns when the whole batch would survive a power cut, or when none of it would.
//! INVARIANT: a file that was there is not made anew: it holds what this host has promised as a voter.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use redb::{Database, ReadableTable as _, TableDefinition};

use super::StateError;
use crate::kv::{Batch, StoredRows, Table};

/// Name of the file in the state directory.
pub const KV_FILE: &str = "kv.redb";

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

const TABLES: [(Table, Definition); 3] = [
    (Table::Entries, TableDefinition::new("entries 1")),
    (Table::Ballots, TableDefinition::new("ballots 1")),
    (Table::Facts, TableDefinition::new("facts 1")),
];

/// Whether an earlier run has made the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It may have: what there is is read, and nothing is an empty store.
    MayBeNew,
    /// It has: without it, and without anything in it, a voter would have forgotten what it has promised.
    Earlier,
}

/// The open file. Only one process has it at a time.
#[derive(Debug)]
pub struct KvFile {
    path: PathBuf,
    /// None after an error, until the next write.
    database: Option<Database>,
}

impl KvFile {
    /// Opens or makes the file in this directory, and reads all of it.
    pub fn open(dir: &Path, origin: Origin) -> Result<(Self, StoredRows), StateError> {
        if origin == Origin::Earlier {
            Self::require(dir)?;
        }
        let path = dir.join(KV_FILE);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        drop(options.map_err(|error| explain(&path, error.into()))?);
        let opened = Database::create(&path).map_err(redb::Error::from);
        let read = opened.and_then(|database| Ok((read_all(&database)?, database)));
        let (rows, database) = read.map_err(|error| explain(&path, error))?;
        if origin == Origin::MayBeNew {
            // Before anything is stored by which the next run expects it.
            let synced = File::open(dir).and_then(|dir| dir.sync_all());
            synced.map_err(|error| explain(&path, error.into()))?;
        }
        Ok((Self { path, database: Some(database) }, rows))
    }

    /// Refuses a file that is gone or has nothing in it.
    pub fn require(dir: &Path) -> Result<(), StateError> {
        let path = dir.join(KV_FILE);
        let missing = |what| format!("it is {what}, though this host was launched before");
        match fs::metadata(&path) {
            Ok(file) if file.len() > 0 => Ok(()),
            Ok(_) => Err(StateError::Damaged { path, reason: missing("empty") }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StateError::Damaged { path, reason: missing("missing") })
            }
            Err(source) => Err(StateError::Unreadable { path, source }),
        }
    }

    /// Writes a batch durably. After an error the same batch, or one with all of its rows, has to be the next.
    pub fn write(&mut self, batch: &Batch) -> Result<(), StateError> {
        let database = match self.database.take() {
            Some(database) => Ok(database),
            None => Database::open(&self.path).map_err(redb::Error::from),
        };
        let written = database.and_then(|database| write(&database, batch).map(|()| database));
        self.database = Some(written.map_err(|error| explain(&self.path, error))?);
        Ok(())
    }

    /// As after an error.
    #[cfg(test)]
    pub fn close(&mut self) {
        self.database = None;
    }
}

/// A disk that refuses is not damage; a file that is gone or not redb's is.
fn explain(path: &Path, error: redb::Error) -> StateError {
    let path = path.to_owned();
    match error {
        redb::Error::Io(source)
            if !matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound
            ) =>
        {
            StateError::Unwritable { path, source }
        }
        redb::Error::Io(error) => StateError::Damaged { path, reason: error.to_string() },
        error @ (redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_)) => {
            StateError::Damaged { path, reason: error.to_string() }
        }
        error => StateError::Unwritable { path, source: io::Error::other(error.to_string()) },
    }
}

fn read_all(database: &Database) -> Result<StoredRows, redb::Error> {
    let mut rows = StoredRows::new();
    // Opening makes the tables, so that a fresh file reads as an empty one.
    let transaction = database.begin_write()?;
    for (table, definition) in TABLES {
        let opened = transaction.open_table(definition)?;
        for row in opened.iter()? {
            let (key, value) = row?;
            rows.push((table, key.value().to_vec(), value.value().to_vec()));
        }
    }
    transaction.commit()?;
    Ok(rows)
}

fn write(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for (table, definition) in TABLES {
        let mut opened = transaction.open_table(definition)?;
        for ((_, key), value) in batch.iter().filter(|((of, _), _)| *of == table) {
            match value {
                Some(value) => drop(opened.insert(key.as_slice(), value.as_slice())?),
                None => drop(opened.remove(key.as_slice())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use super::*;

    fn batch(key: &str, value: Option<&str>) -> Batch {
        Batch::from([((Table::Entries, key.into()), value.map(Into::into))])
    }

    #[test]
    fn rows_are_read_back_and_removed_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, rows) = KvFile::open(dir.path(), Origin::MayBeNew).unwrap();
        assert!(rows.is_empty());
        file.write(&batch("a", Some("1"))).unwrap();
        file.write(&batch("b", Some("2"))).unwrap();
        file.write(&batch("a", None)).unwrap();
        drop(file);
        let (_, rows) = KvFile::open(dir.path(), Origin::MayBeNew).unwrap();
        assert_eq!(rows, [(Table::Entries, b"b".to_vec(), b"2".to_vec())]);
    }

    #[test]
    fn a_copy_taken_while_it_is_open_is_recovered_to_the_last_whole_batch() {
        let dir = tempfile::tempdir().unwrap();
        let copied = tempfile::tempdir().unwrap();
        let (mut file, _) = KvFile::open(dir.path(), Origin::MayBeNew).unwrap();
        for n in 0..50 {
            file.write(&batch("n", Some(&n.to_string()))).unwrap();
        }
        // What a power cut leaves: the file as it lies there, never closed.
        fs::copy(dir.path().join(KV_FILE), copied.path().join(KV_FILE)).unwrap();
        let (_, rows) = KvFile::open(copied.path(), Origin::Earlier).unwrap();
        assert_eq!(rows, [(Table::Entries, b"n".to_vec(), b"49".to_vec())]);
    }

    #[test]
    fn what_is_no_store_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(KV_FILE), [7; 8192]).unwrap();
        let error = KvFile::open(dir.path(), Origin::MayBeNew).unwrap_err().to_string();
        assert!(error.contains("kv.redb") && error.contains("weaved reset"), "{error}");
        assert_eq!(fs::read(dir.path().join(KV_FILE)).unwrap(), [7; 8192]);
    }

    #[test]
    fn a_store_that_was_there_and_is_gone_or_empty_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KV_FILE);
        let refusal = || KvFile::open(dir.path(), Origin::Earlier).unwrap_err().to_string();
        assert!(refusal().contains("is missing") && !path.exists());
        fs::write(&path, "").unwrap();
        assert!(refusal().contains("is empty") && refusal().contains("weaved reset --force"));
        assert_eq!(fs::read(&path).unwrap(), b"");
        drop(KvFile::open(dir.path(), Origin::MayBeNew).unwrap());
        assert!(KvFile::open(dir.path(), Origin::Earlier).is_ok());
    }

    /// A disk that has room for so many writes, then for none.
    #[derive(Debug)]
    struct Full {
        file: redb::backends::FileBackend,
        writes_left: Arc<AtomicI64>,
    }

    impl redb::StorageBackend for Full {
        fn len(&self) -> Result<u64, io::Error> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> Result<(), io::Error> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> Result<(), io::Error> {
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
            if self.writes_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            self.file.write(offset, data)
        }
    }

    #[test]
    fn a_disk_that_was_full_takes_the_same_batch_when_it_has_room_again() {
        // The error may come at any step of a commit.
        for writes_left in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let (mut file, _) = KvFile::open(dir.path(), Origin::MayBeNew).unwrap();
            file.write(&batch("a", Some("1"))).unwrap();
            file.close();
            let disk = OpenOptions::new().read(true).write(true).open(dir.path().join(KV_FILE)).unwrap();
            let left = Arc::new(AtomicI64::new(i64::MAX));
            let full = Full { file: redb::backends::FileBackend::new(disk).unwrap(), writes_left: Arc::clone(&left) };
            file.database = Some(Database::builder().create_with_backend(full).unwrap());
            left.store(writes_left, Ordering::Relaxed);
            let error = file.write(&batch("b", Some("2"))).unwrap_err().to_string();
            assert!(error.contains("check free space") && !error.contains("reset"), "{error}");
            file.write(&batch("b", Some("2"))).unwrap();
            drop(file);
            let (_, rows) = KvFile::open(dir.path(), Origin::MayBeNew).unwrap();
            assert_eq!(rows.len(), 2, "{writes_left}");
        }
    }
}
