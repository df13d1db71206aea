//! Runs probes: each is one attempt, within its timeout, with its output bounded.
//!
//! INVARIANT: whatever the other side does, a run ends by its timeout and keeps at most [`MAX_OUTPUT_BYTES`].

use std::{net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use super::{
    Probe, exec, grpc, http,
    schedule::{MAX_OUTPUT_BYTES, Outcome, cut},
};
use crate::{catalogue::Health, state::DockerChoice};

/// What probes need of the outside.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The Docker whose containers commands run in.
    pub docker: DockerChoice,
}

/// Runs one probe.
pub async fn run(probe: &Probe, timeout: Duration, tools: &Tools) -> Outcome {
    let attempt = async {
        match probe {
            Probe::Http(probe) => http::run(probe).await,
            Probe::Tcp(target) => tcp(target).await,
            Probe::Grpc(probe) => grpc::run(probe).await,
            // It has a process to end at its timeout.
            Probe::Exec(probe) => exec::run(probe, timeout, tools).await,
            Probe::Ttl(_) => Err("nobody runs a TTL".into()),
        }
    };
    let patience = match probe {
        Probe::Exec(_) => timeout + exec::CLEANUP_PATIENCE,
        _ => timeout,
    };
    let outcome = tokio::time::timeout(patience, attempt).await;
    let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {} s", timeout.as_secs_f64())));
    let (health, output) = outcome.unwrap_or_else(|reason| (Health::Critical, reason));
    Outcome { health, output: clean(&output) }
}

/// A connection that opens is enough.
async fn tcp(target: &str) -> Result<(Health, String), String> {
    connect(target).await.map(|_| (Health::Passing, format!("{target} accepts connections")))
}

/// Why a target can never be connected to; None where it is a `HOST:PORT`, whether or not somebody is there.
pub fn problem_of(target: &str) -> Option<String> {
    let is_of_host = |char: char| char.is_ascii_alphanumeric() || "-_.:%[]".contains(char);
    let is_one = target.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && host.chars().all(is_of_host) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    (!is_one).then(|| format!("{target:?} is no HOST:PORT"))
}

/// Connects to `HOST:PORT`.
pub(super) async fn connect(target: &str) -> Result<TcpStream, String> {
    let stream = match target.parse::<SocketAddr>() {
        Ok(address) => TcpStream::connect(address).await,
        Err(_) => TcpStream::connect(target).await,
    };
    stream.map_err(|error| format!("cannot connect to {target}: {error}"))
}

/// Text that is fit for a terminal and for the catalogue.
fn clean(output: &str) -> String {
    let text: String = cut(output, MAX_OUTPUT_BYTES)
        .chars()
        .map(|char| if char.is_control() && char != '\n' { ' ' } else { char })
        .collect();
    cut(text.trim(), MAX_OUTPUT_BYTES).to_owned()
}

#[cfg(test)]
mod tests;
