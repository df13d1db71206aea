//! Whole data planes, each in a network namespace of its own, connected by a cable.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use weaved_api::{
    API_VERSION, CipherChoice, ClusterSecret, DesiredState, DeviceStatus, Event, Force, Generation, LinkEnd,
    OffloadSwitches, Overlay, PeerId, Request, SecretKey, SourcePorts, Stats, Switch, WorkerCount, framing,
};

use weaved_core::noise::Cipher;

use super::*;
use crate::{
    ciphers,
    netlink::Netlink,
    server::SOCKET_NAME,
    testing::{Namespace, close, connect, spawn},
};

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 6783;

/// A host: a namespace, a run directory and a data plane.
struct Host {
    namespace: Namespace,
    run_dir: TempDir,
    number: u8,
    daemon: Option<Daemon>,
}

/// The other end of the Unix socket.
struct Control(UnixStream);

impl Host {
    fn new(number: u8) -> Self {
        let mut host =
            Self { namespace: Namespace::new(), run_dir: tempfile::tempdir().unwrap(), number, daemon: None };
        host.start();
        host
    }

    fn start(&mut self) {
        let config = Config { run_dir: self.run_dir.path().to_owned(), desired_state: None };
        // Rights are given up per thread: not those of the namespace's own one.
        let started = self.namespace.spawn(move || Daemon::start(&config).unwrap());
        self.daemon = Some(started.join().unwrap());
    }

    fn stop(&mut self) {
        close(|| self.daemon.take().unwrap().end(Ending::Orderly)).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.run_dir.path().join(SOCKET_NAME)
    }

    fn control(&self) -> Control {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut control = Control(stream);
        control.send(&Request::Hello(API_VERSION));
        assert_eq!(control.next(), Event::Hello(API_VERSION));
        control
    }

    /// The bridge's address.
    fn gateway(&self) -> IpAddr {
        [10, 32, self.number, 1].into()
    }

    fn underlay(&self) -> SocketAddr {
        ([192, 0, 2, self.number], PORT).into()
    }

    fn desired(&self, target: Option<&Host>) -> DesiredState {
        DesiredState {
            generation: Generation(1),
            identity: SecretKey([self.number; 32]),
            cluster_secret: ClusterSecret([7; 32]),
            listen_port: PORT,
            overlay: Overlay {
                bridge: "weave".into(),
                tap: "weave-tap".into(),
                mtu: 1400,
                gateway: Some(format!("{}/12", self.gateway()).parse().unwrap()),
            },
            peers: vec![],
            targets: target.map(Host::underlay).into_iter().collect(),
            neighbours: vec![],
            quarantined: vec![],
            offload: OffloadSwitches::default(),
            cipher: CipherChoice::Auto,
            workers: WorkerCount::Auto,
            source_ports: SourcePorts::default(),
            bridge_rules: None,
        }
    }
}

impl Control {
    fn send(&mut self, request: &Request) {
        framing::write_message(&mut self.0, request).unwrap();
    }

    fn next(&mut self) -> Event {
        framing::read_message(&mut self.0).unwrap().expect("the data plane has closed the connection")
    }

    /// Skips events until one that is wanted.
    fn wait<T>(&mut self, mut want: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = want(self.next()) {
                return found;
            }
        }
    }

    /// Applies and returns the problems.
    fn apply(&mut self, desired: &DesiredState) -> Vec<String> {
        self.send(&Request::Apply(Box::new(desired.clone())));
        self.wait(|event| match event {
            Event::Applied { generation, problems } if generation == desired.generation => {
                Some(problems.into_iter().map(|problem| problem.message).collect())
            }
            _ => None,
        })
    }

    fn wait_for_peer(&mut self) -> PeerId {
        self.wait(|event| match event {
            Event::PeerUp { id, .. } => Some(id),
            _ => None,
        })
    }

    fn wait_for_end(&mut self) -> LinkEnd {
        self.wait(|event| match event {
            Event::PeerDown { end, .. } => Some(end),
            _ => None,
        })
    }

    fn stats(&mut self) -> Stats {
        self.send(&Request::QueryStats);
        self.wait(|event| match event {
            Event::Stats(stats) => Some(*stats),
            _ => None,
        })
    }

    fn counter(&mut self, name: &str) -> u64 {
        let stats = self.stats();
        stats.counters.iter().find(|counter| counter.name == name).unwrap_or_else(|| panic!("no {name}")).value
    }
}

/// Two hosts with a cable between them, and the controls that have connected them.
fn pair(offload: OffloadSwitches) -> (Host, Control, Host, Control) {
    pair_with(|desired| DesiredState { offload, ..desired })
}

