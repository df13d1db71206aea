//! weaved against plain kernel VXLAN, end to end, on one machine.
//!
//! ```text
//!   guest ─ host va ══ VXLAN ══ host vb ─ guest          side "vxlan"
//!   guest ─ host wa ══ weaved ═ host wb ─ guest          side "weaved"
//!   in turns: vxlan, weaved, vxlan, weaved, …            one pair of turns gives one ratio
//! ```
//!
//! Both overlays are up all the time on the same switch; the one whose turn it is not is idle. All ends share the
//! cores of the machine, so a figure alone says little: ratios of turns that followed each other are what counts.
//!
//! The data planes run without control, from a file: that is all that these rows need.
//!
//! INVARIANT: nothing is asserted about a figure but that it exists.

mod dataplane;
mod footprint;
mod machine;
mod outage;
mod record;
mod sides;
mod summary;
mod traffic;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use weaved_netns_tests::Lab;

use self::{
    machine::Machine,
    record::{Measurement, Recorder},
    sides::Sides,
};

/// What to measure, how long and how often.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "weaved-bench",
    about = "Compare weaved with plain kernel VXLAN in one run",
    after_help = "Needs root, iperf3 and ping. The program under test is WEAVED_BIN, else the one beside this program.\n\n\
                  Example:\n  WEAVED_BIN=target/release/weaved cargo run -p weaved-bench -- --pairs 7"
)]
pub struct Options {
    /// Pairs of turns: vxlan, weaved
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// Seconds of each TCP measurement, after one second that does not count
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How often the data plane is killed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    kills: u32,
    /// Peers of the data plane whose memory is measured
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4096))]
    peers: u32,
    /// Directory for the results, one file of JSON lines for each run
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
    /// Everything once and short: shows that the bench works, measures nothing
    #[arg(long)]
    smoke: bool,
}

/// How long and how often, after `--smoke` has had its say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    pair_count: u32,
    tcp_time: Duration,
    ping_count: u32,
    kill_count: u32,
    peer_count: u32,
    /// How long a data plane is left alone before its memory is looked at.
    settle_time: Duration,
}

impl Options {
    fn plan(&self) -> Plan {
        if self.smoke {
            return Plan {
                pair_count: 1,
                tcp_time: Duration::from_secs(1),
                ping_count: 50,
                kill_count: 1,
                peer_count: self.peers.min(50),
                settle_time: Duration::from_secs(1),
            };
        }
        Plan {
            pair_count: self.pairs,
            tcp_time: Duration::from_secs(self.seconds.into()),
            ping_count: 1000,
            kill_count: self.kills,
            peer_count: self.peers,
            settle_time: Duration::from_secs(20),
        }
    }
}

/// Measures everything, writes the results and prints the table.
pub fn main(options: &Options) -> ExitCode {
    let machine = Machine::look();
    let mut recorder = match Recorder::create(&options.results, &machine) {
        Ok(recorder) => recorder,
        Err(error) => {
            eprintln!("weaved-bench: cannot write to {}: {error}", options.results.display());
            return ExitCode::FAILURE;
        }
    };
    let Some(mut lab) = Lab::open("bench") else { return ExitCode::FAILURE };
    measure(&mut lab, options.plan(), &mut recorder);
    drop(lab);
    match recorder.finish() {
        Ok((path, measurements)) => {
            println!("{}", summary::markdown(&machine, &measurements, options.smoke));
            eprintln!("every measurement: {}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weaved-bench: the results are not complete on disk: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(lab: &mut Lab, plan: Plan, recorder: &mut Recorder) {
    let mut sides = Sides::start(lab);
    for pair in 0..plan.pair_count {
        eprintln!("pair {} of {}", pair + 1, plan.pair_count);
        for side in sides.both() {
            let (value, unit) = (traffic::tcp_bits_per_second(side, plan.tcp_time), "bit/s");
            recorder.add(Measurement { row: "tcp, 1 stream", side: side.name, pair, value, unit });
        }
        for side in sides.both() {
            let (value, unit) = (traffic::ping_median_us(side, plan.ping_count), "µs");
            recorder.add(Measurement { row: "ping, median", side: side.name, pair, value, unit });
        }
    }
    for turn in 0..plan.kill_count {
        eprintln!("kill {} of {}", turn + 1, plan.kill_count);
        let (value, unit) = (outage::kill_ms(&mut sides), "ms");
        recorder.add(Measurement { row: "outage, data plane killed", side: "weaved", pair: turn, value, unit });
    }
    drop(sides);
    eprintln!("memory with {} peers", plan.peer_count);
    footprint::measure(lab, plan.peer_count, plan.settle_time, recorder);
}
