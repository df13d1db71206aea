//! What tests of this package share.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    process::{Child, Command},
    sync::{
        PoisonError, RwLock,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{netlink::Netlink, sys::namespace};

/// Runs a test in a thread with a network namespace of its own, which ends with it.
///
/// # Panics
///
/// Without the right to make namespaces: such a test fails, it is never skipped.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        namespace::enter_new().expect("tests of the data plane need root (CAP_SYS_ADMIN) to make network namespaces");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// As [`in_namespace`], with the loopback device up.
pub(crate) fn in_namespace_with_loopback(test: impl FnOnce() + Send + 'static) {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let loopback = netlink.link("lo").unwrap().expect("each namespace has a loopback device");
        netlink.set_up(loopback.index).unwrap();
        test();
    });
}

/// Held by whoever makes a child: until that has its program it has a copy of every descriptor of this process.
static MAKING_CHILDREN: RwLock<()> = RwLock::new(());

/// Starts a process. All that tests of this package start must be started here.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let _alone = MAKING_CHILDREN.write().unwrap_or_else(PoisonError::into_inner);
    let child = command.spawn()?;
    // Who makes a child goes on while the kernel still lays out its program, which has no arguments until then. Descriptors are closed
    // before.
    while fs::read(format!("/proc/{}/cmdline", child.id()))?.is_empty() && !has_ended(&child) {
        thread::yield_now();
    }
    Ok(child)
}

fn has_ended(child: &Child) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    stat.contains(") Z ")
}

/// Does what closes descriptors that are to be really closed afterwards: no child that another test is making has them.
pub(crate) fn close<T>(closing: impl FnOnce() -> T) -> T {
    let _no_children = MAKING_CHILDREN.read().unwrap_or_else(PoisonError::into_inner);
    closing()
}

/// Waits until there is something to read.
pub(crate) fn await_readable(fd: impl AsFd) {
    let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)), Ok(1), "nothing has arrived");
}

/// A network namespace with a thread in it that does what it is asked.
pub(crate) struct Namespace {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Namespace {
    /// A new one, with loopback up.
    pub(crate) fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = thread::spawn(move || in_namespace_with_loopback(move || queue.into_iter().for_each(|job| job())));
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    /// Runs `work` in the namespace and waits for what it returns.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, answer) = mpsc::channel();
        self.start(move || sender.send(work()).unwrap());
        answer.recv().expect("work in the namespace has panicked")
    }

    /// Starts `work` in a thread of its own in the namespace.
    pub(crate) fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        self.run(|| thread::spawn(work))
    }

    fn start(&self, job: impl FnOnce() + Send + 'static) {
        self.jobs.as_ref().expect("there until dropped").send(Box::new(job)).expect("the namespace has ended");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Connects two namespaces by a cable and gives its ends these addresses.
pub(crate) fn connect(a: (&Namespace, &str), b: (&Namespace, &str)) {
    let end = b.0.run(|| File::open("/proc/thread-self/ns/net").unwrap());
    a.0.run(move || Netlink::open().unwrap().create_cable("eth0", &end).unwrap());
    for (namespace, address) in [a, b] {
        let address = address.parse().unwrap();
        namespace.run(move || {
            let mut netlink = Netlink::open().unwrap();
            let index = netlink.link("eth0").unwrap().unwrap().index;
            netlink.set_up(index).unwrap();
            netlink.add_address(index, address).unwrap();
        });
    }
}
