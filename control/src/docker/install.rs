//! Writes Docker's configuration, and takes it back.
//!
//! The operator's file is copied to `daemon.json.weaved-backup` before the first change; the copy is never
//! overwritten. What was done is remembered in the state directory before it is done, so that `--uninstall` and
//! `reset` can undo it after any interruption.
//!
//! INVARIANT: a file that was there keeps its owner and mode, its copy has them too, and a symbolic link stays one.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

use super::{
    config::{self, DockerOptions, Installed, OnConflict},
    systemd,
};
use crate::{
    failure::Failure,
    host::replace::{Candidate, remove},
    state::Store,
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

/// What taking an installation back came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// Docker must be restarted to hear of it.
    Changed,
    /// Nothing was installed.
    Nothing,
    /// There is no file here any more to take anything out of. The rest is taken back.
    Missing(PathBuf),
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
    let path = &real_path(&places.daemon_json)?;
    let old = read(path)?;
    let units = places.units.as_deref().map(absolute).transpose()?;
    let drop_in = units.as_deref().map(systemd::drop_in_path);
    let mut installed = match store.load::<Installed>().map_err(Failure::refused)? {
        Some(installed) if real_path(&installed.daemon_json)? == *path => installed,
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
pub fn uninstall(store: &Store) -> Result<Undone, Failure> {
    let Some(installed) = store.load::<Installed>().map_err(Failure::refused)? else {
        return Ok(Undone::Nothing);
    };
    let path = &real_path(&installed.daemon_json)?;
    let mut undone = Undone::Missing(path.clone());
    if let Some(text) = read(path)? {
        undone = Undone::Changed;
        let backup = read(&backup_path(path))?;
        match installed.unmerge(&text).map_err(|error| refused(path, &error))? {
            // The operator's own bytes, when nothing else has changed since.
            Some(text) => match backup.filter(|backup| config::same_document(backup, &text)) {
                Some(original) => {
                    write(path, &original)?;
                    remove(&backup_path(path))?;
                }
                None => write(path, &text)?,
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
    Ok(undone)
}

/// Counted from the root, because `--uninstall` may be typed elsewhere.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::refused(format!("{}: {error}", path.display())))
}

/// The file itself, where the path leads over symbolic links; it need not exist.
fn real_path(path: &Path) -> Result<PathBuf, Failure> {
    let path = absolute(path)?;
    match fs::canonicalize(&path) {
        Ok(real) => Ok(real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.is_symlink() {
                let hint = "make that file, or remove the link";
                return Err(Failure::refused(format!(
                    "{} is a link to a file that is not there; {hint}",
                    path.display()
                )));
            }
            Ok(path)
        }
        Err(error) => Err(Failure::refused(format!("cannot read {}: {error}", path.display()))),
    }
}

fn backup_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".weaved-backup");
    path.with_file_name(name)
}

fn back_up(path: &Path) -> Result<(), Failure> {
    let backup = backup_path(path);
    match read(path)? {
        Some(text) if !backup.exists() => copy(path, &backup, &text).map_err(|error| cannot_write(&backup, &error)),
        _ => Ok(()),
    }
}

/// A file beside another one, with this text and the owner and mode of that one.
fn copy(path: &Path, to: &Path, text: &str) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    let candidate = Candidate::write(to, text.as_bytes(), Some(metadata.mode() & 0o777))?;
    chown(candidate.path(), Some(metadata.uid()), Some(metadata.gid()))?;
    candidate.commit()
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
    let written = parent.and_then(|()| Candidate::write(path, text.as_bytes(), None)).and_then(Candidate::commit);
    written.map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::refused(format!("cannot write {}: {error}", path.display()))
}

fn refused(path: &Path, error: &config::MergeError) -> Failure {
    Failure::refused(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

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
        assert_eq!(uninstall(&host.store), Ok(Undone::Changed));
        assert_eq!(host.file().unwrap(), original);
        assert_eq!(host.entries(), ["daemon.json"]);
        assert!(!drop_in.parent().unwrap().exists());
        assert_eq!(uninstall(&host.store), Ok(Undone::Nothing));
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
        assert_eq!(uninstall(&host.store), Ok(Undone::Nothing));
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
    #[test]
    fn a_private_file_and_its_copy_stay_private_and_keep_their_owner() {
        let host = Host::new();
        let path = &host.places.daemon_json;
        fs::write(path, "{\"debug\": true}").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            chown(path, Some(65534), Some(65533)).unwrap();
        }
        let rights = |path: &Path| {
            let metadata = fs::metadata(path).unwrap();
            (metadata.mode() & 0o777, metadata.uid(), metadata.gid())
        };
        let before = rights(path);
        assert!(!is_root || before == (0o600, 65534, 65533));
        host.install(OnConflict::Refuse).unwrap();
        assert_eq!((rights(path), rights(&backup_path(path))), (before, before));
        uninstall(&host.store).unwrap();
        assert_eq!(rights(path), before);
        fs::remove_file(path).unwrap();
        host.install(OnConflict::Refuse).unwrap();
        assert_eq!(rights(path).0, 0o644, "a new file");
    }

    #[test]
    fn a_link_stays_a_link_to_the_file_that_is_changed() {
        let host = Host::new();
        let (link, file) = (&host.places.daemon_json, host.places.daemon_json.with_file_name("managed.json"));
        symlink("managed.json", link).unwrap();
        let refusal = host.install(OnConflict::Refuse).unwrap_err().to_string();
        assert!(refusal.contains("is a link to a file that is not there"), "{refusal}");
        fs::write(&file, "{}").unwrap();
        host.install(OnConflict::Refuse).unwrap();
        assert!(link.is_symlink() && fs::read_to_string(&file).unwrap().contains("10.32.3.0/24"));
        assert_eq!(host.install(OnConflict::Refuse), Ok(Outcome::Unchanged));
        assert_eq!(uninstall(&host.store), Ok(Undone::Changed));
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "{}");
    }

    #[test]
    fn paths_are_remembered_from_the_root_whatever_the_directory() {
        let mut host = Host::new();
        let below_here = |path: &Path| {
            let up = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect::<PathBuf>();
            up.join(path.strip_prefix("/").unwrap())
        };
        let (file, units) = (host.places.daemon_json.clone(), host.places.units.clone().unwrap());
        host.places = Places { daemon_json: below_here(&file), units: Some(below_here(&units)) };
        host.install(OnConflict::Refuse).unwrap();
        let installed = host.store.load::<Installed>().unwrap().unwrap();
        assert!(installed.daemon_json.is_absolute() && installed.drop_in.as_ref().unwrap().is_absolute());
        assert_eq!(host.install(OnConflict::Refuse), Ok(Outcome::Unchanged));
        assert_eq!(uninstall(&host.store), Ok(Undone::Changed));
        assert!(!file.exists() && !systemd::drop_in_path(&units).exists());
    }

    #[test]
    fn a_file_that_is_gone_is_told_and_the_rest_taken_back() {
        let host = Host::new();
        host.install(OnConflict::Refuse).unwrap();
        fs::remove_file(&host.places.daemon_json).unwrap();
        assert_eq!(uninstall(&host.store), Ok(Undone::Missing(host.places.daemon_json.clone())));
        assert!(!systemd::drop_in_path(host.places.units.as_ref().unwrap()).exists());
        assert_eq!(uninstall(&host.store), Ok(Undone::Nothing));
    }
}
