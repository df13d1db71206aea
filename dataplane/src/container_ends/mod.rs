//! Containers' own ends of their veth pairs: they are asked for super-frames that leave in one send.
//!
//! ```text
//!   container            │ host
//!   TCP ─ eth0 ──────────┼─ port ─ bridge ─ TAP ─▶ train ─▶ one UDP_SEGMENT send, not two
//!   gso_max_size ≤ 63,600│
//! ```
//!
//! A super-frame of the kernel's usual 64 KB grows beyond what one send may carry when its tags are added. The device
//! that TCP hands it to says how long it may be, and that device is in the container. So on each notice of a change
//! the ports of the bridge are looked at, and the other end of each new one is limited, once, from inside its
//! namespace. Whoever sets another value later has the last word.
//!
//! This is a thread of the control process: entering a namespace takes `CAP_SYS_ADMIN`, which the process that reads
//! bytes from strangers gives up. Nothing waits for it and nothing fails with it; frames of any length pass anyway.
//!
//! INVARIANT: a limit is only ever lowered, and each end is touched once.

mod namespaces;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, recv},
};
use weaved_api::{Counter, FeatureStatus, Force, Switch};
use weaved_core::limits::MAX_WHOLE_FRAME_LEN;

use crate::{
    netlink::{
        self, Netlink, NetlinkError,
        pair::{NamespaceId, PairPort},
    },
    reconcile::MARK,
    shutdown::Flag,
};

/// What `gso_max_size` becomes, in bytes.
pub const LIMIT: u32 = MAX_WHOLE_FRAME_LEN as u32;

/// The longest time between two looks. A container whose namespace could not be found is tried again then.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// The shortest pause after a look, so that the many notices of one container's start are one look or two.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// How much longer than a look the pause after it is, so that looking never takes more than a tenth of the time.
const PAUSE_FACTOR: u32 = 10;
/// Reasons that are told in the log, each once; more than these are not.
const MAX_TOLD: usize = 16;

/// The running mechanism. It ends when this is dropped; the limits stay.
#[derive(Debug)]
pub struct ContainerEnds {
    switch: Switch,
    shared: Arc<Shared>,
    stop: Arc<Flag>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread tells.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    limited: AtomicU64,
    kept: AtomicU64,
    refused: AtomicU64,
}

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// Why nothing is done; none when something is.
    idle: Option<&'static str>,
    limited_count: usize,
    kept_count: usize,
    /// Ports whose other ends could not be limited, each with the reason.
    refused: Vec<String>,
}

/// What was done about one end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Limited,
    /// Its limit was as low already.
    Kept,
    Refused(String),
}

impl ContainerEnds {
    /// Begins to look after the containers on a bridge, which need not be there yet.
    pub fn start(switch: Switch, bridge: &str) -> io::Result<Self> {
        let (shared, stop) = (Arc::<Shared>::default(), Arc::new(Flag::new()?));
        let mut ends = Self { switch, shared, stop, thread: None };
        if switch == Switch::Off {
            ends.shared.set_state(State { idle: Some("switched off"), ..State::default() });
            return Ok(ends);
        }
        let (shared, stop, bridge) = (ends.shared.clone(), ends.stop.clone(), bridge.to_owned());
        let thread = std::thread::Builder::new().name("container-ends".into());
        ends.thread = Some(thread.spawn(move || {
            if let Err(error) = run(&bridge, &shared, &stop) {
                tracing::warn!(%error, "containers' super-frames are as long as they are");
                shared.set_state(State { idle: Some("it has failed; see the log"), ..State::default() });
            }
        })?);
        Ok(ends)
    }

    /// For `status`.
    pub fn status(&self) -> FeatureStatus {
        let State { idle, limited_count, kept_count, refused } = self.shared.state();
        let counts =
            format!("containers limited to {LIMIT} bytes a frame: {limited_count}, below by themselves: {kept_count}");
        let (force, reason) = match (idle, refused.as_slice()) {
            (Some(reason), _) => (Force::Off, reason.to_owned()),
            (None, []) => (Force::On, counts),
            (None, refused) => (Force::Partly, format!("{counts}; not {}", refused.join("; "))),
        };
        FeatureStatus { switch: self.switch, force, reason }
    }

    /// For `status`, in a fixed order.
    pub fn counters(&self) -> Vec<Counter> {
        let counter = |name: &str, help: &str, value: &AtomicU64| Counter {
            name: name.to_owned(),
            help: help.to_owned(),
            value: value.load(Relaxed),
        };
        let Shared { limited, kept, refused, .. } = &*self.shared;
        vec![
            counter("container_gso_limited", "Containers asked for super-frames that leave in one send.", limited),
            counter("container_gso_kept", "Containers whose super-frames were short enough already.", kept),
            counter("container_gso_refused", "Containers whose super-frames could not be limited.", refused),
        ]
    }
}

