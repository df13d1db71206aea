//! What goes wrong outside of us: each gives one clear line that says what to do, or a counted drop, and loses nothing
//! that was there.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use weaved_netns_tests::{Capture, Guest, Host, Lab, Output, Part, Place, SOON, traffic, traffic::Flood, wait_until};

/// A host on which `launch` is going to be refused.
fn lonely(name: &str) -> Option<(Lab, Arc<Host>)> {
    let mut lab = Lab::open(name)?;
    let host = lab.host("a");
    Some((lab, host))
}

/// Two connected hosts with a guest each, and a third that runs nothing.
fn pair(name: &str) -> Option<(Lab, [Arc<Host>; 3], [Guest; 2])> {
    let mut lab = Lab::open(name)?;
    let hosts = [lab.host("a"), lab.host("b"), lab.host("c")];
    lab.launch_cluster(&[&hosts[0], &hosts[1]]);
    let guests = [hosts[0].overlay_guest(2, 1500), hosts[1].overlay_guest(2, 1500)];
    traffic::wait_for_ping(&guests[0], guests[1].address());
    Some((lab, hosts, guests))
}

/// The launch is refused in one line with these words, and leaves neither process nor state.
#[track_caller]
fn assert_refused(host: &Host, args: &[&str], words: &[&str]) {
    let said = host.weaved().run(&[&["launch"], args].concat()).refused(1);
    assert_words(&said, words);
    assert_eq!(host.weaved().processes(), Vec::<i32>::new());
    assert!(!host.weaved().state_dir().join("settings.json").exists(), "a refused launch is remembered");
}

#[track_caller]
fn assert_words(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "`{word}` is missing in: {line}");
    }
}

#[test]
fn garbage_at_the_port_is_counted_and_traffic_goes_on() {
    let Some((_lab, [a, _b, stranger], [from, to])) = pair("garbage") else { return };
    let pid = a.weaved().pid(Part::Dataplane);
    let flood = Flood::start(&from, &to, &to.address().to_string());
    let dropped = || {
        ["drop_datagram_malformed", "drop_unknown_session", "drop_other_version", "drop_handshake_invalid"]
            .map(|name| a.weaved().counter(name))
            .iter()
            .sum::<u64>()
    };
    let before = dropped();
    let target = a.ipv4().to_string();
    for seed in ["1", "2", "3"] {
        stranger.run_labtool(SOON, &["garbage", &target, "6783", "700", seed]).ok();
    }
    // Each message type, cut off at each length, and the same with nothing but ones behind it.
    let mut datagrams = vec!["ab".repeat(20_000)];
    for kind in 0..16 {
        for len in [1, 2, 3, 4, 8, 15, 16, 17, 31, 32, 33, 48, 64] {
            datagrams.extend(["00", "01", "ff"].map(|filler| format!("{kind:02x}{}", filler.repeat(len - 1))));
        }
    }
    let datagrams: Vec<&str> = datagrams.iter().map(String::as_str).collect();
    stranger.run_labtool(SOON, &[&["datagram", &target, "6783"], datagrams.as_slice()].concat()).ok();
    wait_until("most of it is counted", SOON, || dropped() > before + 1500);
    flood.wait_until_flowing();
    let report = flood.finish();
    assert_eq!((report.lost(), report.repeated), (0, 0), "{report:?}");
    assert_eq!(a.weaved().pid(Part::Dataplane), pid, "the data plane was restarted");
    assert_eq!(a.weaved().connected_peers().len(), 1);
}

