//! The product: data planes without control, `weaved dataplane --desired-state FILE`, and variants of their settings.

use std::{
    fs,
    io::Write,
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
};

use serde_json::Value;
use weaved_api::{
    CipherChoice, ClusterSecret, DesiredState, Generation, OffloadSwitches, Overlay, PeerConfig, PeerId, SecretKey,
    SourcePorts, WorkerCount,
};
use weaved_core::{limits::MAX_WHOLE_FRAME_LEN, noise::peer_id_of};
use weaved_netns_tests::{Host, Output, Place, Process, SOON, wait_until, weaved_path};

use super::{Joined, Layer, Running};

/// The port of every data plane.
const PORT: u16 = 6783;
/// Docker's default, which weaved takes as it is.
pub(crate) const DOCKER_MTU: u16 = 1500;
/// The switch that control obeys and not the data plane.
const CONTAINER_GSO: &str = "container_gso";

/// Deviations from the defaults: `udp_gso=off+overlay.mtu=9000+container_gso=off+program=/path`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Variant {
    /// Fields of the desired state, and what they are set to.
    settings: Vec<(String, String)>,
    /// Another executable.
    program: Option<PathBuf>,
    /// Guests are not asked for super-frames that leave in one send, as control would.
    leaves_guests_alone: bool,
}

impl Variant {
    /// Reads the settings and checks that they are possible.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut variant = Self::default();
        for setting in text.split('+').filter(|setting| !setting.is_empty()) {
            let (key, value) = setting.split_once('=').ok_or(format!("`{setting}` is not KEY=VALUE"))?;
            if key == "program" {
                let path = PathBuf::from(value);
                variant.program = Some(path.canonicalize().map_err(|error| format!("{value}: {error}"))?);
            } else if key == CONTAINER_GSO {
                variant.leaves_guests_alone = match value {
                    "off" => true,
                    "on" | "auto" => false,
                    _ => return Err(format!("{CONTAINER_GSO} is auto, on or off, not `{value}`")),
                };
            } else {
                variant.settings.push((key.to_owned(), value.to_owned()));
            }
        }
        variant.apply(&desired_state(0, Vec::new()))?;
        Ok(variant)
    }

    /// The state with the settings in it.
    fn apply(&self, desired: &DesiredState) -> Result<DesiredState, String> {
        let mut json = serde_json::to_value(desired).expect("a desired state is JSON");
        for (key, value) in &self.settings {
            let slot = find(&mut json, key)
                .ok_or_else(|| format!("weaved has no setting `{key}`; its switches are {}", switches().join(", ")))?;
            // What is text stays text; numbers, lists and null are JSON.
            *slot = match slot {
                Value::String(_) => Value::from(value.as_str()),
                _ => serde_json::from_str(value).unwrap_or_else(|_| Value::from(value.as_str())),
            };
        }
        serde_json::from_value(json).map_err(|error| format!("weaved does not take {:?}: {error}", self.settings))
    }
}

/// Names of the offload switches: those of the data plane, and control's.
pub(crate) fn switches() -> Vec<String> {
    let json = serde_json::to_value(OffloadSwitches::default()).expect("switches are JSON");
    let names = json.as_object().into_iter().flat_map(|switches| switches.keys().cloned());
    names.chain([CONTAINER_GSO.to_owned()]).collect()
}

/// A field by its path, `overlay.mtu`; or by its bare name, wherever it is on the first two levels.
fn find<'a>(json: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let pointer = format!("/{}", key.replace('.', "/"));
    if json.pointer(&pointer).is_some() {
        return json.pointer_mut(&pointer);
    }
    json.as_object_mut()?.values_mut().find_map(|part| part.get_mut(key))
}

/// Starts a data plane on each host.
pub(super) fn join(hosts: &[Arc<Host>; 2], variant: &Variant) -> Result<Joined, String> {
    let [a, b] = hosts;
    let state_a = variant.apply(&desired_state(0, vec![peer(1, b.ipv4())]))?;
    let state_b = variant.apply(&desired_state(1, vec![peer(0, a.ipv4())]))?;
    let program = variant.program.clone().unwrap_or_else(weaved_path);
    let dataplanes =
        vec![Dataplane::start_program(a, &state_a, &program)?, Dataplane::start_program(b, &state_b, &program)?];
    let addresses = [0, 1].map(|number| std::net::Ipv4Addr::new(10, 32, number, 1).into());
    // Guests follow the overlay only when the variant has an MTU of its own.
    let mtu = if state_a.overlay.mtu == DOCKER_MTU { DOCKER_MTU } else { state_a.overlay.mtu };
    let max_gso_len = (!variant.leaves_guests_alone).then_some(MAX_WHOLE_FRAME_LEN);
    Ok(Joined { addresses, layer: Layer::Ethernet { mtu, max_gso_len }, running: Running::Weaved(dataplanes) })
}

/// A running data plane. It is killed when dropped.
pub(crate) struct Dataplane {
    host: Arc<Host>,
    program: PathBuf,
    state_file: PathBuf,
    process: Option<Process>,
}