/// The same, with what else is wanted of both.
fn pair_with(want: impl Fn(DesiredState) -> DesiredState) -> (Host, Control, Host, Control) {
    let (a, b) = (Host::new(1), Host::new(2));
    connect((&a.namespace, "192.0.2.1/24"), (&b.namespace, "192.0.2.2/24"));
    let (mut control_a, mut control_b) = (a.control(), b.control());
    assert_eq!(control_b.apply(&want(b.desired(None))), Vec::<String>::new());
    assert_eq!(control_a.apply(&want(a.desired(Some(&b)))), Vec::<String>::new());
    control_a.wait_for_peer();
    control_b.wait_for_peer();
    (a, control_a, b, control_b)
}

/// Sends datagrams over the overlay until one is answered.
fn echo_over_udp(from: &Host, to: &Host, len: usize) {
    let server = (to.gateway(), 7000 + (len % 1000) as u16);
    let echo = to.namespace.spawn(move || {
        let socket = UdpSocket::bind(server).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = vec![0; 65_536];
        let (len, caller) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..len], caller).unwrap();
    });
    let caller = from.gateway();
    let call = from.namespace.spawn(move || {
        let socket = UdpSocket::bind((caller, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let sent: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
        let mut buffer = vec![0; 65_536];
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // Until the server is there, the answer is an error.
            let _ = socket.send_to(&sent, server);
            if socket.recv_from(&mut buffer).is_ok_and(|(len, _)| buffer[..len] == sent) {
                return;
            }
        }
        panic!("no echo of {len} bytes");
    });
    call.join().unwrap();
    echo.join().unwrap();
}

/// Transfers bytes over the overlay and compares them.
fn transfer_over_tcp(from: &Host, to: &Host, len: usize) {
    let server = (to.gateway(), 8000);
    let listener = to.namespace.run(move || TcpListener::bind(server).unwrap());
    let receiver = to.namespace.spawn(move || {
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received
    });
    let pattern = |at: usize| (at / 251 + at) as u8;
    let sender = from.namespace.spawn(move || {
        let sent: Vec<u8> = (0..len).map(pattern).collect();
        TcpStream::connect(server).unwrap().write_all(&sent).unwrap();
    });
    sender.join().unwrap();
    let arrived = receiver.join().unwrap();
    assert_eq!(arrived.len(), len);
    assert!(arrived.iter().enumerate().all(|(at, byte)| *byte == pattern(at)), "bytes have changed on the way");
}

/// How far TAP offload, sending and receiving of trains are in force.
fn force(device: &DeviceStatus) -> [Force; 3] {
    [&device.tap_offload, &device.udp_gso, &device.udp_gro].map(|feature| feature.force)
}

#[test]
fn two_data_planes_carry_datagrams_and_streams_between_their_bridges() {
    let (a, mut control_a, b, _control_b) = pair(OffloadSwitches::default());
    for len in [1, 1000, 1372, 9000, 60_000] {
        echo_over_udp(&a, &b, len);
    }
    transfer_over_tcp(&a, &b, 32 << 20);
    let stats = control_a.stats();
    let device = stats.device.unwrap();
    assert_eq!(force(&device), [Force::On; 3], "{device:?}");
    assert_eq!(device.listen_port, PORT);
    let frames = stats.counters.iter().find(|counter| counter.name == "tap_frames_in").unwrap().value;
    assert!(frames < (32 << 20) / 1400 / 2, "super-frames travel whole: {frames}");
}

#[test]
fn the_same_without_any_offload() {
    let off = OffloadSwitches {
        tap_offload: Switch::Off,
        udp_gso: Switch::Off,
        udp_gro: Switch::Off,
        ..OffloadSwitches::default()
    };
    let (a, mut control_a, b, _control_b) = pair(off);
    echo_over_udp(&a, &b, 60_000);
    transfer_over_tcp(&a, &b, 4 << 20);
    let device = control_a.stats().device.unwrap();
    assert_eq!(force(&device), [Force::Off; 3], "{device:?}");
}

#[test]
fn an_end_without_offload_is_given_finished_frames_by_one_with() {
    let (a, _control_a, b, mut control_b) = pair(OffloadSwitches::default());
    let off = OffloadSwitches {
        tap_offload: Switch::Off,
        udp_gso: Switch::Off,
        udp_gro: Switch::Off,
        ..OffloadSwitches::default()
    };
    let changed = DesiredState { offload: off, generation: Generation(2), ..b.desired(None) };
    assert_eq!(control_b.apply(&changed), Vec::<String>::new());
    transfer_over_tcp(&a, &b, 4 << 20);
    transfer_over_tcp(&b, &a, 4 << 20);
}

