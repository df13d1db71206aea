//! Everything of the kernel's that a desired state asks for: devices, socket, and the workers on them.
//!
//! What is as wanted keeps running; a change of the TAP's or the socket's own settings ends the workers, opens it
//! anew and starts them again.
//!
//! INVARIANT: workers run only on an open TAP and an open socket, and end before either is closed.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use anyhow::Context;
use arc_swap::ArcSwap;
use weaved_api::{DesiredState, DeviceStatus, FeatureStatus, OffloadSwitches, Problem, Switch};
use weaved_core::forward::ForwardingTable;

use crate::{
    feature::Feature,
    inputs::InputSender,
    reconcile::{DeviceError, Devices},
    shutdown::Watch,
    tap::{TAP_QUEUE_FRAMES, Tap},
    udp::UdpSocket,
    workers::{AllStats, Workers},
};

/// What the workers are started with.
pub(crate) struct KernelConfig {
    pub(crate) table: Arc<ArcSwap<ForwardingTable>>,
    pub(crate) stats: AllStats,
    pub(crate) inputs: InputSender,
    pub(crate) watch: Watch,
}

/// Devices, socket and workers. Fields are dropped in this order: workers first.
pub(crate) struct Kernel {
    workers: Option<Workers>,
    socket: Option<Opened<SocketSettings, Arc<UdpSocket>>>,
    tap: Option<Opened<TapSettings, Arc<Tap>>>,
    bridge: String,
    devices: Devices,
    config: KernelConfig,
}

/// Something open and what it was opened with.
struct Opened<S, T> {
    settings: S,
    it: T,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TapSettings {
    name: String,
    offload: Switch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SocketSettings {
    port: u16,
    gso: Switch,
    gro: Switch,
}

impl Kernel {
    /// Nothing is opened yet but the way to ask for it.
    pub(crate) fn open(config: KernelConfig) -> anyhow::Result<Self> {
        let devices = Devices::open().context("cannot reach the kernel's network settings")?;
        Ok(Self { workers: None, socket: None, tap: None, bridge: String::new(), devices, config })
    }

    /// The socket, when it is open.
    pub(crate) fn socket(&self) -> Option<&UdpSocket> {
        self.socket.as_ref().map(|socket| &*socket.it)
    }

    /// The TAP, when it is open.
    pub(crate) fn tap(&self) -> Option<&Tap> {
        self.tap.as_ref().map(|tap| &*tap.it)
    }

    /// Makes everything as desired and tells what could not be done.
    pub(crate) fn apply(&mut self, desired: &DesiredState) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.close_changed(desired);
        self.apply_devices(desired, &mut problems);
        self.apply_socket(desired, &mut problems);
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
        self.config.stats.io.tap_queue_full.fetch_add(dropped, Relaxed);
    }

    /// For `status`; none while anything is missing.
    pub(crate) fn status(&self, redirect: FeatureStatus) -> Option<DeviceStatus> {
        let (tap, socket) = (self.tap()?, self.socket()?);
        let buffers = socket.buffers();
        Some(DeviceStatus {
            bridge: self.bridge.clone(),
            tap: tap.name().to_owned(),
            listen_port: socket.port(),
            receive_buffer_bytes: buffers.receive_bytes as u64,
            send_buffer_bytes: buffers.send_bytes as u64,
            tap_queue_frames: TAP_QUEUE_FRAMES,
            tap_offload: tap.feature().status(tap.refusals().describe()),
            udp_gso: socket.offload().gso.status(socket.refused_trains()),
            udp_gro: socket.offload().gro.status(None),
            bridge_redirect: redirect,
        })
    }

    /// Closes what was opened with other settings.
    fn close_changed(&mut self, desired: &DesiredState) {
        let is_tap_right = self.tap.as_ref().is_none_or(|tap| tap.settings == tap_settings(desired));
        let is_socket_right = self.socket.as_ref().is_none_or(|socket| socket.settings == socket_settings(desired));
        if !is_tap_right || !is_socket_right {
            self.workers = None;
        }
        if !is_tap_right {
            self.tap = None;
            self.devices.close_tap();
        }
        if !is_socket_right {
            self.socket = None;
        }
    }

    fn apply_devices(&mut self, desired: &DesiredState, problems: &mut Vec<Problem>) {
        if let Err(errors) = self.devices.apply(&desired.overlay, desired.offload.tap_offload) {
            problems.extend(errors.iter().map(problem));
        }
        self.bridge.clone_from(&desired.overlay.bridge);
        if self.tap.is_none() {
            self.tap = self.devices.tap().map(|tap| Opened { settings: tap_settings(desired), it: tap.clone() });
            if let Some(tap) = self.tap() {
                log_feature("tap-offload", tap.feature());
                tap.refusals().describe().into_iter().for_each(|refused| tracing::info!("tap-offload: {refused}"));
            }
        }
    }

    fn apply_socket(&mut self, desired: &DesiredState, problems: &mut Vec<Problem>) {
        if self.socket.is_some() {
            return;
        }
        let settings = socket_settings(desired);
        match UdpSocket::open(settings.port, desired.offload, self.config.stats.io.clone()) {
            Ok(socket) => {
                let port = socket.port();
                tracing::info!(port, "UDP socket is open");
                log_feature("udp-gso", socket.offload().gso);
                log_feature("udp-gro", socket.offload().gro);
                self.socket = Some(Opened { settings, it: Arc::new(socket) });
            }
            Err(error) => problems.push(problem(&error)),
        }
    }

    fn start_workers(&mut self, problems: &mut Vec<Problem>) {
        let (None, Some(tap), Some(socket)) = (&self.workers, &self.tap, &self.socket) else {
            return;
        };
        let KernelConfig { table, stats, inputs, watch } = &self.config;
        match Workers::start(tap.it.clone(), socket.it.clone(), table.clone(), stats, inputs, watch) {
            Ok(workers) => self.workers = Some(workers),
            Err(error) => problems.push(Problem { message: format!("cannot start the worker threads: {error}") }),
        }
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

fn tap_settings(desired: &DesiredState) -> TapSettings {
    TapSettings { name: desired.overlay.tap.clone(), offload: desired.offload.tap_offload }
}

fn socket_settings(desired: &DesiredState) -> SocketSettings {
    let OffloadSwitches { udp_gso, udp_gro, .. } = desired.offload;
    SocketSettings { port: desired.listen_port, gso: udp_gso, gro: udp_gro }
}
