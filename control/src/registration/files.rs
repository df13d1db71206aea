//! Definitions in a directory: `*.json`, in Consul's form.
//!
//! The directory is looked at every second. A file that cannot be used is noted once in the log, and what it said before
//! stays; one that is removed takes its services along.
//!
//! INVARIANT: what cannot be read, the directory itself too, takes nothing away, and is tried again.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::watch;
use weaved_gateway::bounded_file;

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
    /// What has been read as it is, whether or not it could be used.
    read: BTreeMap<String, Signature>,
    /// What is wrong, by file.
    complaints: BTreeMap<String, String>,
    definitions: BTreeMap<String, Vec<Definition>>,
    /// None before the first look.
    given: Option<Files>,
}

impl Reader {
    fn new(dir: &Path) -> Self {
        let (read, complaints) = (BTreeMap::new(), BTreeMap::new());
        Self { dir: dir.to_owned(), read, complaints, definitions: BTreeMap::new(), given: None }
    }

    /// What is there, when it is other than at the last look.
    fn look(&mut self) -> Option<Files> {
        let mut notes = Vec::new();
        let about_dir = |text: String| Note::new(self.dir.display().to_string(), text);
        match list(&self.dir) {
            Ok(mut found) => {
                let surplus_count = found.len().saturating_sub(MAX_FILES);
                while found.len() > MAX_FILES {
                    found.pop_last();
                }
                if surplus_count > 0 {
                    let text = format!("{surplus_count} files ignored; the first {MAX_FILES} by name are read");
                    notes.push(about_dir(text));
                }
                self.follow(&found);
            }
            Err(error) => notes.push(about_dir(format!("{error}; what was read before stays"))),
        }
        let about = |(name, text): (&String, &String)| Note::new(self.dir.join(name).display().to_string(), text);
        notes.extend(self.complaints.iter().map(about));
        let files = Files { definitions: self.definitions.clone(), notes };
        let is_news = self.given.as_ref() != Some(&files);
        is_news.then(|| self.given.insert(files).clone())
    }

    /// Reads what is new, and forgets what is gone.
    fn follow(&mut self, found: &BTreeMap<String, Signature>) {
        self.definitions.retain(|name, _| found.contains_key(name));
        self.complaints.retain(|name, _| found.contains_key(name));
        self.read.retain(|name, signature| found.get(name) == Some(&*signature));
        for (name, signature) in found {
            if self.read.contains_key(name) {
                continue;
            }
            let text = read(&self.dir.join(name));
            if text.as_ref().err().is_none_or(|error| error.kind() == io::ErrorKind::InvalidData) {
                self.read.insert(name.clone(), *signature);
            }
            let text = text.map_err(|error| error.to_string());
            match text.and_then(|text| consul_json::parse_file(&text).map_err(|error| error.to_string())) {
                Ok(definitions) => {
                    self.definitions.insert(name.clone(), definitions);
                    self.complaints.remove(name);
                }
                Err(reason) => {
                    let kept = if self.definitions.contains_key(name) { "; its last good content stays" } else { "" };
                    self.complaints.insert(name.clone(), format!("{reason}{kept}"));
                }
            }
        }
    }
}

/// The definitions in a directory, none where there is no directory.
fn list(dir: &Path) -> io::Result<BTreeMap<String, Signature>> {
    let unless_gone = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
    let Some(entries) = fs::read_dir(dir).map(Some).or_else(unless_gone)? else { return Ok(BTreeMap::new()) };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let has_ending = Path::new(&name).extension().is_some_and(|extension| extension == "json");
        if !has_ending || name.starts_with('.') {
            continue;
        }
        let signature = match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_file() => {
                (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino())
            }
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // Reading it says what is wrong.
            Err(_) => Signature::default(),
        };
        files.insert(name, signature);
    }
    Ok(files)
}

/// The text of a file of definitions. What is read and is none is `InvalidData`.
pub fn read(path: &Path) -> io::Result<String> {
    bounded_file::read_text(path, MAX_FILE_BYTES)
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
    fn what_cannot_be_read_takes_nothing_away_and_is_read_when_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let (services, aside) = (dir.path().join("services.d"), dir.path().join("aside"));
        fs::create_dir(&services).unwrap();
        fs::write(services.join("web.json"), r#"{"name":"web"}"#).unwrap();
        let mut reader = Reader::new(&services);
        assert_eq!(reader.look().unwrap().notes, []);
        // No directory, and not gone: what a full table of open files or a share that is away look like from here.
        fs::rename(&services, &aside).unwrap();
        fs::write(&services, "").unwrap();
        let files = reader.look().unwrap();
        assert_eq!(files.definitions["web.json"][0].service, "web");
        assert!(files.notes[0].text.ends_with("what was read before stays"), "{:?}", files.notes);
        assert_eq!(reader.look(), None, "it is told once");
        fs::remove_file(&services).unwrap();
        fs::rename(&aside, &services).unwrap();
        assert_eq!(reader.look().unwrap().notes, []);
        // The same of a file: the first page of this one never can be read.
        std::os::unix::fs::symlink("/proc/self/mem", services.join("db.json")).unwrap();
        assert_eq!(reader.look().unwrap().notes.len(), 1);
        assert_eq!(reader.look(), None);
        assert!(!reader.read.contains_key("db.json"), "it is tried again");
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
        let notes: Vec<String> = files.notes.iter().map(|note| note.text.clone()).collect();
        assert!(notes.len() == 2 && notes[0].contains("longer than") && notes[1].contains("UTF-8"), "{notes:?}");
    }
}
