//! What keeps three hosts busy.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, Scope},
    time::{Duration, Instant},
};

use weaved_netns_tests::{Guest, Host, Part, Place, Process, traffic};

/// Streams are made anew after this, so that connections come and go.
const ROUND: Duration = Duration::from_secs(15);
/// How long a round may take longer than it was asked for, on a machine with more to do than it can.
const ROUND_PATIENCE: Duration = Duration::from_secs(45);
/// How long a server of streams needs between two rounds.
const SERVER_PAUSE: Duration = Duration::from_millis(200);
/// Bursts of datagrams as fast as one thread can send, and the pause after each.
const BURST: Duration = Duration::from_millis(300);
const BURST_PAUSE: Duration = Duration::from_secs(2);
/// Bytes of the datagrams of a burst, in turn.
const BURST_LENS: [&str; 3] = ["64", "512", "1400"];
/// Pause between containers that come and go.
const CHURN_PAUSE: Duration = Duration::from_secs(5);
const START_DEADLINE: Duration = Duration::from_secs(20);
const RATE_PORT: &str = "5301";

/// When to stop.
pub(crate) struct Stop {
    pub(crate) flag: Arc<AtomicBool>,
    end: Instant,
}

impl Stop {
    /// After this time, or when the flag is raised.
    pub(crate) fn new(flag: Arc<AtomicBool>, time: Duration) -> Self {
        Self { flag, end: Instant::now() + time }
    }

    fn is_due(&self) -> bool {
        self.flag.load(Relaxed) || Instant::now() >= self.end
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Sleeps so long, or until it is time to stop.
    fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.is_due() && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The guests and their servers.
pub(crate) struct Load {
    /// One guest a host for streams, one for datagrams.
    streamers: Vec<Guest>,
    senders: Vec<Guest>,
    echo: Option<traffic::Flood>,
    servers: Vec<Process>,
    done: Arc<Done>,
}

/// What was done.
#[derive(Debug, Default)]
struct Done {
    stream_bytes: AtomicU64,
    stream_rounds: AtomicU64,
    failed_rounds: AtomicU64,
    bursts: AtomicU64,
    containers: AtomicU64,
    kills: AtomicU64,
}

/// What the load came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) stream_bytes: u64,
    pub(crate) stream_rounds: u64,
    /// Rounds whose connections did not work to their end.
    pub(crate) failed_rounds: u64,
    pub(crate) bursts: u64,
    pub(crate) containers: u64,
    pub(crate) kills: u64,
    pub(crate) echo: traffic::FloodReport,
}

impl Load {
    /// Guests on all hosts that reach each other.
    pub(crate) fn prepare(hosts: &[Arc<Host>]) -> Self {
        let guests = |last| hosts.iter().map(|host| host.overlay_guest(last, 1500)).collect::<Vec<_>>();
        let (streamers, senders) = (guests(2), guests(3));
        for group in [&streamers, &senders] {
            for (from, to) in links(group) {
                traffic::wait_for_ping(from, to.address());
            }
        }
        let streams = streamers.iter().map(|guest| {
            let mut server = guest.spawn(&["iperf3", "--forceflush", "-s"]);
            server.wait_for_text("listening", START_DEADLINE);
            server
        });
        let rates = senders.iter().map(|guest| traffic::serve(guest, &["rate-serve", RATE_PORT]));
        let servers = streams.chain(rates).collect();
        let echo = traffic::Flood::start(&senders[0], &senders[2], &senders[2].address().to_string());
        Self { streamers, senders, echo: Some(echo), servers, done: Arc::default() }
    }

    /// Starts everything; the threads end when it is time.
    pub(crate) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        hosts: &'scope [Arc<Host>],
        stop: &'scope Stop,
    ) {
        for (from, to) in links(&self.streamers) {
            scope.spawn(move || self.stream(from, to, stop));
        }
        for (from, to) in links(&self.senders) {
            scope.spawn(move || self.burst(from, to, stop));
        }
        scope.spawn(move || self.churn(hosts, stop));
    }

