//! A network namespace with a name, and work inside of one.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::tool;
use crate::failure::Failure;

/// A network namespace.
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it for the demo of this name.
    pub(super) fn create(demo: &str, suffix: &str) -> Result<Self, Failure> {
        let namespace = Self { name: format!("{demo}-{suffix}") };
        tool::run("ip", &["netns", "add", &namespace.name])?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` has it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A file that stands for it.
    pub(super) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `ip` inside.
    pub(super) fn ip(&self, arguments: &[&str]) -> Result<(), Failure> {
        tool::run("ip", &[&["-n", self.name.as_str()], arguments].concat()).map(drop)
    }
}

/// Does `work` on a thread in the network namespace that `path` stands for; processes that it starts are in it too.
pub(super) fn enter<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    let entered = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = File::open(path)?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok::<T, io::Error>(work())
        });
        thread.join()
    });
    match entered {
        Ok(result) => result.map_err(|error| Failure::refused(format!("cannot enter {}: {error}", path.display()))),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
