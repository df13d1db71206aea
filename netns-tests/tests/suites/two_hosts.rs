//! The main job: containers of two Docker hosts on one encrypted network, by the steps that a user takes.

use std::{collections::BTreeSet, fs, io::Write, net::Ipv4Addr, process::Stdio};

use weaved_netns_tests::{Container, Host, Lab, Place, SOON, start_dockers, traffic, wait_until};

#[test]
fn containers_of_two_docker_hosts_exchange_every_kind_of_traffic() {
    let Some(mut lab) = Lab::open("two") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));

    let said = a.weaved().launch(&[]).stdout;
    assert!(said.contains("weaved token") && said.contains("docker-config"), "launch says what to do next: {said}");
    let token = a.weaved().token_file();
    let flags = a.weaved().docker_flags();
    assert!(flags.iter().any(|flag| flag == "--bridge=weave"), "{flags:?}");
    let docker_a = a.start_weave_docker();
    b.weaved().launch(&["--token-file", &token, &a.ipv4().to_string()]);
    let docker_b = b.start_weave_docker();
    let web = docker_b.run_container("web", &[], &["httpd", "-f", "-p", "80", "-h", "/bin"]);
    let other = docker_b.idle_container("other");
    let shell = docker_a.idle_container("shell");

    traffic::check_every_kind(&shell, &web, web.address(), &[&other]);
    traffic::check_every_kind(&web, &shell, shell.address(), &[&other]);
    shell.run(&["wget", "-q", "-O", "/tmp/got", &format!("http://{}/busybox", web.address())]).ok();
    shell.run(&["cmp", "/tmp/got", "/bin/busybox"]).ok();

    the_users_view_is_right(&a, &b, &[&web, &other, &shell]);
}

fn the_users_view_is_right(a: &Host, b: &Host, containers: &[&Container]) {
    let addresses: BTreeSet<_> = containers.iter().map(|container| container.address()).collect();
    assert_eq!(addresses.len(), containers.len(), "addresses are unique: {addresses:?}");
    for host in [a, b] {
        wait_until("`weaved ps` lists the containers of both hosts", SOON, || {
            let table = host.weaved().run(&["ps"]).ok().stdout;
            containers.iter().all(|container| table.contains(&container.address().to_string()))
        });
        let connections = host.weaved().run(&["status", "connections"]).ok().stdout;
        assert!(["AEGIS", "GCM", "ChaCha"].iter().any(|cipher| connections.contains(cipher)), "{connections}");
        assert!(connections.contains("1500"), "the path MTU is shown: {connections}");
        host.weaved().wait_for_no_problem();
    }
    let overview = a.weaved().run(&["status"]).ok().stdout;
    assert!(overview.contains("192.168.77.11"), "{overview}");
    metrics_tell_the_same(a);
}

/// As Prometheus reads it.
fn metrics_tell_the_same(host: &Host) {
    let page = host.run(&["curl", "--silent", "--show-error", "--fail", "http://127.0.0.1:6784/metrics"]).ok().stdout;
    let peer = page.lines().find(|line| line.starts_with("weaved_peer_transmit_bytes_total{peer=\"b\"} "));
    let bytes: u64 = peer.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default();
    assert!(bytes > 100_000, "traffic is counted: {page}");
    for line in [
        "weaved_problems 0.0",
        "weaved_peer_connected{peer=\"b\"} 1.0",
        "weaved_up{process=\"dataplane\"} 1.0",
        "weaved_up{process=\"gateway\"} 1.0",
        "weaved_ipam_ready 1.0",
    ] {
        assert!(page.lines().any(|there| there == line), "{line} is not in\n{page}");
    }
    for process in ["supervisor", "control", "dataplane", "gateway"] {
        assert!(page.contains(&format!("weaved_process_resident_memory_bytes{{process=\"{process}\"}}")), "{page}");
    }
}

#[test]
fn a_container_that_moves_is_found_at_its_new_host() {
    let Some(mut lab) = Lab::open("move") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    lab.launch_cluster(&[&a, &b]);
    let from = a.overlay_guest(2, 1500);
    let address = a.weaved().guest_address(77);
    let before = b.guest(&address, 1500);
    traffic::wait_for_ping(&from, before.address());
    before.ip(&["link", "set", "eth0", "down"]);
    let after = a.guest(&address, 1500);
    // The other guest's neighbour table still has the old address, which a move announces.
    after.run(&["busybox", "arping", "-U", "-c", "1", "-I", "eth0", &after.address().to_string()]);
    traffic::wait_for_ping(&from, after.address());
}