/// The identity of host number `number`. These keys protect nothing but a bench.
pub(crate) fn identity(number: u8) -> SecretKey {
    SecretKey([number; 32])
}

/// A peer at the usual port of `address`.
pub(crate) fn peer(number: u8, address: IpAddr) -> PeerConfig {
    peer_at(peer_id_of(&identity(number)), SocketAddr::new(address, PORT))
}

/// A peer with this id.
pub(crate) fn peer_at(id: PeerId, endpoint: SocketAddr) -> PeerConfig {
    PeerConfig { id, name: String::new(), endpoints: vec![endpoint] }
}

/// What host number `number` is to do: its containers are in 10.32.`number`.0/24.
pub(crate) fn desired_state(number: u8, peers: Vec<PeerConfig>) -> DesiredState {
    let gateway = format!("10.32.{number}.1/12").parse().expect("an address with a prefix length");
    DesiredState {
        generation: Generation(1),
        identity: identity(number),
        cluster_secret: ClusterSecret([0x77; 32]),
        listen_port: PORT,
        overlay: Overlay { bridge: "weave".into(), tap: "weave-tap".into(), mtu: DOCKER_MTU, gateway: Some(gateway) },
        peers,
        targets: Vec::new(),
        neighbours: Vec::new(),
        quarantined: Vec::new(),
        offload: OffloadSwitches::default(),
        cipher: CipherChoice::Auto,
        workers: WorkerCount::Auto,
        source_ports: SourcePorts::default(),
        bridge_rules: None,
    }
}

impl Dataplane {
    /// Starts the program under test and waits until its bridge is there.
    pub(crate) fn start(host: &Arc<Host>, desired: &DesiredState) -> Result<Self, String> {
        Self::start_program(host, desired, &weaved_path())
    }

    fn start_program(host: &Arc<Host>, desired: &DesiredState, program: &PathBuf) -> Result<Self, String> {
        // A build that runs meanwhile does not change what is measured.
        let own = host.dir().join("weaved-measured");
        let copied = fs::hard_link(program, &own).or_else(|_| fs::copy(program, &own).map(|_| ()));
        copied.map_err(|error| format!("cannot copy {}: {error}", program.display()))?;
        let state_file = host.dir().join("desired.json");
        write_private(&state_file, &serde_json::to_vec(desired).expect("a desired state is JSON"))?;
        let mut dataplane = Self { host: host.clone(), program: own, state_file, process: None };
        dataplane.start_again();
        let mut ended = false;
        wait_until("the data plane has made its bridge or has ended", SOON, || {
            ended = !dataplane.process.as_mut().is_some_and(Process::is_running);
            ended || host.interfaces().contains(&desired.overlay.bridge)
        });
        if !ended {
            return Ok(dataplane);
        }
        let output = dataplane.kill().map(|output| output.stderr).unwrap_or_default();
        Err(format!("the data plane has ended by itself: {}", output.lines().last().unwrap_or("it said nothing")))
    }

    /// Starts it again after [`Self::kill`]. Does not wait for anything.
    pub(crate) fn start_again(&mut self) {
        let dir = self.host.dir();
        let (state, run) = (dir.join("state"), dir.join("run"));
        let variables = [format!("WEAVED_STATE_DIR={}", state.display()), format!("WEAVED_RUN_DIR={}", run.display())];
        let [program, file] = [&self.program, &self.state_file].map(|path| path.display().to_string());
        let command = ["env", &variables[0], &variables[1], &program, "dataplane", "--desired-state", &file];
        self.process = Some(self.host.spawn(&command));
    }

    /// `kill -9`. Returns when it is gone.
    pub(crate) fn kill(&mut self) -> Option<Output> {
        self.process.take().map(Process::kill)
    }

    /// Its process id.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().map_or_else(|| panic!("the data plane was killed"), Process::pid)
    }
}

/// The file holds keys.
fn write_private(path: &PathBuf, bytes: &[u8]) -> Result<(), String> {
    let file = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use weaved_api::Switch;

    use super::*;

    fn applied(settings: &str) -> DesiredState {
        Variant::parse(settings).unwrap().apply(&desired_state(3, Vec::new())).unwrap()
    }

    #[test]
    fn settings_are_found_by_name_and_by_path() {
        let desired = applied("udp_gso=off+overlay.mtu=9000");
        assert_eq!(desired.offload.udp_gso, Switch::Off);
        assert_eq!(desired.offload.udp_gro, Switch::Auto);
        assert_eq!(desired.overlay.mtu, 9000);
        assert_eq!(applied(""), desired_state(3, Vec::new()));
    }

    #[test]
    fn impossible_settings_are_refused_with_what_is_possible() {
        let refused = |text| Variant::parse(text).unwrap_err();
        assert!(refused("warp=on").contains("udp_gso"), "{}", refused("warp=on"));
        assert!(refused("udp_gso=perhaps").contains("perhaps"));
        assert!(refused("container_gso=maybe").contains("maybe"));
        assert!(refused("udp_gso").contains("KEY=VALUE"));
        assert!(refused("program=/no/such/file").contains("/no/such/file"));
    }
}
