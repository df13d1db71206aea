//! Each part may die without the others: what goes on, what comes back by itself, what is left behind.

use std::{collections::BTreeSet, fs, sync::Arc};

use weaved_netns_tests::{Guest, Host, Lab, Output, Part, Place, SOON, traffic, traffic::Flood, wait_until};

/// Two hosts with a guest each, connected.
struct Pair {
    a: Arc<Host>,
    from: Guest,
    to: Guest,
    // Last, so that it is dropped when the hosts are no longer used.
    _lab: Lab,
}

impl Pair {
    fn launch(name: &str) -> Option<Self> {
        let mut lab = Lab::open(name)?;
        let (a, b) = (lab.host("a"), lab.host("b"));
        lab.launch_cluster(&[&a, &b]);
        let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
        traffic::wait_for_ping(&from, to.address());
        Some(Self { a, from, to, _lab: lab })
    }

    fn flood(&self) -> Flood {
        Flood::start(&self.from, &self.to, &self.to.address().to_string())
    }
}

#[test]
fn no_frame_is_lost_when_control_is_killed() {
    let Some(pair) = Pair::launch("control") else { return };
    let flood = pair.flood();
    for _ in 0..3 {
        let old = pair.a.weaved().kill9(Part::Control);
        pair.a.weaved().wait_for_restart(Part::Control, old);
        wait_until("status answers again", SOON, || pair.a.weaved().status().is_some());
    }
    flood.wait_until_flowing();
    let report = flood.finish();
    assert_eq!((report.lost(), report.repeated), (0, 0), "{report:?}");
    pair.a.weaved().wait_for_peers(1);
    pair.a.weaved().wait_for_no_problem();
}

#[test]
fn traffic_returns_by_itself_when_the_data_plane_is_killed() {
    let Some(pair) = Pair::launch("dataplane") else { return };
    let (index, slice) = (pair.a.interface_index("weave"), pair.a.weaved().slice());
    let flood = pair.flood();
    let old = pair.a.weaved().kill9(Part::Dataplane);
    pair.a.weaved().wait_for_restart(Part::Dataplane, old);
    flood.wait_until_flowing();
    let report = flood.finish();
    println!(
        "measured: data plane killed: longest gap {:?}, {} of {} lost",
        report.longest_gap,
        report.lost(),
        report.settled
    );
    assert_eq!(pair.a.interface_index("weave"), index, "the bridge is the same");
    assert_eq!(pair.a.weaved().slice(), slice);
    let ports = pair.a.run(&["ip", "-o", "link", "show", "master", "weave"]).ok().stdout;
    assert!(ports.contains("g-a1"), "the guest is still on it: {ports}");
    traffic::check_tcp(&pair.to, &pair.from, &pair.from.address().to_string(), 4 << 20);
}

#[test]
fn parts_go_on_when_the_supervisor_is_killed_and_the_next_launch_takes_over() {
    let Some(pair) = Pair::launch("supervisor") else { return };
    let weaved = pair.a.weaved();
    let flood = pair.flood();
    weaved.kill9(Part::Supervisor);
    flood.wait_until_flowing();
    wait_until("status answers", SOON, || weaved.status().is_some());
    weaved.wait_for_problem(&["supervisor has ended", "weaved launch"]);
    assert!(weaved.run(&["upgrade"]).refused(1).contains("weaved launch"));
    let report = flood.report();
    assert_eq!(report.lost(), 0, "before the launch: {report:?}");
    let slice = weaved.slice();
    weaved.launch(&[]);
    flood.wait_until_flowing();
    println!("measured: launch after a killed supervisor: {:?}", flood.finish());
    assert_eq!(weaved.slice(), slice);
    wait_until("the problem is gone", SOON, || weaved.problems().is_empty());
    let pids: BTreeSet<i32> = Part::ALL.iter().map(|part| weaved.pid(*part).unwrap()).collect();
    wait_until("one process of each part is left", SOON, || {
        weaved.processes().into_iter().collect::<BTreeSet<_>>() == pids
    });
    let old = weaved.kill9(Part::Control);
    weaved.wait_for_restart(Part::Control, old);
}

/// As in a container, whose processes belong to a session that was begun outside of it.
#[test]
fn a_supervisor_whose_session_has_no_leader_in_its_pid_namespace_runs_and_can_be_upgraded() {
    let Some(mut lab) = Lab::open("outside") else { return };
    let host = lab.host("a");
    // All that runs in the namespace ends with the shell.
    let script = r#""$0" launch --no-docker && "$0" upgrade && "$0" status"#;
    let before = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script];
    Output::of(host.weaved().command(&before, &[])).ok();
}

#[test]
fn everything_killed_at_once_comes_back_with_a_launch() {
    let Some(pair) = Pair::launch("all") else { return };
    let weaved = pair.a.weaved();
    let slice = weaved.slice();
    for part in Part::ALL {
        weaved.kill9(part);
    }
    wait_until("nothing runs", SOON, || weaved.processes().is_empty());
    assert_eq!(weaved.run(&["status"]).code, Some(3));
    weaved.launch(&[]);
    assert_eq!(weaved.slice(), slice);
    traffic::wait_for_ping(&pair.from, pair.to.address());
}

