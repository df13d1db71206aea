//! The two overlays that are compared, each with a guest at both ends and a server waiting in one of them.

use std::time::Duration;

use weaved_netns_tests::{Guest, Lab, Place, Process, traffic};

use super::dataplane::{self, Dataplane};

/// Docker's default, which weaved takes as it is.
const DOCKER_MTU: u16 = 1500;
/// What VXLAN leaves of an underlay of 1,500 bytes.
const VXLAN_MTU: u16 = 1450;

/// How long iperf3 may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// One overlay.
pub(super) struct Side {
    /// What results call it.
    pub(super) name: &'static str,
    /// Where measurements start.
    pub(super) from: Guest,
    /// Where they go.
    pub(super) to: Guest,
    _server: Process,
}

/// Both overlays.
pub(super) struct Sides {
    vxlan: Side,
    weaved: Side,
    /// The data planes below `weaved.from` and `weaved.to`.
    pub(super) dataplanes: [Dataplane; 2],
}

impl Sides {
    /// Sets both up and waits until packets pass.
    #[track_caller]
    pub(super) fn start(lab: &mut Lab) -> Self {
        let vxlan_hosts = [lab.host("va"), lab.host("vb")];
        lab.plain_vxlan(&vxlan_hosts.each_ref().map(|host| &**host), 1500);
        let vxlan = vxlan_hosts.each_ref().map(|host| (host, VXLAN_MTU));

        let [a, b] = [lab.host("wa"), lab.host("wb")];
        let state_a = dataplane::desired_state(0, vec![dataplane::peer(1, b.ipv4())]);
        let state_b = dataplane::desired_state(1, vec![dataplane::peer(0, a.ipv4())]);
        let dataplanes = [Dataplane::start(&a, &state_a), Dataplane::start(&b, &state_b)];
        let weaved = [(&a, DOCKER_MTU), (&b, DOCKER_MTU)];

        let [vxlan, weaved] = [("vxlan", vxlan), ("weaved", weaved)].map(|(name, [from, to])| {
            let from = from.0.guest("10.32.0.2/12", from.1);
            let to = to.0.guest("10.32.1.2/12", to.1);
            Side::start(name, from, to)
        });
        Self { vxlan, weaved, dataplanes }
    }

    /// The order of the turns in a pair.
    pub(super) fn both(&self) -> [&Side; 2] {
        [&self.vxlan, &self.weaved]
    }

    /// The side under test.
    pub(super) fn weaved(&self) -> &Side {
        &self.weaved
    }
}

impl Side {
    #[track_caller]
    fn start(name: &'static str, from: Guest, to: Guest) -> Self {
        traffic::wait_for_ping(&from, to.address());
        let mut server = to.spawn(&["iperf3", "--server", "--forceflush"]);
        server.wait_for_text("Server listening", START_DEADLINE);
        Self { name, from, to, _server: server }
    }
}