/// So many workers.
fn workers(count: u8) -> WorkerCount {
    count.to_string().parse().unwrap()
}

/// Flows of all kinds, more than there are workers.
fn check_flows(a: &Host, b: &Host) {
    for (from, to) in [(a, b), (b, a)] {
        for len in [1, 700, 1372, 9000, 60_000] {
            echo_over_udp(from, to, len);
        }
        for _ in 0..4 {
            transfer_over_tcp(from, to, 2 << 20);
        }
    }
}

#[test]
fn data_planes_of_several_workers_carry_every_flow_and_tell_how_many_they_are() {
    for count in [2, 3] {
        let (a, mut control_a, b, mut control_b) =
            pair_with(|desired| DesiredState { workers: workers(count), ..desired });
        check_flows(&a, &b);
        for control in [&mut control_a, &mut control_b] {
            let stats = control.stats();
            let device = stats.device.clone().unwrap();
            assert_eq!((device.workers.count, device.workers.wanted), (count, workers(count)), "{device:?}");
            assert_eq!(usize::from(device.tap_queue_count), crate::tap::QUEUES_PER_WORKER * usize::from(count));
            assert_eq!(force(&device), [Force::On; 3], "{device:?}");
            for reason in ["drop_forged", "drop_replayed", "drop_session_exhausted"] {
                let dropped = stats.counters.iter().find(|counter| counter.name == reason);
                assert_eq!(dropped.unwrap_or_else(|| panic!("no {reason}")).value, 0, "{reason} {stats:?}");
            }
        }
    }
}

#[test]
fn workers_that_send_from_ports_of_their_own_move_their_peer_nowhere() {
    let (a, mut control_a, b, mut control_b) =
        pair_with(|desired| DesiredState { workers: workers(3), source_ports: "2".parse().unwrap(), ..desired });
    check_flows(&a, &b);
    for (control, peer) in [(&mut control_a, &b), (&mut control_b, &a)] {
        let stats = control.stats();
        let device = stats.device.unwrap();
        assert_eq!((device.workers.count, device.workers.source_port_count), (3, 2), "{device:?}");
        assert_eq!(stats.peers[0].endpoint, Some(peer.underlay()));
    }
    // A change is told as an event; there was none since the connection.
    control_b.send(&Request::QueryStats);
    assert!(matches!(control_b.next(), Event::Stats(_)));
}

#[test]
fn a_host_of_several_workers_and_one_of_one_understand_each_other_also_when_it_changes() {
    let (a, mut control_a, b, _control_b) = pair(OffloadSwitches::default());
    for (at, count) in [3, 1, 2].into_iter().enumerate() {
        let generation = Generation(at as u64 + 2);
        let changed = DesiredState { workers: workers(count), generation, ..a.desired(Some(&b)) };
        assert_eq!(control_a.apply(&changed), Vec::<String>::new());
        check_flows(&a, &b);
        let workers = control_a.stats().device.unwrap().workers;
        assert_eq!(workers.count, count, "{workers:?}");
    }
}

#[test]
fn a_host_that_may_use_other_ciphers_makes_new_sessions_with_the_fastest_that_both_offer() {
    let (a, mut control_a, b, _control_b) = pair(OffloadSwitches::default());
    let choices = [CipherChoice::Auto, CipherChoice::ChaCha20Poly1305, CipherChoice::Aes256Gcm, CipherChoice::Aegis256];
    for (at, cipher) in choices.into_iter().enumerate() {
        let changed = DesiredState { cipher, generation: Generation(at as u64 + 2), ..a.desired(Some(&b)) };
        assert_eq!(control_a.apply(&changed), Vec::<String>::new());
        check_flows(&a, &b);
        let expected = Cipher::common(ciphers::offered(cipher), ciphers::offered(CipherChoice::Auto));
        let session = control_a.stats().peers[0].session.clone().unwrap();
        assert_eq!(session.cipher, expected.name(), "{cipher}");
    }
}

#[test]
fn frames_flow_on_without_control_and_a_new_control_hears_who_is_connected() {
    let (a, control_a, b, _control_b) = pair(OffloadSwitches::default());
    echo_over_udp(&a, &b, 100);
    drop(control_a);
    echo_over_udp(&a, &b, 101);
    a.control().wait_for_peer();
}

