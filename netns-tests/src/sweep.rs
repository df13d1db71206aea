//! Removes everything that belongs to a lab: processes, mounts, namespaces, control groups, files.
//!
//! One mechanism for the end of a lab and for the remains of a run that was killed. It asks the kernel what there is
//! and keeps no list, so it also finds what a test or the program under test has started by itself.
//!
//! INVARIANT: a process is killed only if its network namespace is the lab's, if its arguments or environment name
//! the lab's directory, or if it descends from such a one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// All labs' namespaces and directories begin with this and the process id of their owner.
pub(crate) const PREFIX: &str = "wv";
/// How long killed processes may take to disappear.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Everything whose name begins with the lab's prefix, or with that of all labs of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Belongings {
    /// Names under `/run/netns`.
    namespaces: Vec<String>,
    /// Directories under the directory for temporary files.
    dirs: Vec<PathBuf>,
}

/// The common beginning of the names of what a lab of one process owns.
pub(crate) fn prefix_of(pid: u32, place: char) -> String {
    format!("{}{place}-", prefix_of_process(pid))
}

fn prefix_of_process(pid: u32) -> String {
    format!("{PREFIX}{pid}-")
}

/// Removes what runs left whose process has ended.
pub(crate) fn leftovers() {
    let names = names_in(Path::new("/run/netns")).into_iter().chain(names_in(&std::env::temp_dir()));
    let owners: BTreeSet<u32> = names.filter_map(|name| owner_of(&name)).collect();
    for pid in owners.into_iter().filter(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
        everything_of(&prefix_of_process(pid));
    }
}

/// Removes all whose names begin so.
pub(crate) fn everything_of(prefix: &str) {
    let belongings = Belongings::of(prefix);
    belongings.kill_processes();
    let containers = belongings.container_ids();
    belongings.unmount();
    for name in &belongings.namespaces {
        let path = Path::new("/run/netns").join(name);
        // Already unmounted is as good; the file is what is left to remove.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&path);
    }
    remove_control_groups(&containers);
    for dir in &belongings.dirs {
        if let Err(error) = fs::remove_dir_all(dir) {
            eprintln!("lab: cannot remove {}: {error}", dir.display());
        }
    }
}

impl Belongings {
    pub(crate) fn of(prefix: &str) -> Self {
        let with_prefix = |dir: &Path| names_in(dir).into_iter().filter(|name| name.starts_with(prefix)).collect();
        let in_temp: Vec<String> = with_prefix(&std::env::temp_dir());
        Self {
            namespaces: with_prefix(Path::new("/run/netns")),
            dirs: in_temp.iter().map(|name| std::env::temp_dir().join(name)).collect(),
        }
    }

    /// Kills until nobody is left, because processes may start others meanwhile.
    fn kill_processes(&self) {
        let end = Instant::now() + KILL_DEADLINE;
        loop {
            let pids = self.processes();
            if pids.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "lab: processes survive being killed: {pids:?}");
            for pid in pids {
                // It may have ended by itself meanwhile.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Live processes that belong to the lab, with their descendants.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let inodes: BTreeSet<u64> = (self.namespaces.iter())
            .filter_map(|name| fs::metadata(Path::new("/run/netns").join(name)).ok())
            .map(|metadata| metadata.ino())
            .collect();
        let own = std::process::id().cast_signed();
        let all: BTreeMap<i32, i32> = live_processes().into_iter().filter(|(pid, _)| *pid != own).collect();
        let mut ours: BTreeSet<i32> =
            all.keys().copied().filter(|pid| is_inside(*pid, &inodes) || self.is_named_by(*pid)).collect();
        loop {
            let children: Vec<i32> = (all.iter())
                .filter(|(pid, parent)| ours.contains(parent) && !ours.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            if children.is_empty() {
                return ours.into_iter().collect();
            }
            ours.extend(children);
        }
    }

    fn is_named_by(&self, pid: i32) -> bool {
        let read = |file| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let (arguments, environment) = (read("cmdline"), read("environ"));
        let names = |dir: &PathBuf| contains(&arguments, dir) || contains(&environment, dir);
        self.dirs.iter().any(names)
    }

    /// Ids of the containers of all dockerds of the lab: dockerd keeps a directory for each.
    fn container_ids(&self) -> Vec<String> {
        let hosts = self.dirs.iter().flat_map(|dir| names_in(dir).into_iter().map(|name| dir.join(name)));
        hosts.flat_map(|host| names_in(&host.join("docker/data/containers"))).collect()
    }

    fn unmount(&self) {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split_whitespace().nth(1)).map(PathBuf::from);
        let mut ours: Vec<PathBuf> =
            points.filter(|point| self.dirs.iter().any(|dir| point.starts_with(dir))).collect();
        // The deepest first.
        ours.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
        for point in ours {
            if let Err(error) = umount2(&point, MntFlags::MNT_DETACH) {
                eprintln!("lab: cannot unmount {}: {error}", point.display());
            }
        }
    }
}

fn is_inside(pid: i32, namespaces: &BTreeSet<u64>) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|metadata| namespaces.contains(&metadata.ino()))
}

/// A killed dockerd cannot remove the control groups of its containers.
fn remove_control_groups(containers: &[String]) {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = names_in(root).into_iter().map(|name| root.join(name)).chain([root.to_owned()]);
    for controller in controllers {
        for id in containers {
            // Most are gone already, and not every directory here is a controller.
            let _ = fs::remove_dir(controller.join("docker").join(id));
        }
    }
}

/// Process id in a name like `wv123-a-mtu-host`.
fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

fn contains(haystack: &[u8], path: &Path) -> bool {
    let needle = path.as_os_str().as_encoded_bytes();
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Process ids and those of their parents; without zombies, which are dead and wait for their parent only.
fn live_processes() -> Vec<(i32, i32)> {
    let pids = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program comes in parentheses and may hold anything (proc(5)).
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?);
        (state != "Z").then_some((pid, parent.parse().ok()?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read_from_names() {
        assert_eq!(owner_of("wv123-a-mtu-host"), Some(123));
        assert_eq!(owner_of("wv-mtu"), None);
        assert_eq!(owner_of("weave"), None);
    }

    #[test]
    fn a_process_that_names_no_directory_of_ours_is_not_ours() {
        let belongings = Belongings { namespaces: vec![], dirs: vec![PathBuf::from("/tmp/wv1-none")] };
        assert_eq!(belongings.processes(), Vec::<i32>::new());
    }
}