    /// Ends what is left and tells what was done.
    pub(crate) fn finish(&mut self) -> Report {
        let echo = self.echo.take().map(traffic::Flood::finish).unwrap_or_default();
        self.servers.clear();
        let Done { stream_bytes, stream_rounds, failed_rounds, bursts, containers, kills } = &*self.done;
        let [stream_bytes, stream_rounds, failed_rounds, bursts, containers, kills] =
            [stream_bytes, stream_rounds, failed_rounds, bursts, containers, kills].map(|count| count.load(Relaxed));
        Report { stream_bytes, stream_rounds, failed_rounds, bursts, containers, kills, echo }
    }

    /// Streams in both directions at once, round after round.
    fn stream(&self, from: &Guest, to: &Guest, stop: &Stop) {
        let address = to.address().to_string();
        while !stop.is_due() {
            let round = ROUND.min(stop.left()).as_secs().max(1);
            let seconds = round.to_string();
            let args = ["iperf3", "--json", "--bidir", "-P", "2", "-t", &seconds, "-c", &address];
            let output = from.run_within(Duration::from_secs(round) + ROUND_PATIENCE, &args);
            let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
            // The server refuses and resets for a moment after each round. Should that last, there are no rounds.
            if json["intervals"].as_array().is_some_and(Vec::is_empty) {
                stop.pause(SERVER_PAUSE);
                continue;
            }
            let received = ["/end/sum_received/bytes", "/end/sum_received_bidir_reverse/bytes"]
                .map(|at| json.pointer(at)?.as_u64());
            self.done.stream_rounds.fetch_add(1, Relaxed);
            match received {
                [Some(one), Some(other)] if output.success() => self.done.stream_bytes.fetch_add(one + other, Relaxed),
                _ => {
                    println!("a round of streams has failed: {output}");
                    self.done.failed_rounds.fetch_add(1, Relaxed)
                }
            };
        }
    }

    /// Datagrams as fast as possible, now and then.
    fn burst(&self, from: &Guest, to: &Guest, stop: &Stop) {
        let (address, time) = (to.address().to_string(), BURST.as_millis().to_string());
        for len in BURST_LENS.into_iter().cycle() {
            stop.pause(BURST_PAUSE);
            if stop.is_due() {
                return;
            }
            from.run_labtool(ROUND_PATIENCE, &["rate-blast", &address, RATE_PORT, len, &time]).ok();
            self.done.bursts.fetch_add(1, Relaxed);
        }
    }

    /// A container that comes, talks and goes; then the control process of a host is killed. That of the first host lives,
    /// so that its memory can be watched.
    fn churn(&self, hosts: &[Arc<Host>], stop: &Stop) {
        for (host, last) in hosts.iter().cycle().zip((10..250).cycle()) {
            stop.pause(CHURN_PAUSE);
            if stop.is_due() {
                return;
            }
            let guest = host.overlay_guest(last, 1500);
            traffic::wait_for_ping(&guest, self.streamers[0].address());
            guest.ip(&["link", "del", "eth0"]);
            self.done.containers.fetch_add(1, Relaxed);
            if !Arc::ptr_eq(host, &hosts[0]) {
                let old = host.weaved().kill9(Part::Control);
                host.weaved().wait_for_restart(Part::Control, old);
                self.done.kills.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Each with the next, in a circle.
fn links(guests: &[Guest]) -> impl Iterator<Item = (&Guest, &Guest)> {
    guests.iter().zip(guests.iter().cycle().skip(1))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream_bytes, stream_rounds, failed_rounds, bursts, containers, kills, echo } = self;
        writeln!(f, "streams      {} MB in {stream_rounds} rounds, {failed_rounds} failed", stream_bytes / 1_000_000)?;
        writeln!(f, "datagrams    {bursts} bursts; echo: {} of {} answered", echo.answered, echo.settled)?;
        write!(f, "churn        {containers} containers came and went, {kills} control processes were killed")
    }
}