impl Drop for ContainerEnds {
    fn drop(&mut self) {
        self.stop.raise();
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported when it happened and harms nobody else.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_state(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Looks on each notice until it is told to stop.
fn run(bridge: &str, shared: &Shared, stop: &Flag) -> anyhow::Result<()> {
    // Before the first look, so that nothing happens unseen between the two.
    let notices = netlink::notices(netlink::LINK_NOTICES)?;
    let mut looker = Looker { netlink: Netlink::open()?, known: BTreeMap::new(), told: BTreeSet::new() };
    loop {
        let started_at = Instant::now();
        match looker.look(bridge, shared) {
            Ok(state) => shared.set_state(state),
            Err(error) => looker.tell(&error.to_string()),
        }
        let pause = (started_at.elapsed() * PAUSE_FACTOR).max(MIN_PAUSE);
        if wait(&[PollFd::new(stop, PollFlags::IN)], pause)? {
            return Ok(());
        }
        wait(&[PollFd::new(stop, PollFlags::IN), PollFd::new(&notices, PollFlags::IN)], LOOK_INTERVAL)?;
        // What they say does not matter: the look sees all. A queue that has overflowed is as good as a notice.
        while !matches!(recv(&notices, &mut [0; 4096], RecvFlags::DONTWAIT), Err(error) if error != Errno::NOBUFS) {}
    }
}

/// Whether one of them is ready within this time.
fn wait(fds: &[PollFd<'_>], time: Duration) -> io::Result<bool> {
    let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    match poll(&mut fds.to_vec(), Some(&time)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the thread knows.
struct Looker {
    netlink: Netlink,
    known: BTreeMap<PairPort, Outcome>,
    told: BTreeSet<String>,
}

impl Looker {
    /// Limits what is new.
    fn look(&mut self, bridge: &str, shared: &Shared) -> Result<State, NetlinkError> {
        let link = self.netlink.link(bridge)?.filter(|link| link.alias.as_deref() == Some(MARK));
        let Some(link) = link else {
            return Ok(State { idle: Some("there is no bridge yet"), ..State::default() });
        };
        // What the host itself sends into the overlay is given to the bridge.
        if let Some(limit) = self.netlink.gso_limit(link.index, None)?.lowered_to(LIMIT) {
            self.netlink.set_gso_limit(link.index, limit)?;
        }
        let ports = self.netlink.pair_ports(link.index)?;
        self.known.retain(|known, _| ports.contains(known));
        let is_done = |outcome: Option<&Outcome>| matches!(outcome, Some(Outcome::Limited | Outcome::Kept));
        let new: Vec<PairPort> = ports.into_iter().filter(|port| !is_done(self.known.get(port))).collect();
        if !new.is_empty() {
            self.limit_all(new, shared);
        }
        Ok(self.state())
    }

    fn limit_all(&mut self, ports: Vec<PairPort>, shared: &Shared) {
        let ids: BTreeSet<NamespaceId> = ports.iter().map(|port| port.namespace).collect();
        let namespaces = namespaces::find(&mut self.netlink, &ids);
        for port in ports {
            let outcome = self.limit(&port, &namespaces).unwrap_or_else(Outcome::Refused);
            let counter = match &outcome {
                Outcome::Limited => &shared.limited,
                Outcome::Kept => &shared.kept,
                Outcome::Refused(_) => &shared.refused,
            };
            if let Outcome::Refused(reason) = &outcome {
                self.tell(reason);
            }
            let before = self.known.insert(port, outcome.clone());
            counter.fetch_add(u64::from(before != Some(outcome)), Relaxed);
        }
    }

    /// Limits one end. Fails with the reason why not.
    fn limit(&mut self, port: &PairPort, namespaces: &namespaces::Found) -> Result<Outcome, String> {
        let current =
            self.netlink.gso_limit(port.end_index, Some(port.namespace)).map_err(|error| error.to_string())?;
        let Some(limit) = current.lowered_to(LIMIT) else { return Ok(Outcome::Kept) };
        let namespace = namespaces.get(&port.namespace).ok_or("its network namespace cannot be found")?;
        let index = port.end_index;
        namespaces::inside(namespace, move || Netlink::open()?.set_gso_limit(index, limit))
            .map_err(|error| format!("its network namespace cannot be entered: {error}"))?
            .map_err(|error| error.to_string())?;
        Ok(Outcome::Limited)
    }

    fn state(&self) -> State {
        let mut state = State::default();
        for (port, outcome) in &self.known {
            match outcome {
                Outcome::Limited => state.limited_count += 1,
                Outcome::Kept => state.kept_count += 1,
                Outcome::Refused(reason) => state.refused.push(format!("{}: {reason}", port.name)),
            }
        }
        state
    }

    /// Tells a reason once.
    fn tell(&mut self, reason: &str) {
        if self.told.len() < MAX_TOLD && self.told.insert(reason.to_owned()) {
            tracing::info!(reason, "a container's super-frames stay as long as they are");
        }
    }
}
