//! Frames between the TAP and local containers that skip the bridge, where nobody would notice.
//!
//! ```text
//!  container ─ veth ─▶ port ─┬─ bridge (netfilter, learning) ─┬─▶ TAP ─▶ tx
//!                            └── both addresses are known ────┘
//!  container ◀─ veth ─ port ─┬─ bridge ──────────────────────┬── TAP ◀─ rx
//!       ▲                    └── both addresses are known ───┐
//!       └──────────────────── bpf_redirect_peer ─────────────┘
//! ```
//!
//! The state of the kernel is the only truth: on each notice and every [`LOOK_INTERVAL`] the bridge and the firewall
//! are looked at as a whole (`netlink::bridge`, `firewall`), a plan is made of it (`plan`), and what is attached
//! becomes as planned (`attached`, `programs`). Between looks, changes of the forwarding table make a new plan.
//!
//! Everything hangs on descriptors of this process. When it ends, however it ends, all frames pass the bridge again.
//!
//! INVARIANT: nothing skips the bridge that a rule, a filter or a setting of the operator's would see there; where that
//! is not known for certain, it is off, and `status` says why.

mod attached;
mod attributes;
mod firewall;
mod plan;
mod programs;
#[cfg(test)]
mod tests;
mod watch;

use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use weaved_api::{Counter, DesiredState, FeatureStatus, Force, RulesVerdict, Switch};
use weaved_core::forward::ForwardingTable;

pub(crate) use self::programs::{Programs, Unavailable};
use self::{
    attached::Attached,
    firewall::Firewall,
    plan::Plan,
    programs::{Passage, Scope},
    watch::Watcher,
};
use crate::{
    inputs::InputSender,
    netlink::{Netlink, bridge::BridgeView},
    shutdown::Watch,
    sys::bpf::{self, AttachPoint},
};

/// The longest time between two looks: sysctls change without a notice.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest pause after a look or a plan.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// How much longer than a look the pause after it is, so that looking never takes more than a tenth of the time.
const PAUSE_FACTOR: u32 = 10;

/// The whole mechanism. Belongs to the router thread.
pub(crate) struct Redirect {
    programs: Result<Programs, Unavailable>,
    inputs: InputSender,
    watch: Watch,
    wanted: Wanted,
    /// What it takes to look; there while it is wanted.
    eyes: Option<Eyes>,
    seen: Option<Seen>,
    attached: Attached,
    state: State,
    /// Generation of iptables' rules that control is to look at.
    question: Option<u32>,
    due: Option<Due>,
    /// Not before this is there another look or plan.
    rested_at: Instant,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    switch: Switch,
    rules: Option<RulesVerdict>,
    bridge: String,
    tap: String,
    /// Addresses of the overlay; none until the node has some of its own.
    range: Option<Ipv4Net>,
}

/// What is in force. It is told in the log when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// All frames pass the bridge, for this reason.
    Off(String),
    /// Known frames skip it.
    On {
        container_count: usize,
        /// What is left to the bridge, each with the reason.
        left_out: Vec<String>,
    },
}

struct Eyes {
    netlink: Netlink,
    firewall: Firewall,
    watcher: Watcher,
}

/// What the last look has shown.
struct Seen {
    view: BridgeView,
    scope: Scope,
    /// Why IPv6 passes the bridge, if it does.
    ipv6_obstacle: Option<String>,
    /// Devices with programs of others, and how many.
    foreign: Vec<(u32, u32)>,
}

/// What is to be done next, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    at: Instant,
    what: Work,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// A new plan of what was seen.
    Plan,
    /// Look at the kernel, then plan.
    Look,
}

impl Redirect {
    /// Nothing is attached yet.
    pub(crate) fn new(
        programs: Result<Programs, Unavailable>,
        inputs: InputSender,
        watch: Watch,
        now: Instant,
    ) -> Self {
        Self {
            programs,
            inputs,
            watch,
            wanted: Wanted::default(),
            eyes: None,
            seen: None,
            attached: Attached::default(),
            state: State::Off("nothing is desired yet".into()),
            question: None,
            due: None,
            rested_at: now,
        }
    }

