//! How threads are told to end, and how their end is noticed.
//!
//! A [`Flag`] is an eventfd that can be polled beside sockets. [`Watch`] is what a thread carries: when it ends
//! without being told to, by an error or a panic, the main thread hears of it and ends the process with one line, so
//! that the supervisor starts a whole one. A data plane with a thread missing would be worse than none.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use rustix::event::{EventfdFlags, eventfd};

/// Something that happens once or now and then, and can be polled for: it is readable while raised.
#[derive(Debug)]
pub(crate) struct Flag {
    fd: OwnedFd,
    is_raised: AtomicBool,
}

impl Flag {
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, is_raised: AtomicBool::new(false) })
    }

    /// Makes the flag readable for everyone who polls it.
    pub(crate) fn raise(&self) {
        self.is_raised.store(true, Relaxed);
        // The only failure is a counter at its limit, which is as raised as can be.
        let _ = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }

    /// Whether it is up, without a system call: for those who have no time to poll. Who polls never misses it.
    pub(crate) fn is_raised(&self) -> bool {
        self.is_raised.load(Relaxed)
    }

    /// Takes the flag down until it is raised again.
    pub(crate) fn lower(&self) {
        self.is_raised.store(false, Relaxed);
        // The only failure is a flag that is down.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
    }
}

impl AsFd for Flag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Why the process is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As asked.
    Orderly,
    /// A thread could not go on.
    Failed(String),
}

/// Where threads report that the process is to end. The first report counts.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    raised: Arc<Flag>,
    ending: Arc<Mutex<Option<Ending>>>,
}

impl Watch {
    pub(crate) fn new() -> rustix::io::Result<Self> {
        Ok(Self { raised: Arc::new(Flag::new()?), ending: Arc::default() })
    }

    /// Asks for the end of the process.
    pub(crate) fn end(&self, ending: Ending) {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(ending);
        self.raised.raise();
    }

    /// What was reported.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts a named thread whose error or panic ends the process.
    pub(crate) fn spawn(
        &self,
        name: &str,
        run: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let guard = Guard { watch: self.clone(), name: name.to_owned() };
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let guard = guard;
            if let Err(error) = run() {
                guard.watch.end(Ending::Failed(format!("thread {}: {error:#}", guard.name)));
            }
        })
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raised.as_fd()
    }
}

/// Reports when it is dropped by a panic.
struct Guard {
    watch: Watch,
    name: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.watch.end(Ending::Failed(format!("thread {} has panicked", self.name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_raised(flag: impl AsFd) -> bool {
        poll(&mut [PollFd::new(&flag, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn a_flag_stays_up_until_it_is_lowered() {
        let flag = Flag::new().unwrap();
        flag.lower();
        assert!(!is_raised(&flag));
        flag.raise();
        flag.raise();
        assert!(is_raised(&flag) && is_raised(&flag));
        flag.lower();
        assert!(!is_raised(&flag));
    }

    #[test]
    fn a_panic_and_an_error_in_a_thread_are_noticed_and_an_orderly_end_is_not() {
        let watch = Watch::new().unwrap();
        watch.spawn("a", || Ok(())).unwrap().join().unwrap();
        assert_eq!(watch.ending(), None);
        assert!(!is_raised(&watch));
        watch.spawn("b", || bail!("no")).unwrap().join().unwrap();
        assert_eq!(watch.ending(), Some(Ending::Failed("thread b: no".into())));
        assert!(is_raised(&watch));
        let watch = Watch::new().unwrap();
        watch.spawn("c", || panic!("a panic that this test wants")).unwrap().join().unwrap_err();
        assert_eq!(watch.ending(), Some(Ending::Failed("thread c has panicked".into())));
    }
}
