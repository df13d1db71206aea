//! The key-value store on the disk: `kv.redb`, one table for each kind of row.
//!
//! redb writes copy-on-write pages with checksums and switches roots with one sync, so a torn tail is the state before it.
//!
//! INVARIANT: [`KvFile::write`] returns when the whole batch would survive a power cut, or when none of it would.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use redb::{Database, ReadableTable as _, TableDefinition};

use crate::kv::{Batch, StoredRows, Table};

/// Name of the file in the state directory.
pub const KV_FILE: &str = "kv.redb";

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

const TABLES: [(Table, Definition); 3] = [
    (Table::Entries, TableDefinition::new("entries 1")),
    (Table::Ballots, TableDefinition::new("ballots 1")),
    (Table::Facts, TableDefinition::new("facts 1")),
];

/// The file cannot be used. Nothing has been changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {source}; free space, or restore the file from a backup, or give this host up with `weaved reset --force`", path.display())]
pub struct KvFileError {
    /// Which file.
    pub path: PathBuf,
    /// What redb says.
    #[source]
    pub source: redb::Error,
}

/// The open file. Only one process has it at a time.
#[derive(Debug)]
pub struct KvFile {
    path: PathBuf,
    database: Database,
}

impl KvFile {
    /// Opens or makes the file in this directory, and reads all of it.
    pub fn open(dir: &Path) -> Result<(Self, StoredRows), KvFileError> {
        let path = dir.join(KV_FILE);
        let fail = |source: redb::Error| KvFileError { path: path.clone(), source };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        drop(options.map_err(|error| fail(redb::Error::Io(error)))?);
        let database = Database::create(&path).map_err(|error| fail(error.into()))?;
        let rows = read_all(&database).map_err(fail)?;
        Ok((Self { path, database }, rows))
    }

    /// Writes a batch durably.
    pub fn write(&self, batch: &Batch) -> Result<(), KvFileError> {
        write(&self.database, batch).map_err(|source| KvFileError { path: self.path.clone(), source })
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
    use std::fs;

    use super::*;

    fn batch(key: &str, value: Option<&str>) -> Batch {
        Batch::from([((Table::Entries, key.into()), value.map(Into::into))])
    }

    #[test]
    fn rows_are_read_back_and_removed_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (file, rows) = KvFile::open(dir.path()).unwrap();
        assert!(rows.is_empty());
        file.write(&batch("a", Some("1"))).unwrap();
        file.write(&batch("b", Some("2"))).unwrap();
        file.write(&batch("a", None)).unwrap();
        drop(file);
        let (_, rows) = KvFile::open(dir.path()).unwrap();
        assert_eq!(rows, [(Table::Entries, b"b".to_vec(), b"2".to_vec())]);
    }

    #[test]
    fn a_copy_taken_while_it_is_open_is_recovered_to_the_last_whole_batch() {
        let dir = tempfile::tempdir().unwrap();
        let copied = tempfile::tempdir().unwrap();
        let (file, _) = KvFile::open(dir.path()).unwrap();
        for n in 0..50 {
            file.write(&batch("n", Some(&n.to_string()))).unwrap();
        }
        // What a power cut leaves: the file as it lies there, never closed.
        fs::copy(dir.path().join(KV_FILE), copied.path().join(KV_FILE)).unwrap();
        let (_, rows) = KvFile::open(copied.path()).unwrap();
        assert_eq!(rows, [(Table::Entries, b"n".to_vec(), b"49".to_vec())]);
    }

    #[test]
    fn what_is_no_store_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(KV_FILE), [7; 8192]).unwrap();
        let error = KvFile::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("kv.redb") && error.contains("weaved reset"), "{error}");
        assert_eq!(fs::read(dir.path().join(KV_FILE)).unwrap(), [7; 8192]);
    }
}