    /// Takes what control wants.
    pub(crate) fn set_wanted(&mut self, desired: &DesiredState, now: Instant) {
        let wanted = Wanted {
            switch: desired.offload.bridge_redirect,
            rules: desired.bridge_rules.clone(),
            bridge: desired.overlay.bridge.clone(),
            tap: desired.overlay.tap.clone(),
            range: desired.overlay.gateway.and_then(|gateway| match gateway {
                IpNet::V4(gateway) => Some(gateway.trunc()),
                IpNet::V6(_) => None,
            }),
        };
        if wanted == self.wanted && self.due.is_some() {
            return;
        }
        self.wanted = wanted;
        self.rested_at = now;
        self.ask_for(Work::Look, now);
    }

    /// Something about the bridge or the firewall has changed.
    pub(crate) fn on_bridge_changed(&mut self, now: Instant) {
        self.ask_for(Work::Look, now);
    }

    /// There is a new forwarding table.
    pub(crate) fn on_table(&mut self, now: Instant) {
        if self.seen.is_some() {
            self.ask_for(Work::Plan, now);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due.map(|due| due.at)
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, table: &ForwardingTable, now: Instant) {
        let Some(due) = self.due.take_if(|due| due.at <= now) else { return };
        let started_at = Instant::now();
        let outcome = if due.what == Work::Look { self.look() } else { Ok(()) };
        let state = outcome.and_then(|()| self.apply_plan(table)).unwrap_or_else(|reason| {
            self.detach();
            State::Off(reason)
        });
        self.set_state(state);
        let pause = (started_at.elapsed() * PAUSE_FACTOR).max(MIN_PAUSE);
        self.rested_at = now + pause;
        if self.eyes.is_some() {
            self.due = Some(Due { at: now + LOOK_INTERVAL.max(pause), what: Work::Look });
        }
    }

    /// Generation of iptables' rules that control is asked to look at, once.
    pub(crate) fn poll_question(&mut self) -> Option<u32> {
        self.question.take()
    }

    /// For `status`.
    pub(crate) fn status(&self) -> FeatureStatus {
        let (force, reason) = match &self.state {
            State::Off(reason) => (Force::Off, reason.clone()),
            State::On { container_count, left_out } if left_out.is_empty() => {
                (Force::On, format!("local containers: {container_count}"))
            }
            State::On { container_count, left_out } => {
                let left_out = left_out.join("; ");
                (Force::Partly, format!("local containers: {container_count}; left to the bridge: {left_out}"))
            }
        };
        FeatureStatus { switch: self.wanted.switch, force, reason }
    }

    /// For `status`, in a fixed order.
    pub(crate) fn counters(&self) -> Vec<Counter> {
        let programs = self.programs.as_ref();
        let counter = |name: &str, help: &str, count: fn(&Programs) -> u64| Counter {
            name: name.to_owned(),
            help: help.to_owned(),
            value: programs.map_or(0, count),
        };
        vec![
            counter(
                "redirect_to_container",
                "Frames that went from the TAP straight into a container.",
                Programs::to_container_count,
            ),
            counter(
                "redirect_to_tap",
                "Frames that went from a container straight to the TAP.",
                Programs::to_tap_count,
            ),
        ]
    }

    fn ask_for(&mut self, what: Work, now: Instant) {
        let at = self.rested_at.max(now);
        self.due = Some(match self.due {
            Some(due) if due.at <= at => Due { at: due.at, what: due.what.max(what) },
            Some(due) if due.what > what && due.at <= at + MIN_PAUSE => due,
            _ => Due { at, what },
        });
    }

    /// Looks at firewall and bridge. Fails with the reason why it has to be off.
    fn look(&mut self) -> Result<(), String> {
        self.seen = None;
        if self.wanted.switch != Switch::On {
            self.eyes = None;
            return Err(if self.wanted.switch == Switch::Off { "switched off" } else { "not asked for" }.into());
        }
        if let Err(unavailable) = &self.programs {
            return Err(unavailable.to_string());
        }
        let eyes = match &mut self.eyes {
            Some(eyes) => eyes,
            None => self.eyes.insert(Eyes::open(&self.inputs, &self.watch)?),
        };
        eyes.watcher.begin_look();
        let link = eyes.netlink.link(&self.wanted.bridge).map_err(|error| error.to_string())?;
        let index = link.ok_or("there is no bridge")?.index;
        let view = eyes.netlink.bridge(index).map_err(|error| error.to_string())?.ok_or("the bridge is gone")?;
        let obstacles = eyes.firewall.check(view.calls_iptables, self.wanted.rules.as_ref());
        self.question = obstacles.ask;
        if let Some(obstacle) = obstacles.ipv4 {
            return Err(obstacle);
        }
        let range = self.wanted.range.ok_or("this host has no addresses of the overlay yet")?;
        let ipv6 = if obstacles.ipv6.is_some() { Passage::Bridge } else { Passage::Free };
        let foreign = self.foreign_programs(&view);
        self.seen = Some(Seen { view, scope: Scope { range, ipv6 }, ipv6_obstacle: obstacles.ipv6, foreign });
        Ok(())
    }

    /// Devices that somebody else has attached programs to.
    fn foreign_programs(&self, view: &BridgeView) -> Vec<(u32, u32)> {
        let count = |device: u32| {
            let points = [AttachPoint::Ingress, AttachPoint::Egress];
            // A device that cannot be asked is left alone.
            let all: u32 = points.iter().map(|point| bpf::attached_count(device, *point).unwrap_or(u32::MAX / 2)).sum();
            all - u32::from(self.attached.has(device)).min(all)
        };
        let devices = view.ports.iter().map(|port| port.index);
        devices.map(|device| (device, count(device))).filter(|(_, count)| *count > 0).collect()
    }

    fn apply_plan(&mut self, table: &ForwardingTable) -> Result<State, String> {
        let programs = self.programs.as_ref().map_err(ToString::to_string)?;
        let Some(Seen { view, scope, ipv6_obstacle, foreign }) = &self.seen else {
            return Ok(self.state.clone());
        };
        let foreign = |device| foreign.iter().find(|(of, _)| *of == device).map_or(0, |(_, count)| *count);
        let plan = plan::plan(view, &self.wanted.tap, table, foreign).map_err(|obstacle| obstacle.to_string())?;
        let applied = programs.set_scope(*scope).and_then(|()| self.attached.apply(programs, &plan));
        applied.map_err(|error| format!("the kernel refuses: {error}"))?;
        let mut left_out = plan.left_out;
        left_out.extend(ipv6_obstacle.as_ref().map(|reason| format!("IPv6: {reason}")));
        Ok(State::On { container_count: self.attached.port_count(), left_out })
    }

    fn detach(&mut self) {
        let Ok(programs) = &self.programs else { return };
        if let Err(error) = self.attached.apply(programs, &Plan::default()) {
            // The links are gone, so that nobody looks into the maps.
            tracing::debug!(%error, "entries are left in a map");
        }
    }

    fn set_state(&mut self, state: State) {
        match (&self.state, &state) {
            (State::Off(_), State::On { .. }) => {
                tracing::info!("known frames between the TAP and containers skip the bridge");
            }
            (before, State::Off(reason)) if *before != state => tracing::info!(reason, "all frames pass the bridge"),
            _ => {}
        }
        self.state = state;
    }
}

impl Eyes {
    fn open(inputs: &InputSender, watch: &Watch) -> Result<Self, String> {
        Ok(Self {
            netlink: Netlink::open().map_err(|error| error.to_string())?,
            firewall: Firewall::open(),
            watcher: Watcher::start(inputs.clone(), watch)
                .map_err(|error| format!("cannot watch the bridge: {error}"))?,
        })
    }
}
