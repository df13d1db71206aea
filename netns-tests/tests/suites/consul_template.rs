//! What renders files from the catalogue and keys, end to end: a program that asks as consul-template asks, in its form of
//! today and of 0.7.0, and `weaved template` in front of a real `HAProxy`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{sync::Arc, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use weaved_netns_tests::{Host, Lab, Output, Part, Place, Process, SOON, wait_until};

fn curl(host: &Host, args: &[&str]) -> Output {
    host.run(&[&["curl", "--silent", "--show-error", "--max-time", "20"], args].concat())
}

fn agent(path: &str) -> String {
    format!("http://127.0.0.1:8500/v1/{path}")
}

fn two_hosts(lab: &mut Lab) -> [Arc<Host>; 2] {
    let hosts = [lab.host("a"), lab.host("b")];
    lab.launch_cluster_without_docker(&[&hosts[0], &hosts[1]]);
    for host in &hosts {
        wait_until("the agent answers", SOON, || curl(host, &["--fail", &agent("catalog/nodes")]).success());
    }
    hosts
}

fn set(host: &Host, key: &str, value: &str) {
    wait_until(&format!("{key} can be set"), SOON, || host.weaved().run(&["kv", "put", key, value]).success());
}

fn register(host: &Host, id: &str, name: &str, port: u16, tag: &str) {
    let body = json!({"ID": id, "Name": name, "Port": port, "Address": host.ipv4().to_string(), "Tags": [tag]});
    let path = agent("agent/service/register");
    curl(host, &["--fail-with-body", "--request", "PUT", "--data", &body.to_string(), &path]).ok();
}

fn deregister(host: &Host, id: &str) {
    let path = agent(&format!("agent/service/deregister/{id}"));
    curl(host, &["--fail-with-body", "--request", "PUT", &path]).ok();
}

/// A program that asks as consul-template does.
struct Follower {
    what: String,
    process: Process,
}

impl Follower {
    fn start(host: &Host, rules: &str) -> Self {
        let program = format!("{}/clients/consul_template.py", env!("CARGO_MANIFEST_DIR"));
        let process = host.spawn(&["python3", &program, rules, "backend/current", "web"]);
        Self { what: format!("{} on {}", rules, host.name()), process }
    }

    /// Its lines so far; one of which only the beginning has come is left for later.
    fn said(&self) -> Vec<Value> {
        let stdout = self.process.stdout();
        let lines = stdout.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// What a template would have been rendered with, one after the other.
    fn rendered(&self, view: &str) -> Vec<Value> {
        let of_view = |line: &Value| line["view"] == view && line.get("value").is_some();
        self.said().into_iter().filter(of_view).map(|line| line["value"].clone()).collect()
    }

    #[track_caller]
    fn wait_for(&self, view: &str, expected: &[Value]) {
        wait_until(&format!("{} has rendered {view} {expected:?}", self.what), Duration::from_secs(40), || {
            self.rendered(view) == expected
        });
    }

    /// Ends it, and looks for what must not have happened.
    fn finish(self) {
        kill(Pid::from_raw(self.process.pid().cast_signed()), Signal::SIGTERM).unwrap();
        let (what, output) = (self.what, self.process.finish(SOON).ok());
        for line in output.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
            for never in ["lower", "zero", "same"] {
                assert!(line.get(never).is_none(), "{what}: {line}\n{}", output.stdout);
            }
            // A query waits a minute; without news there is an answer only when something else has moved the index.
            if let Some(idle) = line["idle"].as_u64() {
                assert!(idle <= 10, "{what} asked in vain: {line}");
            }
        }
    }
}

