//! Everything of the kernel's that a desired state asks for: devices, sockets, and the workers on them.
//!
//! What is as wanted keeps running; a change of the TAP's or the sockets' own settings ends the workers, opens it
//! anew and starts them again.
//!
//! INVARIANT: workers run only on an open TAP and open sockets, and end before either is closed.
//! INVARIANT: there are as many sockets as queues, once both are open: what came to one that nobody reads would be lost.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use anyhow::Context;
use arc_swap::ArcSwap;
use weaved_api::{
    DesiredState, DeviceStatus, FeatureStatus, Force, OffloadSwitches, Problem, Switch, WorkerCount, WorkersStatus,
};
use weaved_core::forward::ForwardingTable;

use crate::{
    cores::Cores,
    feature::Feature,
    inputs::InputSender,
    reconcile::{DeviceError, Devices, TapPlan},
    shutdown::Watch,
    tap::{Layout, QUEUES_PER_WORKER, Steering, TAP_QUEUE_FRAMES, Tap, Unsteered},
    udp::{Buffers, SocketError, UdpSocket, name_some},
    workers::{AllStats, Equipment, Workers},
};

/// What the workers are started with.
pub(crate) struct KernelConfig {
    pub(crate) table: Arc<ArcSwap<ForwardingTable>>,
    pub(crate) stats: AllStats,
    pub(crate) inputs: InputSender,
    pub(crate) watch: Watch,
}

/// Devices, sockets and workers. Fields are dropped in this order: workers first.
pub(crate) struct Kernel {
    workers: Option<Workers>,
    /// At least one.
    sockets: Option<Opened<SocketSettings, Sockets>>,
    tap: Option<Opened<TapSettings, Arc<Tap>>>,
    bridge: String,
    devices: Devices,
    cores: Cores,
    workers_wanted: WorkerCount,
    source_queues_wanted: Switch,
    config: KernelConfig,
}

/// The sockets of all workers.
struct Sockets {
    /// On the port; at least one.
    all: Vec<Arc<UdpSocket>>,
    /// On ports of their own, which only send.
    senders: Vec<Arc<UdpSocket>>,
}

