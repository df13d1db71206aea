//! Names and keys of `weaved` against etcd and dnsmasq from Debian, on one machine, in one run.
//!
//! One host of the lab runs all servers, each alone on its ports; a load is this program again, in the host's namespace. The
//! servers take turns, A, B, A, B, so that what changes on the machine changes for both. A ratio is the median of the
//! ratios of turns of the same pair.

#![expect(clippy::cast_precision_loss, reason = "counts and times of a bench are far below 2^52")]

mod dns;
mod grpc;
mod kv;
mod park;
mod run;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// What is wanted.
#[derive(Debug, Parser)]
#[command(about = "Names and keys against etcd and dnsmasq from Debian, in one run")]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start the servers, measure, print the table
    Run(run::Plan),
    /// One load; started by `run` in the host's namespace
    #[command(hide = true)]
    Load {
        /// How the server is asked
        protocol: Protocol,
        /// Where it is
        address: SocketAddr,
        #[command(flatten)]
        shape: Shape,
        #[command(subcommand)]
        kind: Kind,
    },
}

/// How long, and by how many.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Shape {
    /// How long, in milliseconds
    #[arg(long, default_value_t = 2000)]
    millis: u64,
    /// Clients, each with a connection and one question at a time
    #[arg(long, default_value_t = 16)]
    clients: usize,
}

#[derive(Clone, Debug, Subcommand)]
enum Kind {
    /// Put keys
    Put {
        /// What their names begin with
        prefix: String,
    },
    /// Get keys
    Get {
        /// What their names begin with
        prefix: String,
    },
    /// Wait for one key, as many times as there are clients, until it changes
    Park {
        /// The key
        key: String,
    },
    /// Ask for addresses
    Names {
        /// How many names there are
        count: usize,
    },
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// Consul's HTTP API.
    Http,
    /// etcd's gRPC API.
    Grpc,
    /// DNS over UDP.
    Dns,
}

/// What a load has measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Measured {
    per_second: f64,
    p50_us: u64,
    p99_us: u64,
    lost: u64,
}

impl Measured {
    /// Of the times of all answers, in microseconds.
    fn of(mut times: Vec<u64>, took: Duration, lost: u64) -> Self {
        times.sort_unstable();
        let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied();
        Self {
            per_second: times.len() as f64 / took.as_secs_f64(),
            p50_us: at(50).unwrap_or(0),
            p99_us: at(99).unwrap_or(0),
            lost,
        }
    }
}

/// What goes wrong ends the load, in words.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Does what is wanted.
pub fn main(options: &Options) -> ExitCode {
    let outcome = match &options.action {
        Action::Run(plan) => run::run(plan),
        Action::Load { protocol, address, shape, kind } => load(*protocol, *address, *shape, kind),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weaved-bench-control: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load(protocol: Protocol, address: SocketAddr, shape: Shape, kind: &Kind) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let measured = local.block_on(&runtime, async {
        match kind {
            Kind::Put { prefix } => kv::run(protocol, address, shape, kv::Verb::Put, prefix).await,
            Kind::Get { prefix } => kv::run(protocol, address, shape, kv::Verb::Get, prefix).await,
            Kind::Park { key } => park::run(protocol, address, shape, key).await,
            Kind::Names { count } => dns::run(address, shape, *count).await,
        }
    })?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
