//! Where everything of one node lives: one state directory, one run directory.
//!
//! Both may be chosen, so that several nodes can live on one machine.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// A Unix socket's path is at most 107 bytes (`sun_path`, unix(7)); this leaves room for our longest name.
const MAX_RUN_DIR_BYTES: usize = 85;

/// The processes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Runs the others.
    Supervisor,
    /// Decides.
    Control,
    /// Moves frames.
    Dataplane,
    /// Answers names.
    Gateway,
}

impl Part {
    /// All of them, in the order in which they are ended.
    pub const STOP_ORDER: [Self; 4] = [Self::Supervisor, Self::Control, Self::Gateway, Self::Dataplane];

    /// The name in pid files, logs and verbs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Control => "control",
            Self::Dataplane => "dataplane",
            Self::Gateway => "gateway",
        }
    }
}

/// The two directories of a node and the names in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What must survive a reboot.
    pub state_dir: PathBuf,
    /// What need not.
    pub run_dir: PathBuf,
}

impl Paths {
    /// Both directories, absolute, so that processes that change their working directory agree.
    pub fn new(state_dir: &Path, run_dir: &Path) -> Result<Self, Failure> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| Failure::usage(format!("path {}: {error}", path.display())))
        };
        let paths = Self { state_dir: absolute(state_dir)?, run_dir: absolute(run_dir)? };
        if paths.run_dir.as_os_str().len() > MAX_RUN_DIR_BYTES {
            return Err(Failure::usage(format!(
                "--run-dir is longer than {MAX_RUN_DIR_BYTES} bytes, too long for a Unix socket; choose a shorter one"
            )));
        }
        Ok(paths)
    }

    /// Where verbs talk to `weaved control`.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// Where `weaved control` talks to `weaved dataplane`.
    pub fn dataplane_socket(&self) -> PathBuf {
        self.run_dir.join("dataplane.sock")
    }

    /// Where `weaved control` and `weaved dns-lookup` talk to `weaved gateway`.
    pub fn gateway_socket(&self) -> PathBuf {
        self.run_dir.join("gateway.sock")
    }

    /// Where a part notes its process id.
    pub fn pid_file(&self, part: Part) -> PathBuf {
        self.run_dir.join(format!("{}.pid", part.name()))
    }

    /// Held by a verb that starts or ends processes, so that two do not do it at once.
    pub fn lock_file(&self) -> PathBuf {
        self.run_dir.join("verb.lock")
    }

    /// Log of the detached processes.
    pub fn log(&self) -> PathBuf {
        self.state_dir.join("weaved.log")
    }

    /// The older half of the log.
    pub fn old_log(&self) -> PathBuf {
        self.state_dir.join("weaved.log.1")
    }

    /// Makes the run directory, readable by its owner only.
    pub fn create_run_dir(&self) -> Result<(), Failure> {
        create_private_dir(&self.run_dir).map_err(|error| {
            Failure::refused(format!(
                "cannot make the run directory {}: {error}; choose another with --run-dir",
                self.run_dir.display()
            ))
        })
    }
}

/// Makes a directory and its parents; only the last is private.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}