/// Something open and what it was opened with.
struct Opened<S, T> {
    settings: S,
    it: T,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TapSettings {
    name: String,
    plan: TapPlan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SocketSettings {
    port: u16,
    gso: Switch,
    gro: Switch,
    count: usize,
    sender_count: usize,
}

impl Kernel {
    /// Nothing is opened yet but the way to ask for it.
    pub(crate) fn open(config: KernelConfig, steering: Result<Steering, Unsteered>) -> anyhow::Result<Self> {
        let devices = Devices::open().context("cannot reach the kernel's network settings")?;
        Ok(Self {
            workers: None,
            sockets: None,
            tap: None,
            bridge: String::new(),
            devices: devices.with_steering(steering),
            cores: Cores::of_this_process(),
            workers_wanted: WorkerCount::Auto,
            source_queues_wanted: Switch::Auto,
            config,
        })
    }

    /// How many workers there are to be, if the kernel does its part.
    pub(crate) fn worker_count(&self, wanted: WorkerCount) -> usize {
        self.cores.worker_count(wanted)
    }

    /// The first socket, when they are open: any of them sends from the same port.
    pub(crate) fn socket(&self) -> Option<&UdpSocket> {
        self.sockets().first().map(AsRef::as_ref)
    }

    /// The TAP, when it is open.
    pub(crate) fn tap(&self) -> Option<&Tap> {
        self.tap.as_ref().map(|tap| &*tap.it)
    }

    /// Makes everything as desired and tells what could not be done.
    pub(crate) fn apply(&mut self, desired: &DesiredState) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.workers_wanted = desired.workers;
        self.source_queues_wanted = desired.offload.source_queues;
        self.close_changed_tap(desired);
        self.apply_devices(desired, &mut problems);
        self.close_changed_sockets(desired);
        self.apply_sockets(desired, &mut problems);
        self.start_workers(&mut problems);
        problems
    }

    /// Deletes the devices, after the workers have ended.
    pub(crate) fn delete_devices(&mut self) -> Result<(), DeviceError> {
        self.workers = None;
        self.tap = None;
        self.devices.delete()
    }

    /// Asks the kernel for what only it counts.
    pub(crate) fn update_counters(&mut self) {
        let dropped = self.devices.take_tap_drops();
        self.config.stats.of(0).io.tap_queue_full.fetch_add(dropped, Relaxed);
    }

    /// For `status`; none while anything is missing. `lossy` are the peers on whose way trains are lost.
    pub(crate) fn status(&self, lossy: &[String], redirect: FeatureStatus) -> Option<DeviceStatus> {
        let (tap, socket) = (self.tap()?, self.socket()?);
        let buffers = self.sockets().iter().map(|socket| socket.buffers()).fold(Buffers::default(), Buffers::with);
        Some(DeviceStatus {
            bridge: self.bridge.clone(),
            tap: tap.name().to_owned(),
            listen_port: socket.port(),
            workers: self.workers_status(tap),
            receive_buffer_bytes: buffers.receive_bytes as u64,
            send_buffer_bytes: buffers.send_bytes as u64,
            tap_queue_frames: TAP_QUEUE_FRAMES,
            tap_queue_count: tap.layout().queue_count() as u16,
            tap_offload: tap.feature().status(tap.refusals().describe()),
            udp_gso: socket.offload().gso.status(self.refused_trains(lossy)),
            udp_gro: socket.offload().gro.status(None),
            bridge_redirect: redirect,
            source_queues: self.source_queues_status(tap),
        })
    }

    fn sockets(&self) -> &[Arc<UdpSocket>] {
        self.sockets.as_ref().map_or(&[], |sockets| &sockets.it.all)
    }

    /// What the kernel refuses of sending trains, by the first socket that has met it, and where they are lost.
    fn refused_trains(&self, lossy: &[String]) -> Option<String> {
        let Sockets { all, senders } = &self.sockets.as_ref()?.it;
        let refused = all.iter().chain(senders).find_map(|socket| socket.refused_trains());
        let lost = name_some(lossy).map(|peers| format!("lost on the way to {peers}"));
        let reasons: Vec<String> = refused.into_iter().chain(lost).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    fn workers_status(&self, tap: &Tap) -> WorkersStatus {
        let wanted = self.workers_wanted;
        let reason = match self.devices.queue_shortfall() {
            Some(shortfall) => shortfall.to_owned(),
            None => self.cores.reason(wanted),
        };
        let source_port_count = self.sockets.as_ref().map_or(1, |sockets| sockets.it.senders.len() as u8 + 1);
        WorkersStatus { wanted, count: tap.layout().worker_count as u8, source_port_count, reason }
    }

    fn source_queues_status(&self, tap: &Tap) -> FeatureStatus {
        let switch = self.source_queues_wanted;
        let (force, reason) = match (switch, self.devices.queue_shortfall()) {
            (Switch::Off, _) => (Force::Off, "switched off".to_owned()),
            (_, Some(shortfall)) => (Force::Off, shortfall.to_owned()),
            (_, None) => (Force::On, format!("{} queues for each worker", tap.layout().queues_per_worker)),
        };
        FeatureStatus { switch, force, reason }
    }

    /// Closes the TAP when it was opened with other settings.
    fn close_changed_tap(&mut self, desired: &DesiredState) {
        let settings = self.tap_settings(desired);
        if self.tap.as_ref().is_some_and(|tap| tap.settings != settings) {
            self.workers = None;
            self.tap = None;
            self.devices.close_tap();
        }
    }

    /// The same for the sockets, whose number may follow from the TAP.
    fn close_changed_sockets(&mut self, desired: &DesiredState) {
        let settings = self.socket_settings(desired);
        if self.sockets.as_ref().is_some_and(|sockets| sockets.settings != settings) {
            self.workers = None;
            self.sockets = None;
        }
    }

    fn apply_devices(&mut self, desired: &DesiredState, problems: &mut Vec<Problem>) {
        let settings = self.tap_settings(desired);
        if let Err(errors) = self.devices.apply(&desired.overlay, settings.plan) {
            problems.extend(errors.iter().map(problem));
        }
        self.bridge.clone_from(&desired.overlay.bridge);
        if self.tap.is_none() {
            self.tap = self.devices.tap().map(|tap| Opened { settings, it: tap.clone() });
            if let Some(tap) = self.tap() {
                log_feature("tap-offload", tap.feature());
                tap.refusals().describe().into_iter().for_each(|refused| tracing::info!("tap-offload: {refused}"));
            }
        }
    }

    fn apply_sockets(&mut self, desired: &DesiredState, problems: &mut Vec<Problem>) {
        if self.sockets.is_some() {
            return;
        }
        let settings = self.socket_settings(desired);
        match self.open_sockets(&settings, desired.offload) {
            Ok(sockets) => {
                self.sockets = Some(Opened { settings, it: sockets });
                if let Some(socket) = self.socket() {
                    tracing::info!(port = socket.port(), sockets = self.sockets().len(), "the UDP port is open");
                    log_feature("udp-gso", socket.offload().gso);
                    log_feature("udp-gro", socket.offload().gro);
                }
            }
            Err(error) => problems.push(problem(&error)),
        }
    }

    fn open_sockets(&self, settings: &SocketSettings, switches: OffloadSwitches) -> Result<Sockets, SocketError> {
        let stats = |worker| self.config.stats.of(worker).io.clone();
        let all = UdpSocket::open_group(settings.port, switches, (0..settings.count).map(stats))?;
        let senders: Result<Vec<UdpSocket>, SocketError> =
            (1..=settings.sender_count).map(|worker| UdpSocket::open_sender(switches, stats(worker))).collect();
        let shared = |sockets: Vec<UdpSocket>| sockets.into_iter().map(Arc::new).collect();
        Ok(Sockets { all: shared(all), senders: shared(senders?) })
    }

    fn start_workers(&mut self, problems: &mut Vec<Problem>) {
        let (None, Some(tap), Some(sockets)) = (&self.workers, &self.tap, &self.sockets) else {
            return;
        };
        let KernelConfig { table, stats, inputs, watch } = &self.config;
        let Sockets { all: sockets, senders } = &sockets.it;
        let places = self.cores.places(sockets.len());
        let equipment = Equipment { tap: &tap.it, sockets, senders, table, stats, inputs, places };
        match Workers::start(&equipment, watch) {
            Ok(workers) => self.workers = Some(workers),
            Err(error) => problems.push(Problem { message: format!("cannot start the worker threads: {error}") }),
        }
    }

    fn tap_settings(&self, desired: &DesiredState) -> TapSettings {
        let queues_per_worker = if desired.offload.source_queues == Switch::Off { 1 } else { QUEUES_PER_WORKER };
        let layout = Layout { worker_count: self.worker_count(desired.workers), queues_per_worker };
        let plan = TapPlan { offload: desired.offload.tap_offload, layout };
        TapSettings { name: desired.overlay.tap.clone(), plan }
    }

    /// As many as the TAP has queues for, which may be fewer than wanted.
    fn socket_settings(&self, desired: &DesiredState) -> SocketSettings {
        let OffloadSwitches { udp_gso, udp_gro, .. } = desired.offload;
        let count = self.tap().map_or_else(|| self.worker_count(desired.workers), |tap| tap.layout().worker_count);
        let sender_count = desired.source_ports.count().min(count) - 1;
        SocketSettings { port: desired.listen_port, gso: udp_gso, gro: udp_gro, count, sender_count }
    }
}

fn problem(error: &impl ToString) -> Problem {
    Problem { message: error.to_string() }
}

/// What an offload is at the start.
fn log_feature(name: &str, Feature { switch, is_on, reason }: Feature) {
    let force = if is_on { "on" } else { "off" };
    tracing::info!("{name} is {force} (switch: {switch}): {reason}");
}
