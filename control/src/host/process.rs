//! Which of our processes live: pid files that survive the reuse of process ids, and handles that cannot miss.
//!
//! A part notes its process id together with its start time (field 22 of `/proc/PID/stat`, proc(5)). A process is the
//! noted one only if both fit, and it is signalled through a pidfd opened before that check, so no signal ever reaches
//! a stranger. The part holds a lock on its pid file while it lives: there are never two of one kind.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
};

use crate::{
    failure::Failure,
    paths::{Part, Paths},
};

/// How the names of files begin that note processes that have left their office. Only gateways do.
const RETIRED: &str = "gateway-retired-";

/// A process id and when that process began, in clock ticks since the machine did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Noted {
    pid: Pid,
    start_ticks: u64,
}

/// A living process of ours.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    handle: OwnedFd,
}

/// The pid file of this process, locked while it lives.
#[derive(Debug)]
pub struct PidFile {
    _locked: File,
}

impl PidFile {
    /// Notes this process as the one that runs `part`; refused while another one does.
    pub fn claim(paths: &Paths, part: Part) -> Result<Self, Failure> {
        let path = paths.pid_file(part);
        let refused = |error: io::Error| Failure::refused(format!("cannot write {}: {error}", path.display()));
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(refused)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::refused(format!("the {} of this node is already running", part.name())));
            }
            Err(TryLockError::Error(error)) => return Err(refused(error)),
        }
        let own = Noted::current().map_err(refused)?;
        file.set_len(0).map_err(refused)?;
        writeln!(file, "{own}").map_err(refused)?;
        Ok(Self { _locked: file })
    }
}

/// Notes a process that has left its office to a successor and goes on for a while. Gone with it.
#[derive(Debug)]
pub struct RetiredFile {
    path: PathBuf,
}

impl RetiredFile {
    /// For this process.
    pub fn write(paths: &Paths) -> Result<Self, Failure> {
        let own = rustix::process::getpid().as_raw_nonzero();
        let path = paths.run_dir.join(format!("{RETIRED}{own}.pid"));
        let written = Noted::current().and_then(|own| fs::write(&path, format!("{own}\n")));
        written.map_err(|error| Failure::refused(format!("cannot write {}: {error}", path.display())))?;
        Ok(Self { path })
    }
}

impl Drop for RetiredFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "not removed");
        }
    }
}

impl fmt::Display for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid.as_raw_nonzero(), self.start_ticks)
    }
}

impl Noted {
    fn current() -> io::Result<Self> {
        let pid = rustix::process::getpid();
        Ok(Self { pid, start_ticks: start_ticks(pid)? })
    }

    fn read(path: &Path) -> Option<Self> {
        let mut text = String::new();
        File::open(path).ok()?.take(64).read_to_string(&mut text).ok()?;
        let (pid, ticks) = text.trim_end().split_once(' ')?;
        Some(Self { pid: Pid::from_raw(pid.parse().ok()?)?, start_ticks: ticks.parse().ok()? })
    }
}

impl Process {
    /// The living process that runs `part`, if there is one.
    pub fn find(paths: &Paths, part: Part) -> Option<Self> {
        Self::noted(&paths.pid_file(part))
    }

    fn noted(file: &Path) -> Option<Self> {
        let noted = Noted::read(file)?;
        let process = Self::open(noted.pid)?;
        // Checked after the handle was opened: from here on it cannot come to mean another process.
        let is_same = start_ticks(noted.pid).ok()? == noted.start_ticks;
        (is_same && !process.has_ended()).then_some(process)
    }

