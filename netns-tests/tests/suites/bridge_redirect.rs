//! Known frames that skip the bridge: that they do, that nothing else changes by it, and that no rule is bypassed.

use std::sync::Arc;

use weaved_netns_tests::{Guest, Host, Lab, Part, Place, SOON, traffic, wait_until};

/// Two hosts with a guest each, connected, with the redirect on.
struct Pair {
    a: Arc<Host>,
    b: Arc<Host>,
    from: Guest,
    to: Guest,
    // Last, so that it is dropped when the hosts are no longer used.
    _lab: Lab,
}

impl Pair {
    fn launch(name: &str) -> Option<Self> {
        let mut lab = Lab::open(name)?;
        let (a, b) = (lab.host("a"), lab.host("b"));
        a.weaved().launch(&["--bridge-redirect", "on"]);
        let token = a.weaved().token_file();
        b.weaved().launch(&["--bridge-redirect", "on", "--token-file", &token, &a.ipv4().to_string()]);
        a.weaved().wait_for_peers(1);
        let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
        traffic::wait_for_ping(&from, to.address());
        Some(Self { a, b, from, to, _lab: lab })
    }

    /// Waits until pings skip the bridge of both hosts in both directions.
    #[track_caller]
    fn wait_until_redirected(&self) {
        for host in [&self.a, &self.b] {
            wait_until_redirected(host, &self.from, &self.to);
        }
    }
}

/// What `status` says about it, such as `off: switched off`.
fn state(host: &Host) -> String {
    let status = host.weaved().status().unwrap_or_default();
    let redirect = status.pointer("/dataplane/stats/device/bridge_redirect").cloned().unwrap_or_default();
    let text = |key: &str| redirect[key].as_str().unwrap_or_default().to_owned();
    format!("{}: {}", text("force"), text("reason"))
}

/// Waits until the state begins and ends so.
#[track_caller]
fn wait_for_state(host: &Host, force: &str, words: &str) {
    let what = format!("{} is {force}: …{words}…, it is {}", host.name(), state(host));
    wait_until(&what, SOON, || state(host).starts_with(force) && state(host).contains(words));
}

fn counts(host: &Host) -> [u64; 2] {
    ["redirect_to_container", "redirect_to_tap"].map(|name| host.weaved().counter(name))
}

#[track_caller]
fn wait_until_redirected(host: &Host, from: &Guest, to: &Guest) {
    wait_until("frames skip the bridge", SOON, || {
        let before = counts(host);
        traffic::can_ping(from, to.address());
        counts(host).iter().zip(before).all(|(now, then)| *now > then)
    });
}

#[test]
fn every_kind_of_traffic_passes_and_known_frames_skip_the_bridge() {
    let Some(pair) = Pair::launch("redir") else { return };
    let other = pair.b.overlay_guest(3, 1400);
    pair.wait_until_redirected();
    let before = counts(&pair.b);
    traffic::check_every_kind(&pair.from, &pair.to, pair.to.address(), &[&other]);
    traffic::check_every_kind(&pair.to, &pair.from, pair.from.address(), &[&other]);
    let after = counts(&pair.b);
    assert!(after[0] > before[0] + 100 && after[1] > before[1] + 100, "{before:?} {after:?}");
    assert_eq!(state(&pair.a), "on: local containers: 1");
    assert_eq!(state(&pair.b), "on: local containers: 2");
}