#[test]
fn peers_of_a_data_plane_that_ends_in_an_orderly_way_are_told() {
    let (mut a, _control_a, b, mut control_b) = pair(OffloadSwitches::default());
    a.stop();
    assert_eq!(control_b.wait_for_end(), LinkEnd::PeerSaidGoodbye);
    a.start();
    let mut control_a = a.control();
    assert_eq!(control_a.apply(&a.desired(Some(&b))), Vec::<String>::new());
    control_b.wait_for_peer();
    control_a.send(&Request::Teardown);
    assert_eq!(control_b.wait_for_end(), LinkEnd::PeerSaidGoodbye);
}

#[test]
fn control_bytes_arrive_as_they_were_sent() {
    let (_a, mut control_a, _b, mut control_b) = pair(OffloadSwitches::default());
    let id_b = control_a.stats().peers[0].id;
    let sent = vec![9; 50_000];
    let deadline = Instant::now() + PATIENCE;
    control_b.0.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    while Instant::now() < deadline {
        // Control bytes are unreliable; right after the handshake the other end may not be ready.
        control_a.send(&Request::SendControl { to: id_b, bytes: sent.clone() });
        if let Ok(Some(Event::Control { bytes, .. })) = framing::read_message(&mut control_b.0) {
            assert_eq!(bytes, sent);
            return;
        }
    }
    panic!("no control bytes");
}

#[test]
fn a_data_plane_that_starts_again_is_connected_again_and_its_bridge_was_never_gone() {
    let (mut a, control_a, b, _control_b) = pair(OffloadSwitches::default());
    echo_over_udp(&a, &b, 100);
    let bridge = |host: &Host| host.namespace.run(|| Netlink::open().unwrap().link("weave").unwrap().unwrap());
    let before = bridge(&a);
    drop(control_a);
    a.stop();
    assert_eq!(bridge(&a), before);
    a.start();
    assert_eq!(a.control().apply(&a.desired(Some(&b))), Vec::<String>::new());
    echo_over_udp(&a, &b, 101);
}

#[test]
fn what_stands_in_the_way_is_told_and_tried_again() {
    let host = Host::new(1);
    let taken = host.namespace.run(|| UdpSocket::bind(("127.0.0.1", PORT)).unwrap());
    let mut control = host.control();
    let problems = control.apply(&host.desired(None));
    assert!(problems.iter().any(|problem| problem.contains("UDP port 6783 is in use")), "{problems:?}");
    drop(taken);
    control.wait(|event| matches!(event, Event::Applied { problems, .. } if problems.is_empty()).then_some(()));
    assert!(control.stats().device.is_some());
}

#[test]
fn a_changed_port_is_opened_and_the_old_one_closed() {
    let host = Host::new(1);
    let mut control = host.control();
    control.apply(&host.desired(None));
    let changed = DesiredState { listen_port: 7000, generation: Generation(2), ..host.desired(None) };
    assert_eq!(control.apply(&changed), Vec::<String>::new());
    assert_eq!(control.stats().device.unwrap().listen_port, 7000);
    host.namespace.run(|| UdpSocket::bind(("127.0.0.1", PORT)).unwrap());
}

#[test]
fn a_teardown_removes_the_devices_and_ends_the_process() {
    let mut host = Host::new(1);
    let mut control = host.control();
    control.apply(&host.desired(None));
    control.send(&Request::Teardown);
    let watch = &host.daemon.as_ref().unwrap().watch;
    poll(&mut [PollFd::new(watch, PollFlags::IN)], None).unwrap();
    assert_eq!(watch.ending(), Some(Ending::Orderly));
    host.stop();
    while framing::read_message::<Event>(&mut control.0).is_ok_and(|event| event.is_some()) {}
    let names = host.namespace.run(|| Netlink::open().unwrap().link_names().unwrap());
    assert!(names.iter().all(|(_, name)| !name.starts_with("weave")), "{names:?}");
}

#[test]
fn a_tap_that_is_deleted_ends_the_process_so_that_it_is_made_anew() {
    let host = Host::new(1);
    host.control().apply(&host.desired(None));
    host.namespace.run(|| {
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link("weave-tap").unwrap().unwrap().index;
        netlink.delete_link(index).unwrap();
    });
    let watch = &host.daemon.as_ref().unwrap().watch;
    poll(&mut [PollFd::new(watch, PollFlags::IN)], None).unwrap();
    let Some(Ending::Failed(reason)) = watch.ending() else { panic!("{:?}", watch.ending()) };
    assert!(reason.contains("the TAP device weave-tap is gone"), "{reason}");
}

