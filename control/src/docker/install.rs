//! Writes Docker's configuration, and takes it back.
//!
//! The operator's file is copied to `daemon.json.weaved-backup` before the first change; the copy is never
//! overwritten. What was done is remembered in the state directory before it is done, so that `--uninstall` and
//! `reset` can undo it after any interruption.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    config::{self, DockerOptions, Installed, OnConflict},
    systemd,
};
use crate::{
    failure::Failure,
    state::{Store, file},
};

/// Where things are written.
#[derive(Clone, Debug)]
pub struct Places {
    /// Docker's configuration file.
    pub daemon_json: PathBuf,
    /// Directory of systemd units; `None` where systemd does not run.
    pub units: Option<PathBuf>,
}

/// What an installation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Docker must be restarted to hear of it.
    Changed,
    /// Everything was there.
    Unchanged,
}

/// The text that an installation would write.
pub fn preview(places: &Places, options: &DockerOptions, on_conflict: OnConflict) -> Result<String, Failure> {
    let old = read(&places.daemon_json)?.unwrap_or_default();
    let merged = options.merge(&old, &mut Installed::default(), on_conflict);
    Ok(merged.map_err(|error| refused(&places.daemon_json, &error))?.unwrap_or(old))
}

/// Makes Docker use the bridge from its next start on.
pub fn install(
    store: &Store,
    places: &Places,
    options: &DockerOptions,
    on_conflict: OnConflict,
) -> Result<Outcome, Failure> {
    let path = &places.daemon_json;
    let old = read(path)?;
    let drop_in = places.units.as_deref().map(systemd::drop_in_path);
    let mut installed = match store.load::<Installed>().map_err(Failure::refused)? {
        Some(installed) if installed.daemon_json == *path => installed,
        Some(other) => {
            let hint = "take that back first with `weaved docker-config --uninstall`";
            return Err(Failure::refused(format!("installed in {} already; {hint}", other.daemon_json.display())));
        }
        None => Installed { daemon_json: path.clone(), had_file: old.is_some(), ..Installed::default() },
    };
    installed.drop_in = drop_in.clone().or(installed.drop_in);
    let old_text = old.as_deref().unwrap_or_default();
    let new = options.merge(old_text, &mut installed, on_conflict).map_err(|error| refused(path, &error))?;
    store.save(&installed).map_err(Failure::refused)?;
    let mut outcome = Outcome::Unchanged;
    if let Some(new) = new {
        back_up(path)?;
        write(path, &new)?;
        outcome = Outcome::Changed;
    }
    if let Some(drop_in) = drop_in
        && read(&drop_in)?.as_deref() != Some(systemd::DROP_IN)
    {
        write(&drop_in, systemd::DROP_IN)?;
        outcome = Outcome::Changed;
    }
    Ok(outcome)
}

/// Takes back what [`install`] did. Nothing installed is nothing to do.
pub fn uninstall(store: &Store) -> Result<Outcome, Failure> {
    let Some(installed) = store.load::<Installed>().map_err(Failure::refused)? else {
        return Ok(Outcome::Unchanged);
    };
    let path = &installed.daemon_json;
    if let Some(text) = read(path)? {
        let backup = read(&backup_path(path))?;
        match installed.unmerge(&text).map_err(|error| refused(path, &error))? {
            // The operator's own bytes, when nothing else has changed since.
            Some(undone) => match backup.filter(|backup| config::same_document(backup, &undone)) {
                Some(original) => {
                    write(path, &original)?;
                    remove(&backup_path(path))?;
                }
                None => write(path, &undone)?,
            },
            None => remove(path)?,
        }
    }
    if let Some(drop_in) = &installed.drop_in
        && read(drop_in)?.as_deref() == Some(systemd::DROP_IN)
    {
        remove(drop_in)?;
        // Left alone when it holds other drop-ins.
        drop(drop_in.parent().map(fs::remove_dir));
    }
    store.remove::<Installed>().map_err(Failure::refused)?;
    Ok(Outcome::Changed)
}

fn backup_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".weaved-backup");
    path.with_file_name(name)
}