#[test]
fn a_token_from_standard_input_joins() {
    let Some(mut lab) = Lab::open("stdin") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.weaved().launch(&[]);
    let token = fs::read(a.weaved().token_file()).unwrap();
    let mut command = b.weaved().command(&[], &["launch", "--token-file", "-", &a.ipv4().to_string()]);
    let mut launch = command.stdin(Stdio::piped()).spawn().unwrap();
    launch.stdin.take().unwrap().write_all(&token).unwrap();
    assert!(launch.wait().unwrap().success());
    b.weaved().wait_for_peers(1);
    let token = String::from_utf8(token).unwrap();
    for host in [&a, &b] {
        assert!(!host.weaved().log().contains(token.trim()), "the token is in a log");
    }
}

#[test]
fn connect_works_after_the_launch_and_over_ipv6() {
    let Some(mut lab) = Lab::open("connect") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.weaved().launch(&[]);
    b.weaved().launch(&["--token-file", &a.weaved().token_file()]);
    b.weaved().run(&["connect", &a.ipv6().to_string()]).ok();
    b.weaved().wait_for_peers(1);
    let (from, to) = (b.overlay_guest(2, 1500), a.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
    traffic::check_tcp(&from, &to, &to.address().to_string(), 4 << 20);
}

#[test]
fn a_host_with_several_addresses_answers_from_the_one_that_was_asked() {
    let Some(mut lab) = Lab::open("asked") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let second = "192.168.77.200";
    a.ip(&["addr", "add", &format!("{second}/24"), "dev", "eth0"]);
    // As a firewall that lets in only answers to what was asked.
    b.run(&["iptables", "-A", "INPUT", "-p", "udp", "-s", &a.ipv4().to_string(), "-j", "DROP"]).ok();
    a.weaved().launch(&[]);
    b.weaved().launch(&["--token-file", &a.weaved().token_file(), second]);
    b.weaved().wait_for_peers(1);
    let (from, to) = (b.overlay_guest(2, 1500), a.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
    traffic::check_tcp(&to, &from, &from.address().to_string(), 4 << 20);
    assert_eq!(b.weaved().connected_peers()[0]["endpoint"], format!("{second}:6783"));
}

#[test]
fn two_networks_with_one_password_meet_and_keep_addresses_apart() {
    let Some(mut lab) = Lab::open("meet") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    found_with_password(&lab, &[&a, &b], &[]);
    b.weaved().run(&["connect", &a.ipv4().to_string()]).ok();
    b.weaved().wait_for_peers(1);
    wait_until("both have different parts of the range", SOON, || a.weaved().slice() != b.weaved().slice());
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
}

#[test]
fn of_two_networks_with_one_slice_the_younger_one_moves_before_docker_uses_it() {
    let Some(mut lab) = Lab::open("yield") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let shared = found_on_one_slice(&lab, &a, &b);
    let files = [&a, &b].map(|host| lab.file(&format!("{}.json", host.name()), "{}"));
    let installed = |file: &str| -> serde_json::Value { serde_json::from_slice(&fs::read(file).unwrap()).unwrap() };
    a.weaved().run(&["docker-config", "--install", "--daemon-json", &files[0]]).ok();
    for host in [&a, &b] {
        assert_eq!(bridge_addresses(host), gateway(&shared));
    }

    b.weaved().run(&["connect", &a.ipv4().to_string()]).ok();
    b.weaved().wait_for_peers(1);
    wait_until("the younger one has moved", SOON, || b.weaved().slice() != shared);
    let moved = b.weaved().slice();
    wait_until("its bridge has moved with it", SOON, || bridge_addresses(&b) == gateway(&moved));
    assert_eq!((a.weaved().slice(), bridge_addresses(&a)), (shared.clone(), gateway(&shared)), "the older one stays");
    assert!(b.weaved().docker_flags().contains(&format!("--fixed-cidr={moved}")));
    b.weaved().run(&["docker-config", "--install", "--daemon-json", &files[1]]).ok();
    assert_eq!([&files[0], &files[1]].map(|file| installed(file)["fixed-cidr"].clone()), [shared, moved]);
    for host in [&a, &b] {
        host.weaved().wait_for_no_problem();
    }

    let [docker_a, docker_b] = start_dockers([&a, &b]);
    let containers = [&docker_a, &docker_b].map(|docker| ["one", "two"].map(|name| docker.idle_container(name)));
    let [[one_a, two_a], [one_b, two_b]] = &containers;
    let addresses: BTreeSet<_> = [one_a, two_a, one_b, two_b].map(Container::address).into();
    assert_eq!(addresses.len(), 4, "addresses are unique: {addresses:?}");
    traffic::wait_for_ping(one_a, one_b.address());
    traffic::check_tcp(one_b, two_a, &two_a.address().to_string(), 4 << 20);
    traffic::wait_for_ping(two_b, two_a.address());
}

#[test]
fn of_two_networks_with_one_slice_the_older_one_moves_if_docker_uses_it_at_the_younger_one_only() {
    let Some(mut lab) = Lab::open("cede") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let shared = found_on_one_slice(&lab, &a, &b);
    let docker_b = b.start_weave_docker();
    let in_b = docker_b.idle_container("early");
    b.weaved().run(&["connect", &a.ipv4().to_string()]).ok();
    wait_until("the older one has moved", SOON, || a.weaved().slice() != shared);
    wait_until("its bridge has moved with it", SOON, || bridge_addresses(&a) == gateway(&a.weaved().slice()));
    assert_eq!((b.weaved().slice(), bridge_addresses(&b)), (shared.clone(), gateway(&shared)), "the younger one stays");
    for host in [&a, &b] {
        host.weaved().wait_for_no_problem();
    }
    let in_a = a.start_weave_docker().idle_container("late");
    assert_ne!(in_a.address(), in_b.address());
    traffic::wait_for_ping(&in_a, in_b.address());
    traffic::wait_for_ping(&in_b, in_a.address());
}

#[test]
fn two_networks_whose_addresses_docker_uses_on_both_hosts_refuse_to_merge() {
    let Some(mut lab) = Lab::open("refuse") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    found_on_one_slice(&lab, &a, &b);
    let [docker_a, docker_b] = start_dockers([&a, &b]);
    let (in_a, in_b) = (docker_a.idle_container("one"), docker_b.idle_container("one"));
    assert_eq!(in_a.address(), in_b.address());
    b.weaved().run(&["connect", &a.ipv4().to_string()]);
    let problem = |host: &Host| host.weaved().problems().join("\n");
    wait_until("one of them refuses with the reason", SOON, || {
        problem(&a).contains("not merged") || problem(&b).contains("not merged")
    });
    in_a.run(&["true"]).ok();
    in_b.run(&["true"]).ok();
}

#[test]
fn one_list_of_peers_serves_all_hosts_also_those_with_another_port() {
    let Some(mut lab) = Lab::open("list") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let list = [b.ipv4().to_string(), format!("{}:7000", a.ipv4())];
    a.weaved().launch(&["--port", "7000"]);
    b.weaved().launch(&["--token-file", &a.weaved().token_file(), &list[0], &list[1]]);
    // b is called at the usual port, though a has another one.
    let said = a.weaved().run(&["connect", &list[0], &list[1]]).ok();
    assert!(said.stdout.contains("connected to 192.168.77") && said.stdout.contains("is this host itself"), "{said}");
    for host in [&a, &b] {
        wait_until("nobody complains of himself", SOON, || host.weaved().problems().is_empty());
    }
}

/// Makes a network on each host until both have the same slice, which is returned; the one of `a` is the older.
///
/// Of a range with room for two hosts, each founder draws one half: after a few draws both have the same.
fn found_on_one_slice(lab: &Lab, a: &Host, b: &Host) -> String {
    const MAX_DRAWS: u32 = 30;
    let small_range = ["--range", "10.32.0.0/27", "--slice-prefix", "28"];
    found_with_password(lab, &[a, b], &small_range);
    let shared = a.weaved().slice();
    for _ in 0..MAX_DRAWS {
        if b.weaved().slice() == shared {
            return shared;
        }
        b.weaved().run(&["reset"]).ok();
        found_with_password(lab, &[b], &small_range);
    }
    panic!("host b has drawn the same half {MAX_DRAWS} times");
}

/// The IPv4 addresses of the bridge, such as `10.32.0.1/27`.
fn bridge_addresses(host: &Host) -> Vec<String> {
    let listing = host.ip(&["-o", "-4", "addr", "show", "dev", "weave"]).stdout;
    let of_line = |line: &str| line.split_whitespace().skip_while(|word| *word != "inet").nth(1).map(str::to_owned);
    listing.lines().filter_map(of_line).collect()
}

/// The bridge's only address when its host has this slice of the small range.
fn gateway(slice: &str) -> Vec<String> {
    let network = slice.strip_suffix("/28").and_then(|network| network.parse::<Ipv4Addr>().ok());
    let network = network.unwrap_or_else(|| panic!("half of the small range was expected: {slice}"));
    vec![format!("{}/27", Ipv4Addr::from(u32::from(network) + 1))]
}

fn found_with_password(lab: &Lab, hosts: &[&Host], options: &[&str]) {
    let file = lab.file("password", "a password of the operator's\n");
    for host in hosts {
        host.weaved().launch(&[&["--password-file", &file], options].concat());
    }
}

#[test]
fn docker_config_installs_beside_the_operators_settings_and_takes_itself_back() {
    let Some(mut lab) = Lab::open("install") else { return };
    let a = lab.host("a");
    a.weaved().launch(&[]);
    let before = "{\n  \"log-level\": \"warn\"\n}\n";
    let file = lab.file("daemon.json", before);
    a.weaved().run(&["docker-config", "--install", "--daemon-json", &file]).ok();
    let merged: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!((&merged["log-level"], &merged["bridge"]), (&"warn".into(), &"weave".into()));
    assert_eq!(merged["fixed-cidr"], a.weaved().slice());
    a.weaved().run(&["docker-config", "--uninstall"]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
}
