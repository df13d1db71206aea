//! What a demo leaves behind, and its removal: processes, namespaces, control groups, files.
//!
//! Everything of one demo has a name that begins with `weaved-demo-PID`, the process id of its guard. The kernel is
//! asked what there is and no list is kept, so this also finds what was made a moment before the player was killed.
//!
//! INVARIANT: a process is killed only if its environment names the demo's directory or if it is in the demo's control
//! group, which has its containers and nothing else.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

use super::STAGE_VARIABLE;
use crate::failure::Failure;

/// Begins all names.
const PREFIX: &str = "weaved-demo-";
const NAMESPACES: &str = "/run/netns";
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
/// How long killed processes and their control groups may take to disappear.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// All that belongs to one demo.
pub(super) struct Remains {
    name: String,
    directory: PathBuf,
}

impl Remains {
    /// What this process will leave, when it is the guard of a demo.
    pub(super) fn of_this_demo() -> Self {
        Self::named(format!("{PREFIX}{}", std::process::id()))
    }

    /// What was left by demos whose guard was killed.
    pub(super) fn of_killed_demos() -> Vec<Self> {
        let names = names_in(Path::new(NAMESPACES)).into_iter().chain(names_in(&std::env::temp_dir()));
        let owners: BTreeSet<u32> = names.filter_map(|name| owner_in(&name)).collect();
        let dead = owners.into_iter().filter(|owner| !Path::new("/proc").join(owner.to_string()).exists());
        dead.map(|owner| Self::named(format!("{PREFIX}{owner}"))).collect()
    }

    fn named(name: String) -> Self {
        let directory = std::env::temp_dir().join(&name);
        Self { name, directory }
    }

    /// The directory of the demo.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Removes everything. What is not there is not missed.
    pub(super) fn take_away(&self) -> Result<(), Failure> {
        until(|| self.kill_processes()).map_err(|left| left.refuse("some processes of the demo do not end"))?;
        for name in names_in(Path::new(NAMESPACES)).iter().filter(|name| self.owns(name)) {
            let path = Path::new(NAMESPACES).join(name);
            // One that is unmounted already has a file to be removed.
            let _ = unmount(&path, UnmountFlags::DETACH);
            let _ = fs::remove_file(&path);
        }
        // The kernel lets go of a group a moment after its last process.
        until(|| self.remove_control_groups()).map_err(|left| left.refuse("some control groups cannot be removed"))?;
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::refused(format!("cannot remove {}: {error}", self.directory.display())))
            }
            _ => Ok(()),
        }
    }

    fn owns(&self, name: &str) -> bool {
        name.strip_prefix(&self.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Kills all there are, and tells them, and those of which it will be known in a moment.
    fn kill_processes(&self) -> Vec<String> {
        let pids =
            names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok().and_then(Pid::from_raw));
        let mut left = Vec::new();
        for pid in pids.filter(|pid| is_alive(*pid)) {
            let owner = self.owner_of_process(pid);
            if owner == Owner::Demo {
                // It may have ended by itself meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
            if owner != Owner::Others {
                left.push(format!("process {}", pid.as_raw_nonzero()));
            }
        }
        left
    }

    fn owner_of_process(&self, pid: Pid) -> Owner {
        // Asked first: it may come to its environment between the two questions.
        let in_the_making = is_becoming_a_program(pid);
        match self.owns_process(pid) {
            true => Owner::Demo,
            false if in_the_making => Owner::NotKnownYet,
            false => Owner::Others,
        }
    }

    fn owns_process(&self, pid: Pid) -> bool {
        let variable = format!("{STAGE_VARIABLE}={}", self.directory.display());
        let group = format!("/{}/", self.name);
        read_of(pid, "environ").split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
            || String::from_utf8_lossy(&read_of(pid, "cgroup")).contains(&group)
    }

    /// Removes all that are empty, and tells the others. There is one tree, or one for each controller.
    fn remove_control_groups(&self) -> Vec<String> {
        let root = Path::new(CONTROL_GROUPS);
        let controllers = names_in(root).into_iter().map(|name| root.join(name));
        let groups = controllers.chain([root.to_owned()]).map(|tree| tree.join(&self.name));
        groups.filter(|group| group.exists() && !remove_group(group)).map(|group| group.display().to_string()).collect()
    }
}

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Demo,
    Others,
    /// It will be known in a moment.
    NotKnownYet,
}