#[test]
fn a_rule_that_would_see_frames_on_the_bridge_turns_it_off_and_works() {
    let Some(pair) = Pair::launch("rules") else { return };
    let (a, from, to) = (&pair.a, &pair.from, pair.to.address());
    pair.wait_until_redirected();

    a.run(&["nft", "add table bridge mine; add chain bridge mine forwarded { type filter hook forward priority 0; }"])
        .ok();
    a.run(&["nft", "add rule bridge mine forwarded ether type ip drop"]).ok();
    wait_for_state(a, "off", "bridge mine forwarded");
    assert!(!traffic::can_ping(from, to), "the rule is bypassed");
    a.run(&["nft", "delete table bridge mine"]).ok();
    wait_for_state(a, "on", "");
    traffic::wait_for_ping(from, to);

    // Rules as Docker makes them let everything pass that is bridged; then the operator adds one.
    a.sysctl("net/bridge/bridge-nf-call-iptables", "1");
    a.run(&["iptables", "-P", "FORWARD", "DROP"]).ok();
    a.run(&["iptables", "-A", "FORWARD", "-i", "weave", "-o", "weave", "-j", "ACCEPT"]).ok();
    a.run(&["iptables", "-I", "FORWARD", "-i", "eth0", "-j", "DROP"]).ok();
    wait_for_state(a, "on", "");
    wait_until_redirected(a, from, &pair.to);
    a.run(&["iptables", "-I", "FORWARD", "-p", "icmp", "-j", "DROP"]).ok();
    wait_for_state(a, "off", "-A FORWARD -p icmp -j DROP");
    assert!(!traffic::can_ping(from, to), "the rule is bypassed");
    a.run(&["iptables", "-D", "FORWARD", "-p", "icmp", "-j", "DROP"]).ok();
    wait_for_state(a, "on", "");
    traffic::wait_for_ping(from, to);
}

#[test]
fn a_port_with_a_shaper_is_left_to_the_bridge_with_the_reason() {
    let Some(pair) = Pair::launch("shaper") else { return };
    pair.wait_until_redirected();
    let port = pair.a.interfaces().into_iter().find(|name| name.starts_with("g-")).unwrap();
    let shaper = ["rate", "10mbit", "burst", "32kb", "latency", "50ms"];
    pair.a.run(&[&["tc", "qdisc", "add", "dev", &port, "root", "tbf"], shaper.as_slice()].concat()).ok();
    wait_for_state(&pair.a, "partly", &port);
    let before = counts(&pair.a);
    traffic::wait_for_ping(&pair.from, pair.to.address());
    assert_eq!(counts(&pair.a), before);
    pair.a.run(&["tc", "qdisc", "del", "dev", &port, "root"]).ok();
    wait_until_redirected(&pair.a, &pair.from, &pair.to);
}

#[test]
fn a_container_that_restarts_or_moves_with_its_address_is_found_at_once() {
    let Some(pair) = Pair::launch("moves") else { return };
    pair.wait_until_redirected();
    let address = pair.to.address();
    let mac = pair.to.mac().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let take_over = |host: &Host, from: &Guest| {
        from.ip(&["link", "del", "eth0"]);
        let guest = host.guest(&format!("{address}/12"), 1500);
        guest.ip(&["link", "set", "eth0", "address", &mac]);
        guest.run(&["busybox", "arping", "-U", "-c", "1", "-I", "eth0", &address.to_string()]);
        guest
    };
    let again = take_over(&pair.b, &pair.to);
    traffic::wait_for_ping(&pair.from, address);
    wait_until_redirected(&pair.b, &pair.from, &again);
    // To the very host of the one that talks to it: nothing leaves for the other host any more.
    let moved = take_over(&pair.a, &again);
    traffic::wait_for_ping(&pair.from, address);
    traffic::check_tcp(&pair.from, &moved, &address.to_string(), 4 << 20);
}

#[test]
fn a_killed_data_plane_leaves_local_traffic_alone_and_comes_back() {
    let Some(pair) = Pair::launch("killed") else { return };
    pair.wait_until_redirected();
    let neighbour = pair.a.overlay_guest(3, 1500);
    let local = traffic::Flood::start(&pair.from, &neighbour, &neighbour.address().to_string());
    let old = pair.a.weaved().kill9(Part::Dataplane);
    pair.a.weaved().wait_for_restart(Part::Dataplane, old);
    traffic::wait_for_ping(&pair.from, pair.to.address());
    local.wait_until_flowing();
    assert_eq!(local.finish().lost(), 0);
    wait_until_redirected(&pair.a, &pair.from, &pair.to);
    // Switched off, the same goes by the bridge.
    pair.a.weaved().run(&["stop"]).ok();
    pair.a.weaved().launch(&["--bridge-redirect", "off"]);
    wait_for_state(&pair.a, "off", "switched off");
    let before = counts(&pair.a);
    traffic::wait_for_ping(&pair.from, pair.to.address());
    assert_eq!(counts(&pair.a), before);
}
