//! Names: containers find each other on any host, for as long as they are there, and whatever part of weaved is away.

use std::{fs, net::IpAddr, path::Path, process::Command, sync::Arc};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weaved_netns_tests::{Container, Dockerd, Host, Lab, Part, Place, SOON, start_dockers, wait_until};

/// Two hosts, each with a dockerd that uses our bridge and our names, and a container: `web` on b, `shell` on a.
struct Pair {
    a: Arc<Host>,
    b: Arc<Host>,
    docker_a: Arc<Dockerd>,
    docker_b: Arc<Dockerd>,
    shell: Container,
    web: Container,
    /// Where containers of host a ask. Known without control.
    server: String,
    // Last, so that it is dropped when the hosts are no longer used.
    _lab: Lab,
}

impl Pair {
    fn launch(name: &str) -> Option<Self> {
        let mut lab = Lab::open(name)?;
        let (a, b) = (lab.host("a"), lab.host("b"));
        lab.launch_cluster(&[&a, &b]);
        let [docker_a, docker_b] = start_dockers([&a, &b]);
        let web = docker_b.run_container("web", &[], &["httpd", "-f", "-p", "80", "-h", "/bin"]);
        let shell = docker_a.idle_container("shell");
        let server = bridge_address(&a).to_string();
        let pair = Self { a, b, docker_a, docker_b, shell, web, server, _lab: lab };
        pair.wait_for_answer("web.weave.local", &[pair.web.address().to_string()]);
        Some(pair)
    }

    /// Until host a's server gives exactly these records.
    #[track_caller]
    fn wait_for_answer(&self, name: &str, records: &[String]) {
        wait_until(&format!("{name} is {records:?}"), SOON, || self.dig(name) == records);
    }

    fn dig(&self, name: &str) -> Vec<String> {
        dig_at(&self.a, &self.server, 53, &[name])
    }
}