#[test]
fn a_file_is_enough_to_work_by_and_is_read_again() {
    let mut host = Host::new(1);
    host.stop();
    let path = host.run_dir.path().join("state.json");
    let write = |desired: &DesiredState| std::fs::write(&path, serde_json::to_vec(desired).unwrap()).unwrap();
    write(&host.desired(None));
    let config = Config { run_dir: host.run_dir.path().to_owned(), desired_state: Some(path.clone()) };
    let daemon = host.namespace.spawn(move || Daemon::start(&config).unwrap()).join().unwrap();
    // The first request is handled after the file.
    assert_eq!(host.control().stats().device.unwrap().listen_port, PORT);
    std::fs::write(&path, b"{").unwrap();
    reload(Some(&path), &daemon.inputs).unwrap();
    assert_eq!(host.control().stats().device.unwrap().listen_port, PORT);
    write(&DesiredState { listen_port: 7000, ..host.desired(None) });
    reload(Some(&path), &daemon.inputs).unwrap();
    assert_eq!(host.control().stats().device.unwrap().listen_port, 7000);
    daemon.end(Ending::Orderly).unwrap();
}

/// A child process, which does not outlive its test.
struct Process(Child);

impl Process {
    /// Sends a signal and waits for the end.
    fn end(mut self, signal: rustix::process::Signal) -> ExitStatus {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is as dead as can be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A data plane in a process of its own, in the namespace of the host.
fn spawn_process(host: &Host) -> Process {
    let run_dir = host.run_dir.path().to_owned();
    let socket = host.socket();
    let child = host.namespace.run(move || {
        let executable = std::env::current_exe().unwrap().with_file_name("../examples/dataplane");
        let child = spawn(Command::new(executable).arg(run_dir).stderr(Stdio::null()));
        child.expect("the example `dataplane` is not built: `cargo test` without `--lib` builds it")
    });
    let process = Process(child);
    let deadline = Instant::now() + PATIENCE;
    while UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "the process does not answer");
        std::thread::yield_now();
    }
    process
}

#[test]
fn sigterm_ends_the_process_in_order_and_the_bridge_stays() {
    let mut host = Host::new(1);
    host.stop();
    let process = spawn_process(&host);
    host.control().apply(&host.desired(None));
    assert!(process.end(rustix::process::Signal::TERM).success());
    assert!(!host.socket().exists());
    assert!(host.namespace.run(|| Netlink::open().unwrap().link("weave-tap").unwrap()).is_some());
}

#[test]
fn after_a_kill_the_next_process_goes_on_with_bridge_and_peer() {
    let (mut a, control_a, b, _control_b) = pair(OffloadSwitches::default());
    drop(control_a);
    a.stop();
    for len in [100, 101] {
        let process = spawn_process(&a);
        assert_eq!(a.control().apply(&a.desired(Some(&b))), Vec::<String>::new());
        echo_over_udp(&a, &b, len);
        assert!(!process.end(rustix::process::Signal::KILL).success());
    }
}

/// Name and effective capabilities of each of our threads in a process.
fn rights(process: &Process) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.0.id())).unwrap();
    let mut rights: Vec<_> = tasks
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap())
        .map(|status| {
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            assert_eq!(field("NoNewPrivs:"), "1");
            (field("Name:"), field("CapEff:"))
        })
        .filter(|(name, _)| ["router", "server"].contains(&name.as_str()) || name.starts_with("worker"))
        .collect();
    rights.sort();
    rights
}

#[test]
fn a_process_has_only_the_rights_it_needs_and_leaves_no_core_file() {
    let mut host = Host::new(1);
    host.stop();
    let process = spawn_process(&host);
    host.control().apply(&DesiredState { workers: workers(2), ..host.desired(None) });
    let (none, network) = ("0000000000000000", "0000000000001400");
    let expected = [("router", network), ("server", none), ("worker-0", none), ("worker-1", none)];
    let expected = expected.map(|(name, rights)| (name.to_owned(), rights.to_owned()));
    let deadline = Instant::now() + PATIENCE;
    while rights(&process) != expected {
        assert!(Instant::now() < deadline, "{:?}", rights(&process));
        std::thread::yield_now();
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.0.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

#[test]
fn garbage_on_the_port_is_counted_and_nothing_else() {
    let host = Host::new(1);
    let mut control = host.control();
    control.apply(&host.desired(None));
    host.namespace.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for len in [0, 1, 3, 15, 16, 31, 32, 100, 1500, 65_000] {
            socket.send_to(&vec![0x16; len], ("127.0.0.1", PORT)).unwrap();
        }
    });
    let deadline = Instant::now() + PATIENCE;
    while control.counter("drop_unknown_session") + control.counter("drop_datagram_malformed") < 9 {
        assert!(Instant::now() < deadline, "{:?}", control.stats().counters);
    }
}
