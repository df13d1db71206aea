//! Behaviour of the server with callers of every kind.

use std::{
    io::{Read, Write},
    sync::mpsc::{self, Receiver},
    thread::JoinHandle,
    time::Duration,
};

use tempfile::TempDir;
use weaved_api::{API_VERSION, Event, PeerId, framing};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// A running server and what it tells the router.
struct Harness {
    run_dir: TempDir,
    stop: Arc<Flag>,
    inputs: Receiver<ApiInput>,
    thread: Option<JoinHandle<()>>,
}

impl Harness {
    fn start() -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let server = Server::bind(run_dir.path()).unwrap();
        let stop = Arc::new(Flag::new().unwrap());
        let (sender, inputs) = mpsc::channel();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || server.run(&stop, |input| sender.send(input)).unwrap()
        });
        Self { run_dir, stop, inputs, thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.run_dir.path().join(SOCKET_NAME)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A connection that has been greeted.
    fn open(&self) -> (UnixStream, Outbox) {
        let mut stream = self.connect();
        framing::write_message(&mut stream, &Request::Hello(API_VERSION)).unwrap();
        assert_eq!(framing::read_message(&mut stream).unwrap(), Some(Event::Hello(API_VERSION)));
        match self.input() {
            ApiInput::Opened(_, outbox) => (stream, outbox),
            other => panic!("{other:?}"),
        }
    }

    fn input(&self) -> ApiInput {
        self.inputs.recv_timeout(PATIENCE).unwrap()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.stop.raise();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Waits until the other end has closed.
fn expect_closed(stream: &mut UnixStream) {
    let mut rest = Vec::new();
    // A close with unread bytes is a reset: also an end.
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

fn event(len: usize) -> Event {
    Event::Control { from: PeerId([1; 32]), bytes: vec![7; len] }
}

#[test]
fn requests_arrive_in_order_and_events_go_back() {
    let harness = Harness::start();
    let (mut stream, outbox) = harness.open();
    let large = Request::SendControl { to: PeerId([2; 32]), bytes: vec![9; 3 << 20] };
    framing::write_message(&mut stream, &large).unwrap();
    framing::write_message(&mut stream, &Request::QueryStats).unwrap();
    assert!(matches!(harness.input(), ApiInput::Request(_, request) if request == large));
    assert!(matches!(harness.input(), ApiInput::Request(_, Request::QueryStats)));
    for len in [1, 2 << 20, 3] {
        outbox.push(&event(len));
        assert_eq!(framing::read_message(&mut stream).unwrap(), Some(event(len)));
    }
}

#[test]
fn garbage_ends_its_own_connection_and_no_other() {
    let harness = Harness::start();
    let (mut good, outbox) = harness.open();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 0], &[1, 0, 0, 0, 0xee], &[0xff; 64]] {
        let mut bad = harness.connect();
        bad.write_all(garbage).unwrap();
        expect_closed(&mut bad);
    }
    outbox.push(&event(1));
    assert_eq!(framing::read_message(&mut good).unwrap(), Some(event(1)));
    framing::write_message(&mut good, &Request::QueryStats).unwrap();
    assert!(matches!(harness.input(), ApiInput::Request(_, Request::QueryStats)), "the router heard nothing before");
}

#[test]
fn garbage_after_the_greeting_closes_the_connection_and_the_router_hears_of_it() {
    let harness = Harness::start();
    let (mut stream, outbox) = harness.open();
    stream.write_all(&[0xff; 8]).unwrap();
    expect_closed(&mut stream);
    assert!(matches!(harness.input(), ApiInput::Closed(_)));
    assert!(outbox.is_closed());
}

#[test]
fn another_version_is_told_ours_and_closed() {
    let harness = Harness::start();
    let mut stream = harness.connect();
    framing::write_message(&mut stream, &Request::Hello(API_VERSION + 1)).unwrap();
    assert_eq!(framing::read_message(&mut stream).unwrap(), Some(Event::Hello(API_VERSION)));
    expect_closed(&mut stream);
}

#[test]
fn a_request_before_the_version_is_refused() {
    let harness = Harness::start();
    let mut stream = harness.connect();
    framing::write_message(&mut stream, &Request::Teardown).unwrap();
    expect_closed(&mut stream);
    drop(harness.open());
    assert!(matches!(harness.input(), ApiInput::Closed(_)), "the router never heard of the teardown");
}

#[test]
fn a_reader_that_does_not_read_is_closed_and_memory_stays_bounded() {
    let harness = Harness::start();
    let (mut slow, slow_outbox) = harness.open();
    let (mut good, good_outbox) = harness.open();
    let event_count = outbox::MAX_OUTBOX_BYTES / 50_000 * 2;
    for _ in 0..event_count {
        slow_outbox.push(&event(50_000));
    }
    assert!(matches!(harness.input(), ApiInput::Closed(_)));
    assert!(slow_outbox.is_closed());
    expect_closed(&mut slow);
    good_outbox.push(&event(5));
    assert_eq!(framing::read_message(&mut good).unwrap(), Some(event(5)));
}

#[test]
fn half_a_message_waits_for_its_other_half() {
    let harness = Harness::start();
    let (mut slow, _) = harness.open();
    let (mut good, _) = harness.open();
    let message = framing::encode(&Request::QueryStats).unwrap();
    slow.write_all(&message[..message.len() - 1]).unwrap();
    framing::write_message(&mut good, &Request::Teardown).unwrap();
    assert!(matches!(harness.input(), ApiInput::Request(_, Request::Teardown)), "others are not held up");
    slow.write_all(&message[message.len() - 1..]).unwrap();
    assert!(matches!(harness.input(), ApiInput::Request(_, Request::QueryStats)));
}

#[test]
fn another_user_is_refused_even_one_who_can_reach_the_socket() {
    let harness = Harness::start();
    let path = harness.run_dir.path().join(SOCKET_NAME);
    let stranger = std::thread::spawn(move || {
        let (root, nobody) = (rustix::process::Uid::ROOT, rustix::process::Uid::from_raw(65_534));
        rustix::thread::set_thread_res_uid(root, nobody, root).expect("this test needs root");
        caps::raise(None, caps::CapSet::Effective, caps::Capability::CAP_DAC_OVERRIDE).unwrap();
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut told = Vec::new();
        stream.read_to_end(&mut told).unwrap();
        told
    });
    assert_eq!(stranger.join().unwrap(), Vec::<u8>::new(), "not even our version is told");
}

#[test]
fn one_connection_too_many_is_refused() {
    let harness = Harness::start();
    let open: Vec<_> = (0..MAX_CONNECTIONS).map(|_| harness.open()).collect();
    expect_closed(&mut harness.connect());
    drop(open);
}

#[test]
fn the_socket_is_private_and_goes_with_the_server() {
    let harness = Harness::start();
    let path = harness.run_dir.path().join(SOCKET_NAME);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = Server::bind(harness.run_dir.path()).err().expect("the run directory is taken");
    assert!(matches!(error, ServerError::AlreadyRunning(_)), "{error}");
    let run_dir = harness.run_dir.path().to_owned();
    harness.stop.raise();
    while path.exists() {
        std::thread::yield_now();
    }
    // One left by a killed process.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    Server::bind(&run_dir).unwrap();
}