#[test]
fn a_host_that_lost_its_devices_as_in_a_reboot_is_restored_by_a_launch() {
    let Some(mut lab) = Lab::open("reboot") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    lab.launch_cluster(&[&a, &b]);
    let slice = a.weaved().slice();
    for part in Part::ALL {
        a.weaved().kill9(part);
    }
    for device in a.interfaces().iter().filter(|name| name.starts_with("weave")) {
        a.ip(&["link", "del", device]);
    }
    fs::remove_dir_all(a.weaved().run_dir()).unwrap();
    a.weaved().launch(&[]);
    assert_eq!(a.weaved().slice(), slice);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
}

#[test]
fn containers_of_a_host_talk_on_after_stop_and_the_launch_goes_on_where_it_was() {
    let Some(pair) = Pair::launch("stop") else { return };
    let neighbour = pair.a.overlay_guest(3, 1500);
    let (index, slice) = (pair.a.interface_index("weave"), pair.a.weaved().slice());
    traffic::wait_for_ping(&pair.from, neighbour.address());
    let flood = Flood::start(&pair.from, &neighbour, &neighbour.address().to_string());
    pair.a.weaved().run(&["stop"]).ok();
    flood.wait_until_flowing();
    let report = flood.finish();
    assert_eq!(report.lost(), 0, "{report:?}");
    assert_eq!(pair.a.weaved().processes(), Vec::<i32>::new());
    assert!(!traffic::can_ping(&pair.from, pair.to.address()), "the overlay works without weaved");
    pair.a.weaved().run(&["stop"]).ok();

    pair.a.weaved().launch(&[]);
    assert_eq!((pair.a.interface_index("weave"), pair.a.weaved().slice()), (index, slice));
    traffic::wait_for_ping(&pair.from, pair.to.address());
}

#[test]
fn a_host_that_is_stopped_is_away_for_the_others_until_it_is_launched_again() {
    let Some(mut lab) = Lab::open("goodbye") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    lab.launch_cluster(&[&a, &b]);
    b.weaved().run(&["stop"]).ok();
    let seen = |list: &str, field: &str| {
        let status = a.weaved().status().unwrap_or_default();
        status.pointer(list).and_then(|entries| entries[0][field].as_str().map(str::to_owned)).unwrap_or_default()
    };
    // Not a word of silence: the reason is the good-bye, which comes long before any timeout.
    wait_until("a has heard it", SOON, || seen("/dataplane/stats/peers", "ended") == "PeerSaidGoodbye");
    wait_until("b is away", SOON, || seen("/cluster/members", "state") == "away");
    let shown = a.weaved().run(&["status", "connections"]).ok().stdout;
    assert!(shown.contains("away, said good-bye"), "{shown}");
    assert_eq!(a.weaved().log().matches("is away: weaved was stopped there").count(), 1);
    assert!(!a.weaved().log().contains("is down"), "it was never taken for dead");

    b.weaved().launch(&[]);
    wait_until("b is up again", SOON, || seen("/cluster/members", "state") == "up");
    assert_eq!(seen("/dataplane/stats/peers", "ended"), "");
}

#[test]
fn a_host_that_is_stopped_right_after_it_met_another_remembers_it() {
    let Some(mut lab) = Lab::open("remember") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.weaved().launch(&[]);
    b.weaved().join(a.weaved(), a.ipv4());
    a.weaved().wait_for_peers(1);
    a.weaved().run(&["stop"]).ok();
    let stored = fs::read_to_string(a.weaved().state_dir().join("node.json")).unwrap();
    assert!(stored.contains(&format!("{}:6783", b.ipv4())), "{stored}");
}

#[test]
fn reset_leaves_no_interface_route_rule_file_or_process() {
    let Some(mut lab) = Lab::open("reset") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let before = traces(&a);
    lab.launch_cluster(&[&a, &b]);
    assert_ne!(traces(&a), before, "a launch is to be seen");
    a.weaved().run(&["reset"]).ok();
    assert_eq!(traces(&a), before);
    assert_eq!(a.weaved().processes(), Vec::<i32>::new());
    for dir in [a.weaved().state_dir(), a.weaved().run_dir()] {
        assert!(!dir.exists(), "{} is left", dir.display());
    }
    wait_until("the other host knows", SOON, || b.weaved().connected_peers().is_empty());
    a.weaved().run(&["reset"]).ok();

    a.weaved().join(b.weaved(), b.ipv4());
    assert_ne!(a.weaved().slice(), b.weaved().slice());
    assert!(!lab.processes().is_empty());
}

#[test]
fn a_host_that_was_stopped_does_not_leave_unheard_unless_it_is_forced_to() {
    let Some(mut lab) = Lab::open("unheard") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    lab.launch_cluster(&[&a, &b]);
    b.weaved().run(&["stop"]).ok();
    let said = b.weaved().run(&["reset"]).refused(1);
    assert!(said.contains("nobody hears that this host leaves"), "{said}");
    b.weaved().launch(&[]);
    a.weaved().wait_for_peers(1);
    b.weaved().run(&["stop"]).ok();
    let forced = b.weaved().run(&["reset", "--force"]).ok();
    assert!(forced.stderr.contains("stays a voter") && !b.weaved().state_dir().exists(), "{forced}");
}

/// All that the kernel shows of a host's network configuration.
fn traces(host: &Host) -> Vec<String> {
    let commands: [&[&str]; 7] = [
        &["ip", "-o", "link"],
        &["ip", "route", "show", "table", "all"],
        &["ip", "-6", "route", "show", "table", "main"],
        &["ip", "rule"],
        &["iptables-save"],
        &["nft", "list", "ruleset"],
        &["ss", "-lnup"],
    ];
    let lines = commands.iter().flat_map(|command| {
        let text = host.run(command).ok().stdout;
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    });
    lines.collect()
}