    /// Living processes that have left their office. Files of others are removed.
    pub fn retired(paths: &Paths) -> Vec<Self> {
        let entries = fs::read_dir(&paths.run_dir).into_iter().flatten().flatten();
        let files = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(RETIRED.as_bytes()));
        let living = files.filter_map(|entry| {
            let process = Self::noted(&entry.path());
            if process.is_none() {
                drop(fs::remove_file(entry.path()));
            }
            process
        });
        living.collect()
    }

    /// A handle on a child that was not waited for: its process id cannot have been reused.
    pub fn of_child(child: &Child) -> Option<Self> {
        Self::open(Pid::from_child(child))
    }

    fn open(pid: Pid) -> Option<Self> {
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(Self { pid, handle })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// True when it runs the very executable that this process runs.
    pub fn runs_our_executable(&self) -> bool {
        let of = |pid: &str| fs::metadata(format!("/proc/{pid}/exe")).map(|exe| (exe.dev(), exe.ino()));
        match (of(&self.pid.as_raw_nonzero().to_string()), of("self")) {
            (Ok(theirs), Ok(ours)) => theirs == ours,
            _ => false,
        }
    }

    /// The file that it runs, by the name that a newer one has now where it was replaced.
    pub fn executable(&self) -> io::Result<PathBuf> {
        executable(&self.pid.as_raw_nonzero().to_string())
    }

    /// Takes it out of the process table, if it is a child of this process that has ended.
    pub fn reap(&self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        // One that is no child of ours is its parent's to take out.
        let _ = rustix::process::waitid(WaitId::PidFd(self.handle.as_fd()), options);
    }

    /// Sends a signal; a process that has ended does not mind.
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = rustix::process::pidfd_send_signal(&self.handle, signal) {
            tracing::debug!(pid = %self.pid.as_raw_nonzero(), %error, "signal not sent");
        }
    }

    /// True when it has ended, waited for or not.
    pub fn has_ended(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Waits for its end, at most this long; true when it has ended.
    pub fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
            // pidfd_open(2): a pidfd is readable when its process has terminated.
            let mut watched = [PollFd::new(&self.handle, PollFlags::IN)];
            match rustix::event::poll(&mut watched, Some(&timeout)) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Asks it to end, and kills it when it has not within the deadline.
    pub fn end(&self, deadline: Duration) {
        self.signal(Signal::TERM);
        if !self.wait(deadline) {
            self.signal(Signal::KILL);
            self.wait(Duration::from_secs(1));
        }
    }
}

/// The file that this process runs, by the name that a newer one has now where it was replaced.
pub fn own_executable() -> io::Result<PathBuf> {
    executable("self")
}

fn executable(process: &str) -> io::Result<PathBuf> {
    let path = fs::read_link(format!("/proc/{process}/exe"))?;
    // What proc(5) puts behind the name of a file that is gone.
    let bytes = path.as_os_str().as_bytes();
    Ok(bytes.strip_suffix(b" (deleted)").map_or(path.clone(), |name| OsStr::from_bytes(name).into()))
}

/// Field 22 of `/proc/PID/stat`. The second field, a name in parentheses, may itself contain anything.
fn start_ticks(pid: Pid) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest);
    let ticks = after_name.and_then(|rest| rest.split(' ').nth(19)).and_then(|field| field.parse().ok());
    ticks.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in /proc/PID/stat"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn paths() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(&dir.path().join("state"), dir.path()).unwrap();
        (dir, paths)
    }

    #[test]
    fn a_claimed_part_is_found_and_not_claimed_twice() {
        let (_dir, paths) = paths();
        assert!(Process::find(&paths, Part::Control).is_none());
        let _claimed = PidFile::claim(&paths, Part::Control).unwrap();
        assert_eq!(Process::find(&paths, Part::Control).unwrap().pid(), rustix::process::getpid());
        assert!(PidFile::claim(&paths, Part::Control).unwrap_err().to_string().contains("already running"));
        assert!(PidFile::claim(&paths, Part::Dataplane).is_ok());
    }

    #[test]
    fn a_reused_process_id_is_a_stranger() {
        let (_dir, paths) = paths();
        let own = Noted::current().unwrap();
        let other_start = format!("{} {}\n", own.pid.as_raw_nonzero(), own.start_ticks + 1);
        fs::write(paths.pid_file(Part::Control), other_start).unwrap();
        assert!(Process::find(&paths, Part::Control).is_none());
        fs::write(paths.pid_file(Part::Control), "not a pid file").unwrap();
        assert!(Process::find(&paths, Part::Control).is_none());
    }

    #[test]
    fn a_process_that_has_left_its_office_is_found_until_it_ends_and_others_are_forgotten() {
        let (_dir, paths) = paths();
        let stale = paths.run_dir.join(format!("{RETIRED}1.pid"));
        fs::write(&stale, "1 1\n").unwrap();
        let note = RetiredFile::write(&paths).unwrap();
        let found: Vec<Pid> = Process::retired(&paths).iter().map(Process::pid).collect();
        assert_eq!(found, [rustix::process::getpid()]);
        assert!(!stale.exists());
        drop(note);
        assert!(Process::retired(&paths).is_empty());
    }

    #[test]
    fn an_executable_is_named_as_the_one_that_has_replaced_it() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("sleep");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program).arg("1000").spawn().unwrap();
        let process = Process::of_child(&child).unwrap();
        fs::remove_file(&program).unwrap();
        assert_eq!(process.executable().unwrap(), program);
        process.end(Duration::from_secs(5));
        child.wait().unwrap();
        process.reap();
    }

    #[test]
    fn a_process_that_ignores_the_request_is_killed() {
        let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        let process = Process::of_child(&child).unwrap();
        assert!(!process.has_ended());
        process.end(Duration::from_millis(50));
        assert!(process.has_ended());
        assert!(!child.wait().unwrap().success());
    }
}