/// What could not be removed in time.
struct Left(Vec<String>);

impl Left {
    fn refuse(&self, problem: &str) -> Failure {
        Failure::refused(format!("{problem}: {}", self.0.join(", ")))
    }
}

/// Repeats what tells the things that are left, until there are none.
fn until(mut removal: impl FnMut() -> Vec<String>) -> Result<(), Left> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match removal() {
            left if left.is_empty() => return Ok(()),
            left if Instant::now() >= deadline => return Err(Left(left)),
            _ => thread::sleep(POLL),
        }
    }
}

/// A control group is removed as an empty directory is, although there are files in it.
fn remove_group(group: &Path) -> bool {
    let children = names_in(group).into_iter().map(|name| group.join(name)).filter(|path| path.is_dir());
    for child in children {
        remove_group(&child);
    }
    fs::remove_dir(group).is_ok()
}

/// Process id in a name like `weaved-demo-123-hosta`.
fn owner_in(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Whether it is in the midst of execve(2), where the kernel still lays out the new program: until then it has neither
/// arguments nor an environment that would tell whose it is. A kernel thread has no program at all.
fn is_becoming_a_program(pid: Pid) -> bool {
    let has_program = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).is_ok();
    has_program && read_of(pid, "cmdline").is_empty() && read_of(pid, "environ").is_empty()
}

fn read_of(pid: Pid, file: &str) -> Vec<u8> {
    fs::read(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap_or_default()
}

/// A zombie is dead and waits for its parent only.
fn is_alive(pid: Pid) -> bool {
    let stat = read_of(pid, "stat");
    let stat = String::from_utf8_lossy(&stat);
    // The program's name comes in parentheses and may hold anything (proc(5)).
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn names_tell_the_owner_and_none_is_taken_for_anothers() {
        assert_eq!(owner_in("weaved-demo-123-hosta"), Some(123));
        assert_eq!(owner_in("weaved-demo-123"), Some(123));
        assert_eq!(owner_in("weaved-demo-"), None);
        assert_eq!(owner_in("weaved-123"), None);
        let remains = Remains::named(format!("{PREFIX}12"));
        assert!(remains.owns("weaved-demo-12") && remains.owns("weaved-demo-12-web"));
        assert!(!remains.owns("weaved-demo-123-web"));
    }

    #[test]
    fn a_process_is_known_by_its_environment_and_killed_and_others_live() {
        // No process has this id: the kernel's largest is 2^22.
        let remains = Remains::named(format!("{PREFIX}4999999"));
        let mut ours = sleeper(remains.directory());
        let mut other = sleeper(&remains.directory().join("other"));
        fs::create_dir_all(remains.directory().join("hostA")).unwrap();
        remains.take_away().unwrap();
        assert!(!ours.wait().unwrap().success());
        assert!(!remains.directory().exists());
        assert_eq!(other.try_wait().unwrap(), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_process_that_the_kernel_still_lays_out_is_not_overlooked() {
        // Who starts a program goes on while it has no environment yet.
        let remains = Remains::named(format!("{PREFIX}4999998"));
        for _ in 0..100 {
            let mut ours = sleeper(remains.directory());
            let pid = Pid::from_child(&ours);
            let owner = remains.owner_of_process(pid);
            ours.kill().unwrap();
            ours.wait().unwrap();
            assert_ne!(owner, Owner::Others);
        }
    }

    fn sleeper(directory: &Path) -> Child {
        Command::new("sleep").arg("1000").env(STAGE_VARIABLE, directory).stdin(Stdio::null()).spawn().unwrap()
    }
}