/// A frame from a guest: destination, source, and the rest.
fn frame(guest: &Guest, rest: &str) -> String {
    format!("ffffffffffff{}{rest}", hex(&guest.mac()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[test]
fn short_tagged_and_odd_frames_of_a_container_harm_nobody() {
    let Some((_lab, [a, b, _], [from, to])) = pair("frames") else { return };
    let pids = [&a, &b].map(|host| host.weaved().pid(Part::Dataplane));
    let flood = Flood::start(&from, &to, &to.address().to_string());
    let rests = [
        "0800".to_owned(),
        "08004500".to_owned(),
        "080045000014".to_owned(),
        "0806".to_owned(),
        "08060001080006040001".to_owned(),
        "86dd60000000".to_owned(),
        "8100".to_owned(),
        "81000005".to_owned(),
        "810000050800".to_owned(),
        "88a8000581000005".to_owned(),
        "0000".to_owned(),
        "ffff".to_owned(),
        format!("0800{}", "ff".repeat(1400)),
        format!("86dd{}", "00".repeat(1400)),
        format!("81000005{}", "55".repeat(1498)),
    ];
    for rest in &rests {
        from.run_labtool(SOON, &["frame", "eth0", &frame(&from, rest)]).ok();
    }
    // A source that is a group address, which no sender has.
    from.run_labtool(SOON, &["frame", "eth0", &format!("ffffffffffff010000000001{}", "0800".repeat(20))]).ok();
    flood.wait_until_flowing();
    let report = flood.finish();
    assert_eq!((report.lost(), report.repeated), (0, 0), "{report:?}");
    assert_eq!([&a, &b].map(|host| host.weaved().pid(Part::Dataplane)), pids, "a data plane was restarted");
}

#[test]
fn tagged_frames_pass_like_any_other() {
    let Some((lab, _hosts, [from, to])) = pair("vlan") else { return };
    let path = lab.dir().join("tagged.pcap");
    let capture = to.capture(&path);
    // 802.1Q with an unknown type behind it, and 802.1ad with an 802.1Q tag in it; up to the size that a tag allows.
    for (tag, len) in [("8100000588b5", 64), ("88a800068100000588b5", 64), ("8100000588b5", 1500)] {
        let text = format!("tagged-{tag}-{len}");
        let payload = hex(format!("{text:-<len$}").as_bytes());
        let frame = format!("{}{}{tag}{payload}", hex(&to.mac()), hex(&from.mac()));
        from.run_labtool(SOON, &["frame", "eth0", &frame]).ok();
        wait_until(&format!("{text} has arrived"), SOON, || {
            let file = fs::read(&path).unwrap_or_default();
            file.windows(text.len()).any(|window| window == text.as_bytes())
        });
    }
    let arrived = Capture::count_with(&capture.finish(), b"tagged-");
    assert_eq!(arrived, 3, "each comes once");
}

#[test]
fn jumbo_frames_pass_whole() {
    let Some((_lab, [a, b, _], _)) = pair("jumbo") else { return };
    let (from, to) = (a.overlay_guest(9, 9000), b.overlay_guest(9, 9000));
    traffic::wait_for_ping(&from, to.address());
    let address = to.address().to_string();
    from.run(&["ping", "-M", "do", "-c", "1", "-W", "2", "-s", "8972", &address]).ok();
    traffic::check_udp_sizes(&from, &to, &address, 20_000);
}

#[test]
fn a_bridge_that_is_not_ours_is_left_as_it_is() {
    let Some((_lab, host)) = lonely("bridge") else { return };
    host.ip(&["link", "add", "weave", "type", "bridge"]);
    host.ip(&["addr", "add", "172.30.0.1/24", "dev", "weave"]);
    let index = host.interface_index("weave");
    assert_refused(&host, &[], &["weave", "not made by weaved", "ip link delete weave"]);
    assert_eq!(host.interface_index("weave"), index);
    assert!(host.ip(&["addr", "show", "dev", "weave"]).stdout.contains("172.30.0.1/24"));
    host.ip(&["link", "delete", "weave"]);
    host.weaved().launch(&[]);
}

#[test]
fn a_device_with_the_name_of_our_tap_is_left_as_it_is() {
    let Some((_lab, host)) = lonely("tap") else { return };
    host.weaved().launch(&[]);
    let tap = host.interfaces().into_iter().find(|name| name.starts_with("weave-")).unwrap();
    host.weaved().run(&["reset"]).ok();
    host.ip(&["link", "add", &tap, "type", "bridge"]);
    let index = host.interface_index(&tap);
    assert_refused(&host, &[], &[&tap]);
    assert_eq!(host.interface_index(&tap), index);
    assert!(!host.interfaces().contains(&"weave".to_owned()), "a refused launch leaves its bridge");
}

#[test]
fn a_port_in_use_is_named() {
    let Some((_lab, host)) = lonely("port") else { return };
    let _holder = traffic::serve(&*host, &["udp-echo", "6783"]);
    assert_refused(&host, &[], &["6783", "in use", "--port"]);
    host.weaved().launch(&["--port", "7000"]);
}

#[test]
fn a_range_that_hides_a_route_of_the_host_is_refused() {
    let Some((_lab, host)) = lonely("range") else { return };
    host.ip(&["route", "add", "10.40.0.0/16", "via", "192.168.77.1"]);
    assert_refused(&host, &[], &["10.32.0.0/12", "10.40.0.0/16", "--range"]);
    assert_refused(&host, &["--range", "192.168.0.0/16"], &["192.168.77.0/24", "eth0"]);
    assert!(host.ip(&["route"]).stdout.contains("10.40.0.0/16"));
    host.weaved().launch(&["--range", "10.128.0.0/12"]);
}

#[test]
fn somebody_who_is_not_root_is_told_so() {
    let Some((_lab, host)) = lonely("user") else { return };
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let output = Output::of(host.weaved().command(&nobody, &["launch"]));
    assert_words(&output.refused(1), &["CAP_NET_ADMIN", "sudo"]);
    assert!(!host.weaved().state_dir().exists());
}

#[test]
fn a_machine_without_tun_is_told_what_to_do() {
    let Some((_lab, host)) = lonely("tun") else { return };
    let hidden = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"];
    let output = Output::of(host.weaved().command(&hidden, &["launch"]));
    assert_words(&output.refused(1), &["/dev/net/tun", "modprobe tun", "--device"]);
    assert!(!host.weaved().state_dir().exists());
}

/// Makes a directory a file system of its own with little room.
fn mount_small(dir: &Path, size: &str) {
    fs::create_dir_all(dir).expect("the lab's directory can be written");
    let target = dir.display().to_string();
    let mount =
        |args: &[&str]| std::process::Command::new("mount").args(args).status().is_ok_and(|status| status.success());
    let size = format!("size={size}");
    assert!(mount(&["-t", "tmpfs", "-o", &size, "none", &target]), "cannot mount on {target}");
}

fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("filler");
    let mut file = fs::File::create(&path).expect("the lab's directory can be written");
    while std::io::Write::write_all(&mut file, &[0; 512]).is_ok() {}
    path
}

#[test]
fn a_full_disk_refuses_a_first_launch_and_the_next_one_works() {
    let Some((_lab, host)) = lonely("full") else { return };
    mount_small(&host.weaved().state_dir(), "256k");
    let filler = fill(&host.weaved().state_dir());
    assert_refused(&host, &[], &["cannot write", "space"]);
    fs::remove_file(filler).unwrap();
    host.weaved().launch(&[]);
}

#[test]
fn a_disk_that_fills_up_later_stops_no_traffic_and_damages_no_state() {
    let Some(mut lab) = Lab::open("fills") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    mount_small(&a.weaved().state_dir(), "256k");
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    let flood = Flood::start(&from, &to, &to.address().to_string());
    let (slice, filler) = (a.weaved().slice(), fill(&a.weaved().state_dir()));
    let output = a.weaved().run(&["connect", "--wait", "0", "192.168.77.99"]);
    assert!(output.code == Some(1) || !a.weaved().problems().is_empty(), "nobody hears of the full disk\n{output}");
    flood.wait_until_flowing();
    assert_eq!(flood.finish().lost(), 0);
    a.weaved().run(&["stop"]).ok();
    fs::remove_file(filler).unwrap();
    a.weaved().launch(&[]);
    assert_eq!(a.weaved().slice(), slice);
    traffic::wait_for_ping(&from, to.address());
}

#[test]
fn keys_that_a_full_disk_has_refused_are_taken_when_it_has_room_without_a_restart() {
    let Some((_lab, host)) = lonely("keysfull") else { return };
    let weaved = host.weaved();
    mount_small(&weaved.state_dir(), "3m");
    weaved.launch(&[]);
    let filler = fill(&weaved.state_dir());
    let long = "x".repeat(100_000);
    // The file has some room of its own.
    let refused = (0..100).map(|n| weaved.run(&["kv", "put", &format!("long/{n}"), &long])).find(|put| !put.success());
    assert_words(&refused.expect("the disk is full").refused(1), &["kv.redb", "space"]);
    weaved.wait_for_problem(&["keys cannot be changed", "kv.redb", "free space"]);
    fs::remove_file(filler).unwrap();
    wait_until("keys can be changed again", SOON, || weaved.run(&["kv", "put", "after", "1"]).success());
    assert_eq!(weaved.problems(), Vec::<String>::new());
    let old = weaved.kill9(Part::Control);
    weaved.wait_for_restart(Part::Control, old);
    wait_until("it was stored", SOON, || weaved.run(&["kv", "get", "after"]).stdout.contains('1'));
}

#[test]
fn a_second_launch_is_refused_and_disturbs_nothing() {
    let Some((_lab, host)) = lonely("second") else { return };
    host.weaved().launch(&[]);
    let pids = || Part::ALL.map(|part| host.weaved().pid(part));
    let before = pids();
    assert_words(&host.weaved().run(&["launch"]).refused(1), &["already running", "weaved status"]);
    assert_eq!(pids(), before);
    assert!(host.weaved().status().is_some());
}

#[test]
fn a_peer_whose_name_does_not_resolve_is_refused_and_not_remembered() {
    let Some((_lab, host)) = lonely("name") else { return };
    host.weaved().launch(&[]);
    let said = host.weaved().run(&["connect", "no-such-host.invalid"]).refused(1);
    assert_words(&said, &["no-such-host.invalid", "nothing was changed"]);
    let targets = host.weaved().run(&["status", "targets"]).ok().stdout;
    assert!(!targets.contains("no-such-host"), "{targets}");
}

#[test]
fn a_peer_that_does_not_answer_is_reported_until_it_does() {
    let Some(mut lab) = Lab::open("silent") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.weaved().launch(&[]);
    let token = a.weaved().token_file();
    let peer = b.ipv4().to_string();
    let output = a.weaved().run(&["connect", "--wait", "1", &peer]).ok();
    assert_words(&output.stderr, &[&peer, "does not answer"]);
    a.weaved().wait_for_problem(&[&peer, "no answer"]);
    b.weaved().launch(&["--token-file", &token]);
    a.weaved().wait_for_peers(1);
    a.weaved().wait_for_no_problem();
}

#[test]
fn a_damaged_state_file_is_named_kept_and_no_reason_to_start_anew() {
    let Some((_lab, host)) = lonely("damaged") else { return };
    host.weaved().launch(&[]);
    let slice = host.weaved().slice();
    host.weaved().run(&["stop"]).ok();
    for name in ["identity.json", "secret.json", "settings.json", "wishes.json", "node.json"] {
        let path = host.weaved().state_dir().join(name);
        let whole = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for damaged in [whole[..whole.len() / 2].to_vec(), Vec::new(), flipped(&whole), vec![0; 4096]] {
            fs::write(&path, &damaged).unwrap();
            assert_words(&host.weaved().run(&["launch"]).refused(1), &[name, "damaged"]);
            assert_eq!(fs::read(&path).unwrap(), damaged, "{name} was changed");
            assert_eq!(host.weaved().processes(), Vec::<i32>::new());
        }
        fs::write(&path, &whole).unwrap();
    }
    host.weaved().launch(&[]);
    assert_eq!(host.weaved().slice(), slice);
}

fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() * 3 / 4;
    bytes[middle] ^= 1;
    bytes
}

#[test]
fn wrong_usage_missing_daemon_and_bad_tokens_have_their_exit_codes() {
    let Some((lab, host)) = lonely("usage") else { return };
    let weaved = host.weaved();
    assert_words(&weaved.run(&["launch", "--port", "many"]).refused(2), &["--port"]);
    assert_words(&weaved.run(&["lunch"]).refused(2), &["lunch"]);
    for verb in [["status"].as_slice(), &["ps"], &["connect", "192.168.77.11"], &["docker-config", "--flags"]] {
        assert_words(&weaved.run(verb).refused(3), &["weaved launch"]);
    }
    assert_words(&weaved.run(&["launch", "192.168.77.11"]).refused(1), &["weaved token", "--token-file"]);
    let token = lab.file("token", "swordfish-is-no-token");
    let said = weaved.run(&["launch", "--token-file", &token]).refused(1);
    assert_words(&said, &["not a join token"]);
    assert!(!said.contains("swordfish"), "a secret is shown: {said}");
    assert_words(&weaved.run(&["launch", "--token-file", "/no/such/file"]).refused(1), &["/no/such/file"]);
    assert!(!weaved.state_dir().join("settings.json").exists());
    weaved.run(&["stop"]).ok();
    assert_words(&weaved.run(&["--help"]).ok().stdout, &["launch", "Examples"]);
}
