//! The balancer of a host: what the operator writes is served, wherever the instances are and whatever part of weaved is away.

use std::{fs, sync::Arc};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use weaved_netns_tests::{Container, Dockerd, Host, Lab, Part, Place, SOON, start_dockers, wait_until};

/// Two hosts with a dockerd each. `blue` runs on a, `green` on b; `shell` is where clients on a are.
struct Pair {
    a: Arc<Host>,
    b: Arc<Host>,
    shell: Container,
    docker_b: Arc<Dockerd>,
    // Last, so that it is dropped when the hosts are no longer used.
    _lab: Lab,
}

/// A container of the service `web` that answers with its colour.
fn run_web(docker: &Arc<Dockerd>, colour: &str) -> Container {
    let tags = format!("SERVICE_TAGS={colour}");
    let options = ["--expose", "80", "-e", "SERVICE_NAME=web", "-e", &tags];
    let check = ["-e", "SERVICE_CHECK_HTTP=/", "-e", "SERVICE_CHECK_INTERVAL=200ms"];
    let command = format!("mkdir -p /www && echo {colour} > /www/index.html && exec httpd -f -p 80 -h /www");
    docker.run_container(colour, &[&options[..], &check].concat(), &["sh", "-c", &command])
}

fn write_file(host: &Host, text: &str) {
    let path = host.weaved().state_dir().join("balancer.toml");
    fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

/// What a client at this place gets, without the line's end; empty when it gets nothing.
fn get(place: &impl Place, url: &str) -> String {
    place.run(&["wget", "-q", "-O", "-", url]).stdout.trim().to_owned()
}

fn status(host: &Host) -> Value {
    let output = host.weaved().run(&["balancer", "status", "--json"]);
    serde_json::from_str(&output.stdout).unwrap_or_default()
}

const FILE: &str = "[[listen]]\naddress = \"0.0.0.0:80\"\nservice = \"web\"\npreview_header = \"X-Colour\"\n";
const STABLE_NAME: &str = "web.lb.weave.local";

impl Pair {
    fn launch(name: &str) -> Option<Self> {
        let mut lab = Lab::open(name)?;
        let (a, b) = (lab.host("a"), lab.host("b"));
        lab.launch_cluster(&[&a, &b]);
        let [docker_a, docker_b] = start_dockers([&a, &b]);
        run_web(&docker_a, "blue");
        run_web(&docker_b, "green");
        let shell = docker_a.idle_container("shell");
        for host in [&a, &b] {
            write_file(host, FILE);
        }
        Some(Self { a, b, shell, docker_b, _lab: lab })
    }

    /// What several requests of the container get, each once.
    fn colours(&self) -> Vec<String> {
        // The lab's wget is linked statically and cannot look names up by itself.
        let found = self.shell.run(&["nslookup", STABLE_NAME]).stdout;
        let address = found.lines().filter_map(|line| line.strip_prefix("Address: ")).next_back().unwrap_or_default();
        let mut colours: Vec<String> = (0..4).map(|_| get(&self.shell, &format!("http://{address}/"))).collect();
        colours.sort();
        colours.dedup();
        colours
    }
}

#[test]
fn a_service_is_served_on_every_host_whatever_part_or_host_is_away() {
    let Some(pair) = Pair::launch("balance") else { return };
    traffic_goes_on_while_control_is_away_and_the_gateway_comes_back_with_what_it_knew(&pair);
    a_host_that_dies_is_out_and_back_with_its_instances(&pair);
    a_service_is_served_on_every_host_from_instances_on_all_hosts(&pair);
}

fn a_service_is_served_on_every_host_from_instances_on_all_hosts(pair: &Pair) {
    wait_until("containers reach both by the stable name", SOON, || pair.colours() == ["blue", "green"]);
    // From outside as well: the underlay's address of the other host.
    let outside = format!("http://{}/", pair.b.ipv4());
    let curl = |header: &str| pair.a.run(&["curl", "-s", "-m", "5", "-H", header, &outside]).stdout.trim().to_owned();
    for colour in ["blue", "green", "blue"] {
        assert_eq!(curl(&format!("X-Colour: {colour}")), colour);
    }
    assert_eq!(curl("X-Colour: red"), "no instance of web in red takes traffic");
    let shown = pair.a.weaved().run(&["balancer", "status"]).ok().stdout;
    assert!(shown.contains("0.0.0.0:80") && shown.contains("green") && shown.contains("live"), "{shown}");
    pair.a.weaved().wait_for_no_problem();

    // An address of its own: the same on all hosts, and each answers its own containers.
    for host in [&pair.a, &pair.b] {
        host.run(&["ip", "address", "add", "10.99.0.1/32", "dev", "lo"]).ok();
        write_file(host, &FILE.replace("0.0.0.0", "10.99.0.1"));
    }
    wait_until("the name leads there", SOON, || {
        pair.shell.run(&["nslookup", STABLE_NAME]).stdout.contains("10.99.0.1")
    });
    wait_until("containers reach both by the address", SOON, || pair.colours() == ["blue", "green"]);

    // An instance that stops is out before it is gone.
    pair.docker_b.docker(&["stop", "green"]).ok();
    wait_until("the stopped one is out", SOON, || pair.colours() == ["blue"]);
}

fn traffic_goes_on_while_control_is_away_and_the_gateway_comes_back_with_what_it_knew(pair: &Pair) {
    wait_until("both are served", SOON, || pair.colours() == ["blue", "green"]);
    let control = Pid::from_raw(pair.a.weaved().pid(Part::Control).expect("control runs"));
    kill(control, Signal::SIGSTOP).expect("control is ours");
    assert_eq!(pair.colours(), ["blue", "green"]);
    let old = pair.a.weaved().kill9(Part::Gateway);
    pair.a.weaved().wait_for_restart(Part::Gateway, old);
    wait_until("the gateway serves again without control", SOON, || pair.colours() == ["blue", "green"]);
    assert_eq!(status(&pair.a)["services"][0]["name"], "web");
    kill(control, Signal::SIGCONT).expect("control is ours");
    let old = pair.a.weaved().kill9(Part::Control);
    pair.a.weaved().wait_for_restart(Part::Control, old);
    for _ in 0..20 {
        assert_eq!(pair.colours(), ["blue", "green"]);
    }
}

fn a_host_that_dies_is_out_and_back_with_its_instances(pair: &Pair) {
    wait_until("both are served", SOON, || pair.colours() == ["blue", "green"]);
    for pid in pair.b.weaved().processes() {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the process is ours");
    }
    wait_until("its instances are out", SOON, || {
        let status = status(&pair.a);
        let backends = status["services"][0]["backends"].as_array().cloned().unwrap_or_default();
        let green = backends.iter().find(|backend| backend["host"] == "b");
        green.is_some_and(|green| green["state"] == "left out: its host does not answer")
    });
    assert_eq!(pair.colours(), ["blue"]);
    pair.b.weaved().launch(&[]);
    wait_until("its instances are back", SOON, || pair.colours() == ["blue", "green"]);
}

#[test]
fn a_file_with_an_error_is_told_with_its_line_and_changes_nothing() {
    let Some(mut lab) = Lab::open("file") else { return };
    let host = lab.host("a");
    let path = host.dir().join("own.toml");
    fs::write(&path, FILE).expect("the lab's directory is ours");
    let file = path.display().to_string();
    host.weaved().launch(&["--balancer-file", &file]);
    let refused = |port: u16| get(&*host, &format!("http://127.0.0.1:{port}/")).is_empty();
    let answer = |port: u16| host.run(&["curl", "-s", "-m", "5", &format!("http://127.0.0.1:{port}/")]).stdout;
    wait_until("it listens", SOON, || answer(80).contains("no instance of web takes traffic"));
    let good = host.weaved().run(&["balancer", "check", &file]).ok().stdout;
    assert!(good.contains("0.0.0.0:80 leads to web"), "{good}");

    fs::write(&path, format!("{FILE}speed = 9\n")).expect("the lab's directory is ours");
    host.weaved().wait_for_problem(&["own.toml", "line 5", "speed"]);
    let bad = host.weaved().run(&["balancer", "check", &file]).refused(1);
    assert!(bad.contains("line 5") && bad.contains("speed"), "{bad}");
    assert!(answer(80).contains("web"));
    // A control that starts with the bad file goes on with the last good one.
    let old = host.weaved().kill9(Part::Control);
    host.weaved().wait_for_restart(Part::Control, old);
    host.weaved().wait_for_problem(&["own.toml", "line 5"]);
    assert!(answer(80).contains("web"));

    fs::write(&path, FILE.replace(":80", ":8080")).expect("the lab's directory is ours");
    wait_until("it moves", SOON, || answer(8080).contains("web") && answer(80).is_empty());
    assert!(refused(80));
    host.weaved().wait_for_no_problem();
    let squatter = host.spawn(&["iperf3", "-s", "-p", "8081"]);
    wait_until("somebody has the port", SOON, || host.run(&["ss", "-ltn"]).ok().stdout.contains(":8081"));
    fs::write(&path, FILE.replace(":80", ":8081")).expect("the lab's directory is ours");
    host.weaved().wait_for_problem(&["0.0.0.0:8081", "another program has the port"]);
    squatter.kill();
    wait_until("the port is taken when it is free", SOON, || answer(8081).contains("web"));
}