/// Address of a host's bridge.
fn bridge_address(host: &Host) -> IpAddr {
    let with_prefix = host.weaved().guest_address(1);
    let address = with_prefix.split('/').next().unwrap_or(&with_prefix);
    address.parse().unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// Lines of `dig +short` on a host, at the address where containers ask.
fn dig(host: &Host, args: &[&str]) -> Vec<String> {
    dig_at(host, &bridge_address(host).to_string(), 53, args)
}

fn dig_at(host: &Host, server: &str, port: u16, args: &[&str]) -> Vec<String> {
    let (server, port) = (format!("@{server}"), port.to_string());
    let usual = ["dig", "+short", "+time=2", "+tries=1", &server, "-p", &port];
    let said = host.run(&[&usual, args].concat()).stdout;
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The whole text of `dig`.
fn dig_in_full(host: &Host, args: &[&str]) -> String {
    let server = format!("@{}", bridge_address(host));
    host.run(&[&["dig", "+time=2", "+tries=1", &server], args].concat()).stdout
}

#[test]
fn containers_find_each_other_by_name_whatever_part_or_host_is_away() {
    let Some(pair) = Pair::launch("names") else { return };
    containers_find_each_other_by_name_across_hosts(&pair);
    every_form_of_a_name_is_answered_to_dig_on_every_port(&pair);
    names_of_a_host_that_dies_are_gone_and_come_back_with_it(&pair);
    answers_go_on_while_control_is_killed_and_the_gateway_answers_from_its_last_state(&pair);
}

fn containers_find_each_other_by_name_across_hosts(pair: &Pair) {
    let resolv_conf = pair.shell.run(&["cat", "/etc/resolv.conf"]).ok().stdout;
    assert!(resolv_conf.contains(&format!("nameserver {}", bridge_address(&pair.a))), "{resolv_conf}");
    assert!(resolv_conf.contains("search weave.local"), "{resolv_conf}");
    // The search domain makes one word enough.
    pair.shell.run(&["ping", "-c", "1", "-W", "2", "web"]).ok();
    let found = pair.shell.run(&["nslookup", "web.weave.local"]).ok().stdout;
    assert!(found.contains(&pair.web.address().to_string()), "{found}");
    let lookup = pair.a.weaved().run(&["dns-lookup", "web"]).ok().stdout;
    assert!(lookup.contains(&pair.web.address().to_string()) && lookup.contains("passing"), "{lookup}");
    let status = pair.a.weaved().run(&["status", "dns"]).ok().stdout;
    assert!(status.contains(":53 udp") && status.contains("queries_udp"), "{status}");
    let refused = pair.a.weaved().run(&["dns-lookup", "nobody"]).refused(1);
    assert!(refused.contains("no such name"), "{refused}");
    pair.a.weaved().wait_for_no_problem();
}

fn every_form_of_a_name_is_answered_to_dig_on_every_port(pair: &Pair) {
    let (bridge, web) = (bridge_address(&pair.a), pair.web.address().to_string());
    let other_bridge = bridge_address(&pair.b).to_string();
    let IpAddr::V4(v4) = pair.web.address() else { panic!("Docker's bridge has IPv4 addresses") };
    let hex = format!("{:08x}.addr.dc1.consul", u32::from(v4));
    let ptr = "web.weave.local.".to_owned();
    let places = [(bridge.to_string(), 53), (bridge.to_string(), 8600), ("127.0.0.1".into(), 8600)];
    for (server, port) in &places {
        for transport in ["+notcp", "+tcp"] {
            let ask = |args: &[&str]| dig_at(&pair.a, server, *port, &[&[transport], args].concat()).join(" ");
            assert_eq!(ask(&["web.weave.local"]), web, "{server}:{port} {transport}");
            assert_eq!(ask(&["WeB.wEaVe.LoCaL"]), web);
            assert_eq!(ask(&["b.node.weave.local"]), other_bridge);
            assert_eq!(ask(&["b.node.consul"]), other_bridge);
            assert_eq!(ask(&["b.node.dc1.consul"]), other_bridge);
            assert_eq!(ask(&[&hex]), web);
            assert_eq!(ask(&["-x", &web]), ptr);
            assert!(ask(&["web.weave.local", "AAAA"]).is_empty());
        }
    }
    services_tags_and_ports_are_answered_in_every_form(pair, &places);
    let nothing = dig_in_full(&pair.a, &["nobody.weave.local"]);
    assert!(
        nothing.contains("NXDOMAIN") && nothing.contains("SOA") && nothing.contains("flags: qr aa rd ra"),
        "{nothing}"
    );
    let no_data = dig_in_full(&pair.a, &["web.weave.local", "MX"]);
    assert!(no_data.contains("NOERROR") && no_data.contains("SOA"), "{no_data}");
    assert!(dig_in_full(&pair.a, &["weave.local", "AXFR"]).contains("Transfer failed"));
    assert!(dig_in_full(&pair.a, &["+notcp", "web.weave.local", "ANY"]).contains("RFC8482"));
}

/// Two instances of one service, on one host each, one blue and one green, with ports of their own.
fn services_tags_and_ports_are_answered_in_every_form(pair: &Pair, places: &[(String, u16)]) {
    let run = |docker: &Arc<Dockerd>, name: &str, port: &str, tag: &str| {
        let (port, tag) = (["--expose", port], format!("SERVICE_TAGS={tag}"));
        let options = [&port[..], &["-e", "SERVICE_NAME=shop", "-e", &tag]].concat();
        docker.run_container(name, &options, &["sleep", "1000000"]).address().to_string()
    };
    let (blue, green) = (run(&pair.docker_a, "shop-1", "8080", "blue"), run(&pair.docker_b, "shop-2", "8081", "green"));
    let sorted = |lines: &[&str]| {
        let mut lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        lines.sort();
        lines
    };
    let both = sorted(&[&blue, &green]);
    pair.wait_for_answer("shop.weave.local", &both);
    let hex = |address: &str, zone: &str| {
        let v4: std::net::Ipv4Addr = address.parse().unwrap_or_else(|error| panic!("{address}: {error}"));
        format!("{:08x}.addr.{zone}.", u32::from(v4))
    };
    for (server, port) in places {
        for transport in ["+notcp", "+tcp", "+noedns", "+bufsize=512"] {
            let ask = |name: &str, kind: &str| dig_at(&pair.a, server, *port, &[transport, name, kind]);
            let at = format!("{server}:{port} {transport}");
            for name in ["shop.weave.local", "shop.service.consul", "shop.service.dc1.consul", "SHOP.Service.Consul"] {
                assert_eq!(ask(name, "A"), both, "{at} {name}");
                assert!(ask(name, "AAAA").is_empty(), "{at} {name}");
            }
            for name in ["blue.shop.weave.local", "blue.shop.service.consul", "blue.shop.service.dc1.consul"] {
                assert_eq!(ask(name, "A"), sorted(&[&blue]), "{at} {name}");
            }
            let blue_srv = |zone: &str| format!("8080 {}", hex(&blue, zone));
            let green_srv = |zone: &str| format!("8081 {}", hex(&green, zone));
            // Priority and weight are ours to choose; port and target are the contract.
            let srv = |name: &str| {
                let lines = ask(name, "SRV");
                let mut lines: Vec<String> =
                    lines.iter().map(|line| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned()).collect();
                lines.sort();
                lines
            };
            let all = sorted(&[&blue_srv("dc1.consul"), &green_srv("dc1.consul")]);
            for name in ["shop.service.consul", "_shop._tcp.service.consul", "_shop._tcp.service.dc1.consul"] {
                assert_eq!(srv(name), all, "{at} {name}");
            }
            for name in ["green.shop.service.consul", "_shop._green.service.consul"] {
                assert_eq!(srv(name), [green_srv("dc1.consul")], "{at} {name}");
            }
            // Our own zone names the containers.
            assert_eq!(srv("_shop._green.weave.local"), ["8081 shop-2.weave.local."], "{at}");
            let all = ["8080 shop-1.weave.local.", "8081 shop-2.weave.local."];
            assert_eq!(srv("_shop._tcp.weave.local"), all, "{at}");
            assert_eq!(srv("shop.weave.local"), all, "{at}");
            // Where an SRV record points to is a name that is answered too.
            assert_eq!(ask(&hex(&green, "dc1.consul"), "A"), sorted(&[&green]), "{at}");
        }
    }
    let with_additional = dig_in_full(&pair.a, &["shop.service.consul", "SRV"]);
    assert!(with_additional.contains("ADDITIONAL: 3"), "two addresses and EDNS: {with_additional}");
    for name in ["red.shop.service.consul", "nobody.service.consul", "shop.service.dc2.consul"] {
        assert!(dig_in_full(&pair.a, &[name]).contains("NXDOMAIN"), "{name}");
    }
    for name in ["service.consul", "consul", "weave.local"] {
        assert!(dig_in_full(&pair.a, &[name, "AXFR"]).contains("Transfer failed"), "{name}");
    }
    let any = dig_in_full(&pair.a, &["+notcp", "shop.service.consul", "ANY"]);
    assert!(any.contains("RFC8482"), "{any}");
}

fn names_of_a_host_that_dies_are_gone_and_come_back_with_it(pair: &Pair) {
    for pid in pair.b.weaved().processes() {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the process is ours");
    }
    pair.wait_for_answer("web.weave.local", &[]);
    let lookup = pair.a.weaved().run(&["dns-lookup", "web"]);
    assert!(lookup.stdout.contains("its host does not answer"), "{lookup}");
    pair.b.weaved().launch(&["--zone", "corp.example"]);
    pair.wait_for_answer("web.weave.local", &[pair.web.address().to_string()]);
    pair.a.weaved().wait_for_problem(&["b answers names in corp.example", "--zone"]);
}

fn answers_go_on_while_control_is_killed_and_the_gateway_answers_from_its_last_state(pair: &Pair) {
    let web = [pair.web.address().to_string()];
    for _ in 0..3 {
        let old = pair.a.weaved().kill9(Part::Control);
        while pair.a.weaved().pid(Part::Control).is_none_or(|pid| pid == old) {
            assert_eq!(pair.dig("web.weave.local"), web);
        }
        // What the new control knows at first is not all that there is.
        wait_until("status answers again", SOON, || {
            assert_eq!(pair.dig("web.weave.local"), web);
            pair.a.weaved().status().is_some()
        });
    }
    pair.a.weaved().wait_for_peers(1);
    assert_eq!(pair.dig("web.weave.local"), web);

    let control = Pid::from_raw(pair.a.weaved().pid(Part::Control).expect("control runs"));
    kill(control, Signal::SIGSTOP).expect("control is ours");
    let old = pair.a.weaved().kill9(Part::Gateway);
    pair.a.weaved().wait_for_restart(Part::Gateway, old);
    pair.wait_for_answer("web.weave.local", &web);
    kill(control, Signal::SIGCONT).expect("control is ours");
    pair.a.weaved().run(&["stop"]).ok();
    assert_eq!(pair.a.weaved().processes(), Vec::<i32>::new());
}

#[test]
fn a_port_that_somebody_has_is_told_and_taken_when_it_is_free() {
    let Some(mut lab) = Lab::open("port") else { return };
    let a = lab.host("a");
    let squatter = a.spawn(&["iperf3", "-s", "-p", "8600", "-B", "127.0.0.1"]);
    wait_until("somebody has the port", SOON, || a.run(&["ss", "-ltn"]).ok().stdout.contains(":8600"));
    a.weaved().launch(&["--zone", "corp.example"]);
    a.weaved().wait_for_problem(&["127.0.0.1:8600 tcp", "another program has the port"]);
    assert!(a.weaved().docker_flags().contains(&"--dns-search=corp.example".to_owned()));
    assert!(a.weaved().run(&["dns-lookup", "a.node"]).ok().stdout.contains("a.node.corp.example"));
    let name = ["a.node.corp.example"];
    wait_until("the other ports answer", SOON, || dig(&a, &name) == [bridge_address(&a).to_string()]);
    squatter.kill();
    a.weaved().wait_for_no_problem();
    assert_eq!(dig_at(&a, "127.0.0.1", 8600, &["+tcp", name[0]]), [bridge_address(&a).to_string()]);
    assert_eq!(a.weaved().log().matches("cannot answer there").count(), 1);
}

#[test]
fn other_names_without_a_resolver_fail_with_the_reason_and_never_go_round() {
    let Some(mut lab) = Lab::open("forward") else { return };
    let a = lab.host("a");
    let resolv_conf = lab.file("resolv.conf", "# nobody\n");
    let mut launch: Command = a.weaved().command(&[], &["launch"]);
    launch.env("WEAVED_RESOLV_CONF", &resolv_conf);
    weaved_netns_tests::Output::of(launch).ok();
    let code = |words: &str| dig_in_full(&a, &["example.com"]).contains(words);
    wait_until("nobody to ask is SERVFAIL", SOON, || code("SERVFAIL"));
    let lookup = a.weaved().run(&["dns-lookup", "example.com"]);
    assert!(lookup.refused(1).contains("names no resolver"), "the reason is told");
    // We are not asked by ourselves.
    fs::write(Path::new(&resolv_conf), format!("nameserver {}\n", bridge_address(&a))).unwrap();
    wait_until("we do not ask ourselves", SOON, || code("SERVFAIL"));
}