fn back_up(path: &Path) -> Result<(), Failure> {
    let backup = backup_path(path);
    match read(path)? {
        Some(text) if !backup.exists() => write(&backup, &text),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::refused(format!("cannot read {}: {error}", path.display()))),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
    parent
        .and_then(|()| file::write_durably(path, text.as_bytes(), 0o644))
        .map_err(|error| Failure::refused(format!("cannot write {}: {error}", path.display())))
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::refused(format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

fn refused(path: &Path, error: &config::MergeError) -> Failure {
    Failure::refused(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        _dir: tempfile::TempDir,
        store: Store,
        places: Places,
    }

    impl Host {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::new(&dir.path().join("state"));
            store.create().unwrap();
            let places =
                Places { daemon_json: dir.path().join("docker/daemon.json"), units: Some(dir.path().join("systemd")) };
            fs::create_dir(dir.path().join("docker")).unwrap();
            Self { _dir: dir, store, places }
        }

        fn install(&self, on_conflict: OnConflict) -> Result<Outcome, Failure> {
            let options = DockerOptions {
                bridge: "weave".into(),
                fixed_cidr: "10.32.3.0/24".parse().unwrap(),
                mtu: 1500,
                dns: None,
            };
            install(&self.store, &self.places, &options, on_conflict)
        }

        fn file(&self) -> Option<String> {
            read(&self.places.daemon_json).unwrap()
        }

        fn entries(&self) -> Vec<String> {
            let dir = fs::read_dir(self.places.daemon_json.parent().unwrap()).unwrap();
            dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    #[test]
    fn an_installation_is_repeatable_and_is_taken_back_byte_for_byte() {
        let host = Host::new();
        let original = "{ \"debug\":true }";
        fs::write(&host.places.daemon_json, original).unwrap();
        assert_eq!(host.install(OnConflict::Refuse), Ok(Outcome::Changed));
        assert_eq!(host.install(OnConflict::Refuse), Ok(Outcome::Unchanged));
        assert!(host.file().unwrap().contains("10.32.3.0/24"));
        let drop_in = systemd::drop_in_path(host.places.units.as_ref().unwrap());
        assert!(drop_in.exists());
        assert_eq!(uninstall(&host.store), Ok(Outcome::Changed));
        assert_eq!(host.file().unwrap(), original);
        assert_eq!(host.entries(), ["daemon.json"]);
        assert!(!drop_in.parent().unwrap().exists());
        assert_eq!(uninstall(&host.store), Ok(Outcome::Unchanged));
    }

    #[test]
    fn a_file_that_was_not_there_is_gone_afterwards() {
        let host = Host::new();
        host.install(OnConflict::Refuse).unwrap();
        uninstall(&host.store).unwrap();
        assert!(host.entries().is_empty());
    }

    #[test]
    fn a_refused_installation_changes_nothing() {
        let host = Host::new();
        let original = "{\"bip\":\"172.17.0.1/16\"}";
        fs::write(&host.places.daemon_json, original).unwrap();
        let error = host.install(OnConflict::Refuse).unwrap_err().to_string();
        assert!(error.contains("daemon.json") && error.contains("bip"), "{error}");
        assert_eq!((host.file().unwrap().as_str(), host.entries().len()), (original, 1));
        assert_eq!(uninstall(&host.store), Ok(Outcome::Unchanged));
    }

    #[test]
    fn the_backup_is_the_operators_first_file_also_after_a_second_installation() {
        let host = Host::new();
        fs::write(&host.places.daemon_json, "{\"debug\": true}").unwrap();
        host.install(OnConflict::Refuse).unwrap();
        fs::write(&host.places.daemon_json, "{\"debug\": false}").unwrap();
        host.install(OnConflict::Refuse).unwrap();
        assert_eq!(read(&backup_path(&host.places.daemon_json)).unwrap().unwrap(), "{\"debug\": true}");
        uninstall(&host.store).unwrap();
        assert!(config::same_document(&host.file().unwrap(), "{\"debug\": false}"));
    }
}