#[test]
fn who_asks_as_consul_template_sees_each_change_once_and_nothing_else_over_a_restart_of_control() {
    let Some(mut lab) = Lab::open("ctempl") else { return };
    let [a, b] = two_hosts(&mut lab);
    let followers = [(&a, "head"), (&a, "0.7.0"), (&b, "head")].map(|(host, rules)| Follower::start(host, rules));
    let (mut keys, mut services) = (vec![Value::Null], vec![json!([])]);
    let see = |view: &str, expected: &[Value]| followers.iter().for_each(|each| each.wait_for(view, expected));
    see("key", &keys);
    see("service", &services);

    set(&a, "backend/current", "blue");
    keys.push(json!("blue"));
    see("key", &keys);
    let entry = |host: &Host, id: &str| format!("{id} {}:80", host.ipv4());
    register(&a, "web-1", "web", 80, "blue");
    services.push(json!([entry(&a, "web-1")]));
    see("service", &services);
    register(&b, "web-2", "web", 80, "green");
    services.push(json!([entry(&a, "web-1"), entry(&b, "web-2")]));
    see("service", &services);
    // The value that is there already, and a service of another name, are no news.
    set(&b, "backend/current", "blue");
    register(&b, "other", "other", 80, "x");

    for _ in 0..2 {
        let old = a.weaved().kill9(Part::Control);
        a.weaved().wait_for_restart(Part::Control, old);
        wait_until("the agent answers again", SOON, || curl(&a, &["--fail", &agent("catalog/services")]).success());
    }
    set(&b, "backend/current", "green");
    keys.push(json!("green"));
    see("key", &keys);
    deregister(&a, "web-1");
    services.push(json!([entry(&b, "web-2")]));
    see("service", &services);
    set(&a, "backend/current", "blue");
    keys.push(json!("blue"));
    see("key", &keys);
    see("service", &services);
    for follower in followers {
        assert!(follower.rendered("service") == services, "nothing came late: {:?}", follower.said());
        follower.finish();
    }
}

/// Instances of web on this host, one of each colour, that say their colour.
fn blue_and_green(host: &Host) -> [Process; 2] {
    [("blue", "8081"), ("green", "8082")].map(|(colour, port)| {
        let dir = host.dir().join(colour);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("index.html"), colour).unwrap();
        let serving = host.spawn(&["busybox", "httpd", "-f", "-p", port, "-h", &dir.display().to_string()]);
        register(host, &format!("web-{colour}"), "web", port.parse().unwrap(), colour);
        serving
    })
}

const TEMPLATE: &str = include_str!("../../../docs/examples/haproxy/haproxy.cfg.j2");

#[test]
fn a_template_keeps_a_real_haproxy_right_through_a_switch_of_colours_and_a_death_of_control() {
    let Some(mut lab) = Lab::open("templ") else { return };
    let [a, b] = two_hosts(&mut lab);
    let servers = blue_and_green(&b);
    let dir = lab.dir().display().to_string();
    let template = TEMPLATE.replace("/run/haproxy/", &format!("{dir}/")).replace("bind *:80", "bind *:8090");
    assert!(!template.contains("/run/haproxy") && template.contains(":8090"), "the example has changed");
    lab.file("haproxy.cfg.j2", &template);
    // Reloads as the service file of a distribution does: the master hands its sockets over.
    let reload = format!("test ! -e {dir}/haproxy.pid || kill -USR2 $(cat {dir}/haproxy.pid)");
    let config = format!(
        "[[template]]\nsource = 'haproxy.cfg.j2'\ndestination = '{dir}/haproxy.cfg'\n\
         check = ['haproxy', '-c', '-f', '{{}}']\nreload = '''{reload}'''\nwait = {{ min = '50ms' }}\n"
    );
    let config = lab.file("template.toml", &config);
    set(&a, "backend/current", "blue");
    let rendering = a.weaved().spawn(&["template", "-c", &config]);
    let written = || std::fs::read_to_string(format!("{dir}/haproxy.cfg")).unwrap_or_default();
    wait_until("the configuration has both colours", SOON, || {
        written().contains(&format!("{}:8081", b.ipv4())) && written().contains(&format!("{}:8082", b.ipv4()))
    });
    let (cfg, pid) = (format!("{dir}/haproxy.cfg"), format!("{dir}/haproxy.pid"));
    let haproxy = a.spawn(&["haproxy", "-W", "-db", "-f", &cfg, "-p", &pid]);
    let served = || curl(&a, &["http://127.0.0.1:8090/"]).stdout;
    wait_until("blue serves", SOON, || served() == "blue");

    set(&b, "backend/current", "green");
    wait_until("green serves", SOON, || served() == "green");
    let old = a.weaved().kill9(Part::Control);
    while a.weaved().pid(Part::Control).is_none_or(|pid| pid == old) {
        assert_eq!(served(), "green");
    }
    set(&a, "backend/current", "blue");
    wait_until("blue serves again", SOON, || served() == "blue");
    // A colour that is not there: the old one's stand-in does not exist either, and what is said is why.
    set(&a, "backend/current", "red");
    wait_until("nobody serves, with the reason", SOON, || served().contains("no instance of web passes"));
    set(&a, "backend/current", "green");
    wait_until("green is back", SOON, || served() == "green");
    deregister(&b, "web-green");
    wait_until("a colour without instances serves nobody", SOON, || served().contains("no instance of web passes"));
    drop((haproxy, rendering, servers));
}

