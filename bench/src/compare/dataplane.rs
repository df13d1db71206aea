//! One data plane without control: `weaved dataplane --desired-state FILE`.

use std::{
    fs,
    io::Write,
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
};

use weaved_api::{ClusterSecret, DesiredState, Generation, OffloadSwitches, Overlay, PeerConfig, PeerId, SecretKey};
use weaved_core::noise::peer_id_of;
use weaved_netns_tests::{Host, Output, Process};

/// The port of every data plane.
const PORT: u16 = 6783;

/// A running data plane. It is killed when dropped.
pub(super) struct Dataplane {
    host: Arc<Host>,
    state_file: PathBuf,
    process: Option<Process>,
}

/// The identity of host number `number`. These keys protect nothing but a bench.
pub(super) fn identity(number: u8) -> SecretKey {
    SecretKey([number; 32])
}

/// A peer at the usual port of `address`.
pub(super) fn peer(number: u8, address: IpAddr) -> PeerConfig {
    peer_at(peer_id_of(&identity(number)), SocketAddr::new(address, PORT))
}

/// A peer with this id.
pub(super) fn peer_at(id: PeerId, endpoint: SocketAddr) -> PeerConfig {
    PeerConfig { id, name: String::new(), endpoints: vec![endpoint] }
}

/// What host number `number` is to do: its containers are in 10.32.`number`.0/24.
pub(super) fn desired_state(number: u8, peers: Vec<PeerConfig>) -> DesiredState {
    let gateway = format!("10.32.{number}.1/12").parse().expect("an address with a prefix length");
    DesiredState {
        generation: Generation(1),
        identity: identity(number),
        cluster_secret: ClusterSecret([0x77; 32]),
        listen_port: PORT,
        overlay: Overlay { bridge: "weave".into(), tap: "weave-tap".into(), mtu: 1500, gateway: Some(gateway) },
        peers,
        targets: Vec::new(),
        neighbours: Vec::new(),
        quarantined: Vec::new(),
        offload: OffloadSwitches::default(),
    }
}

impl Dataplane {
    /// Starts one and waits until its bridge is there.
    #[track_caller]
    pub(super) fn start(host: &Arc<Host>, desired: &DesiredState) -> Self {
        let state_file = host.dir().join("desired.json");
        write_private(&state_file, &serde_json::to_vec(desired).expect("a desired state is JSON"));
        let mut dataplane = Self { host: host.clone(), state_file, process: None };
        dataplane.start_again();
        let has_bridge = || host.interfaces().contains(&desired.overlay.bridge);
        weaved_netns_tests::wait_until("the data plane has made its bridge", weaved_netns_tests::SOON, || {
            dataplane.assert_running();
            has_bridge()
        });
        dataplane
    }

    /// Starts it again after [`Self::kill`]. Does not wait for anything.
    #[track_caller]
    pub(super) fn start_again(&mut self) {
        let file = self.state_file.display().to_string();
        self.process = Some(self.host.weaved().spawn(&["dataplane", "--desired-state", &file]));
    }

    /// `kill -9`. Returns when it is gone.
    pub(super) fn kill(&mut self) -> Option<Output> {
        self.process.take().map(Process::kill)
    }

    /// Its process id.
    #[track_caller]
    pub(super) fn pid(&self) -> u32 {
        self.process.as_ref().map_or_else(|| panic!("the data plane was killed"), Process::pid)
    }

    #[track_caller]
    fn assert_running(&mut self) {
        if self.process.as_mut().is_some_and(Process::is_running) {
            return;
        }
        let output = self.kill().map(|output| output.to_string()).unwrap_or_default();
        panic!("the data plane has ended by itself\n{output}");
    }
}

/// The file holds keys.
#[track_caller]
fn write_private(path: &PathBuf, bytes: &[u8]) {
    let file = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(bytes));
    written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
