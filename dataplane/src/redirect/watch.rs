//! A thread that hears of changes to the bridge and to the firewall, and wakes the router thread.
//!
//! It does not say what has changed: the router looks at everything again. So a notice that is lost, or many that
//! come at once, do no harm. Between two looks there is at most one notice in the router's queue.
//!
//! INVARIANT: the thread has no rights; its sockets were opened before it started.
//! INVARIANT: it never waits for the router, which waits for it when it is to end.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    thread::JoinHandle,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, recv},
};

use super::{attributes, firewall};
use crate::{
    inputs::{Input, InputSender, RouterGone},
    netlink, privileges,
    shutdown::{Flag, Watch},
};

/// `RTMGRP_LINK`, `RTMGRP_NEIGH`, `RTMGRP_TC`: devices, what bridges learn, queueing disciplines.
const ROUTE_GROUPS: u32 = netlink::LINK_NOTICES | 0x4 | 0x8;
/// `NFNLGRP_NFTABLES` as a bit.
const RULES_GROUP: u32 = 1 << 6;
/// Pause before a notice is offered again to a router whose queue was full.
const OFFER_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// `RTM_NEWNEIGH`, `RTM_DELNEIGH`
const NEIGHBOUR_KINDS: [u16; 2] = [28, 29];
/// `AF_BRIDGE`
const BRIDGE_FAMILY: u8 = 7;

/// The running thread. It ends when this is dropped.
pub(super) struct Watcher {
    is_noticed: Arc<AtomicBool>,
    stop: Arc<Flag>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts to listen.
    pub(super) fn start(inputs: InputSender, watch: &Watch) -> io::Result<Self> {
        let mut sockets = vec![netlink::notices(ROUTE_GROUPS)?];
        // Without nftables there is nothing to hear of.
        sockets.extend(firewall::netlink_socket(RULES_GROUP).ok());
        let (is_noticed, stop) = (Arc::<AtomicBool>::default(), Arc::new(Flag::new()?));
        let thread = watch.spawn("bridge", {
            let (is_noticed, stop) = (is_noticed.clone(), stop.clone());
            move || {
                privileges::drop_all()?;
                Ok(listen(&sockets, &stop, &is_noticed, &inputs)?)
            }
        })?;
        Ok(Self { is_noticed, stop, thread: Some(thread) })
    }

    /// What is noticed from here on is worth another look.
    pub(super) fn begin_look(&self) {
        self.is_noticed.store(false, std::sync::atomic::Ordering::Release);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.raise();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported by its watch.
            let _ = thread.join();
        }
    }
}

fn listen(sockets: &[OwnedFd], stop: &Flag, is_noticed: &AtomicBool, inputs: &InputSender) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut is_owed = false;
    loop {
        let mut fds: Vec<PollFd<'_>> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        fds.push(PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN));
        match poll(&mut fds, is_owed.then_some(&OFFER_PAUSE)) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let is_ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if is_ready.last() == Some(&true) {
            return Ok(());
        }
        let mut is_relevant = false;
        for (socket, _) in sockets.iter().zip(is_ready).filter(|(_, is_ready)| *is_ready) {
            is_relevant |= match recv(socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((len, _)) => attributes::messages(&buffer[..len]).any(|message| is_about_us(&message)),
                // Notices were lost: there has been much of it.
                Err(Errno::NOBUFS) => true,
                Err(_) => false,
            };
        }
        is_owed |= is_relevant && !is_noticed.swap(true, AcqRel);
        if is_owed {
            match inputs.offer(Input::BridgeChanged) {
                Ok(is_taken) => is_owed = !is_taken,
                // A router that is gone needs no notice; this thread is told to end soon.
                Err(RouterGone) => return Ok(()),
            }
        }
    }
}

/// The host's own ARP table changes all the time and says nothing about the bridge.
fn is_about_us(message: &attributes::Message<'_>) -> bool {
    !NEIGHBOUR_KINDS.contains(&message.kind) || message.family == BRIDGE_FAMILY
}
