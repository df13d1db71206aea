//! Definitions in a directory: `*.json`, in Consul's form.
//!
//! The directory is looked at every second. A file that cannot be used is noted once in the log, and what it said before
//! stays; one that is removed takes its services along.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    Definition, Note,
    book::Files,
    consul_json,
    limits::{MAX_FILE_BYTES, MAX_FILES},
};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Follows a directory, which need not exist, until nobody listens.
pub async fn follow(dir: PathBuf, files: watch::Sender<Option<Files>>) {
    let mut reader = Reader::new(&dir);
    while !files.is_closed() {
        // Reading may take long where the directory is on a network.
        let looked = tokio::task::spawn_blocking(move || {
            let news = reader.look();
            (reader, news)
        });
        let Ok((back, news)) = looked.await else { return };
        reader = back;
        if let Some(news) = news {
            for note in &news.notes {
                tracing::warn!("{note}");
            }
            files.send_replace(Some(news));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// What tells that a file is another than before.
type Signature = (u64, i64, i64, u64);

struct Reader {
    dir: PathBuf,
    /// None before the first look.
    seen: Option<BTreeMap<String, Signature>>,
    definitions: BTreeMap<String, Vec<Definition>>,
}

impl Reader {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), seen: None, definitions: BTreeMap::new() }
    }

    /// What is there, when it is other than at the last look.
    fn look(&mut self) -> Option<Files> {
        let mut found = self.list();
        let surplus_count = found.len().saturating_sub(MAX_FILES);
        while found.len() > MAX_FILES {
            found.pop_last();
        }
        if self.seen.as_ref() == Some(&found) {
            return None;
        }
        let mut notes = Vec::new();
        if surplus_count > 0 {
            let text = format!("{surplus_count} files ignored; the first {MAX_FILES} by name are read");
            notes.push(Note::new(self.dir.display().to_string(), text));
        }
        self.definitions.retain(|name, _| found.contains_key(name));
        for name in found.keys() {
            let path = self.dir.join(name);
            match read(&path).and_then(|text| consul_json::parse_file(&text).map_err(|error| error.to_string())) {
                Ok(definitions) => drop(self.definitions.insert(name.clone(), definitions)),
                Err(reason) => {
                    let kept = if self.definitions.contains_key(name) { "; its last good content stays" } else { "" };
                    notes.push(Note::new(path.display().to_string(), format!("{reason}{kept}")));
                }
            }
        }
        self.seen = Some(found);
        Some(Files { definitions: self.definitions.clone(), notes })
    }

    fn list(&self) -> BTreeMap<String, Signature> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let files = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let metadata = fs::metadata(entry.path()).ok()?;
            let is_definition = metadata.is_file()
                && Path::new(&name).extension().is_some_and(|extension| extension == "json")
                && !name.starts_with('.');
            let signature = (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino());
            is_definition.then_some((name, signature))
        });
        files.collect()
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it is longer than {MAX_FILE_BYTES} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_named_with_line_and_column_and_its_old_content_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.json");
        let mut reader = Reader::new(dir.path());
        assert_eq!(reader.look(), Some(Files::default()));
        assert_eq!(reader.look(), None);
        fs::write(&path, r#"{"service":{"name":"web"}}"#).unwrap();
        fs::write(dir.path().join("notes.txt"), "no definition").unwrap();
        assert_eq!(reader.look().unwrap().definitions["web.json"][0].service, "web");
        fs::write(&path, "{\"service\":\n{\"name\":7}}").unwrap();
        let files = reader.look().unwrap();
        assert_eq!(files.definitions["web.json"][0].service, "web");
        let note = files.notes[0].to_string();
        assert!(note.contains("web.json: line 2, column 9: ") && note.contains("last good content stays"), "{note}");
        assert_eq!(reader.look(), None);
        fs::remove_file(&path).unwrap();
        assert_eq!(reader.look(), Some(Files::default()));
    }

    #[test]
    fn giants_directories_and_what_is_no_text_are_notes() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.json"), vec![b' '; MAX_FILE_BYTES as usize + 1]).unwrap();
        fs::write(dir.path().join("b.json"), [0xff, 0xfe]).unwrap();
        fs::create_dir(dir.path().join("c.json")).unwrap();
        fs::write(dir.path().join("good.json"), r#"{"name":"good"}"#).unwrap();
        let files = Reader::new(dir.path()).look().unwrap();
        assert_eq!(files.definitions.keys().collect::<Vec<_>>(), ["good.json"]);
        assert_eq!(files.notes.len(), 2, "{:?}", files.notes);
    }
}