/// What `socat stdio SOCKET` does: the lab has no socat.
const SOCAT: &str = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                     s.sendall(sys.stdin.buffer.read())\ns.shutdown(socket.SHUT_WR)\n\
                     while data := s.recv(4096):\n    sys.stdout.buffer.write(data)\n";

#[test]
fn a_switch_reaches_a_real_haproxy_by_its_runtime_api_and_nothing_is_reloaded() {
    let Some(mut lab) = Lab::open("runtime") else { return };
    let [a, b] = two_hosts(&mut lab);
    let servers = blue_and_green(&b);
    let dir = lab.dir().display().to_string();
    let socat = lab.file("socat.py", SOCAT);
    let reload = format!("echo >> {dir}/reloads; test ! -e {dir}/haproxy.pid || kill -USR2 $(cat {dir}/haproxy.pid)");
    let adapted = |text: &str| {
        let text = text.replace("/run/haproxy/", &format!("{dir}/")).replace("/etc/haproxy/", &format!("{dir}/"));
        let text = text.replace("bind *:80", "bind *:8090").replace("socat stdio", &format!("python3 {socat}"));
        text.replace(r#"["systemctl", "reload", "haproxy"]"#, &format!("\"{reload}\""))
    };
    lab.file("haproxy.cfg.j2", &adapted(include_str!("../../../docs/examples/haproxy-runtime/haproxy.cfg.j2")));
    lab.file("live.map.j2", &adapted(include_str!("../../../docs/examples/haproxy-runtime/live.map.j2")));
    let config = adapted(include_str!("../../../docs/examples/haproxy-runtime/haproxy.toml"));
    assert!(!config.contains("systemctl") && config.contains("python3"), "the example has changed");
    let config = lab.file("template.toml", &config);
    let switch = |host: &Host, colour: &str| {
        let switched = || host.weaved().run(&["switch", "web", colour]).success();
        wait_until(&format!("{colour} is live"), SOON, switched);
    };
    switch(&a, "blue");
    let rendering = a.weaved().spawn(&["template", "-c", &config]);
    let (cfg, pid) = (format!("{dir}/haproxy.cfg"), format!("{dir}/haproxy.pid"));
    wait_until("the configuration has both colours", SOON, || {
        let written = std::fs::read_to_string(&cfg).unwrap_or_default();
        written.contains("colour-blue") && written.contains("colour-green")
    });
    let start = || a.spawn(&["haproxy", "-W", "-db", "-f", &cfg, "-p", &pid]);
    let haproxy = start();
    let served = || curl(&a, &["http://127.0.0.1:8090/"]).stdout;
    wait_until("blue serves", SOON, || served() == "blue");
    let reloads = || std::fs::read_to_string(format!("{dir}/reloads")).unwrap_or_default().len();
    let before = reloads();
    assert!(before > 0, "the configuration itself came with a reload");
    for colour in ["green", "blue", "green"] {
        switch(&b, colour);
        wait_until(&format!("{colour} serves"), SOON, || served() == colour);
    }
    assert_eq!(reloads(), before);
    kill(Pid::from_raw(haproxy.pid().cast_signed()), Signal::SIGTERM).unwrap();
    drop(haproxy.finish(SOON));
    let haproxy = start();
    wait_until("one that was started anew serves what is live", SOON, || served() == "green");
    deregister(&b, "web-green");
    wait_until("a colour without instances serves nobody", SOON, || served().contains("no instance of web passes"));
    drop((haproxy, rendering, servers));
}
