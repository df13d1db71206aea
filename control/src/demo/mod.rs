//! `weaved demo`: two hosts on this machine, one encrypted network, containers that talk, parts that die.
//!
//! Hosts and containers are network namespaces; everything else is the product: the verbs are run as an operator runs
//! them, with directories of their own. Each line that begins with a host's name and `#` is a command as typed.
//!
//! INVARIANT: whatever happens, what the demo made is taken away again; nothing that was there before is touched.

mod stage;
mod traffic;

use std::{net::Ipv4Addr, time::Duration};

use self::{
    stage::{Guest, Host, Stage},
    traffic::{Flood, Transfer},
};
use crate::{cli::output::say, failure::Failure, paths::Part};

/// How many bytes are sent and compared.
const TRANSFER_BYTES: u64 = 64 << 20;
/// How long a flood of pings lasts in which something is killed.
const FLOOD: Duration = Duration::from_secs(3);

/// Plays the whole piece and prints what it measures.
pub fn run() -> Result<(), Failure> {
    say("Two hosts on this machine; each is a network namespace with one Ethernet link to the other.");
    let stage = Stage::build()?;
    let [host_a, host_b] = stage.hosts();
    join(host_a, host_b)?;
    let web = stage.guest(host_b, "web")?;
    let shell = stage.guest(host_a, "shell")?;
    say(format!("\nTwo containers: shell {} on hostA, web {} on hostB.", shell.address, web.address));
    talk(&shell, &web)?;
    survive(&stage, host_b, &shell, &web)?;
    for host in [host_a, host_b] {
        host.show(&["reset", "--force"])?;
    }
    say("\nThat was all; everything is taken away again.");
    Ok(())
}

fn join(host_a: &Host, host_b: &Host) -> Result<(), Failure> {
    host_a.show(&["launch", "--name", "hostA", "--no-docker"])?;
    host_a.write_token(host_b)?;
    let address = host_a.address.to_string();
    host_b.show(&["launch", "--name", "hostB", "--no-docker", "--token-file", host_b.token_file(), &address])?;
    for host in [host_a, host_b] {
        host.wait_until_ready()?;
    }
    host_a.show(&["status"])
}

fn talk(shell: &Guest, web: &Guest) -> Result<(), Failure> {
    let round_trip = traffic::round_trip(shell, web)?;
    say(format!("  shell → web, 1,000 pings of 64 bytes:   {} in the middle", micros(round_trip)));
    let Transfer { elapsed, checksums_agree } = traffic::transfer(shell, web, TRANSFER_BYTES)?;
    let mbit = TRANSFER_BYTES * 8 / elapsed.as_micros().max(1) as u64;
    let verdict = if checksums_agree { "checksums agree" } else { "CHECKSUMS DIFFER" };
    say(format!("  shell → web, 64 MB over one TCP stream: {mbit} Mbit/s encrypted, {verdict}"));
    if checksums_agree { Ok(()) } else { Err(Failure::refused("the transfer was damaged: this is a bug")) }
}

fn survive(stage: &Stage, host: &Host, shell: &Guest, web: &Guest) -> Result<(), Failure> {
    say("\nNow something dies while shell pings web every millisecond.");
    for (part, story) in [(Part::Control, "control"), (Part::Dataplane, "the data plane")] {
        let Flood { sent, lost, outage } = traffic::flood(shell, web, FLOOD, || host.kill(part))?;
        let outage = if lost == 0 { String::new() } else { format!(", back after {}", micros(outage)) };
        say(format!("  kill -9 of {story} on hostB: {lost} of {sent} pings lost{outage}"));
        stage.check_alive()?;
    }
    Ok(())
}

fn micros(duration: Duration) -> String {
    match duration.as_micros() {
        micros @ 0..10_000 => format!("{micros} µs"),
        _ => format!("{} ms", duration.as_millis()),
    }
}

/// The address of the first container in a slice: behind the network's and the gateway's.
fn first_guest(slice: ipnet::Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(slice.network()) + 2)
}
