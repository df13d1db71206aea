//! The piece: what is shown, in its order.

use std::{path::Path, time::Duration};

use super::{
    DockerWish,
    dockerd::{self, Dockerd},
    engine::{Engine, Guest, Role},
    stage::{Host, Stage},
    tool,
    traffic::{self, Flood, Transfer},
};
use crate::{cli::output::say, failure::Failure, paths::Part};

/// How many bytes are sent and compared.
const TRANSFER_BYTES: u64 = 64 << 20;
/// How long a flood of pings lasts in which something is killed.
const FLOOD: Duration = Duration::from_secs(3);

/// Plays it in the demo's directory, and prints what it measures.
pub(super) fn play(directory: &Path, wish: DockerWish) -> Result<(), Failure> {
    tool::require(&[("ip", "iproute2")])?;
    say("Two hosts on this machine; each is a network namespace with one Ethernet link to the other.");
    let wish = choose(wish)?;
    let stage = Stage::build(directory)?;
    let hosts @ [host_a, host_b] = stage.hosts();
    join(host_a, host_b, wish)?;
    let [engine_a, engine_b] = engines(hosts, wish)?;
    let web = engine_b.start(host_b, Role::Web)?;
    let shell = engine_a.start(host_a, Role::Shell)?;
    engine_a.try_out(host_a, &web)?;
    host_a.show(&["status"])?;
    say(format!("\nTwo containers: shell {} on hostA, web {} on hostB.", shell.address, web.address));
    talk(&shell, &web)?;
    survive(&stage, host_b, &shell, &web)?;
    engine_a.finish()?;
    engine_b.finish()?;
    hosts.into_iter().try_for_each(|host| host.show(&["reset", "--force"]))
}

/// Says what plays the containers, and why. The answer is one that this machine has the programs for.
fn choose(wish: DockerWish) -> Result<DockerWish, Failure> {
    match (wish, dockerd::require()) {
        (DockerWish::Unwanted, _) => say("Containers are namespaces too: without Docker, as asked."),
        (DockerWish::IfThere, Err(reason)) => {
            say(format!("Containers are namespaces too: without Docker, because {reason}."));
            return Ok(DockerWish::Unwanted);
        }
        (DockerWish::Required, Err(reason)) => return Err(reason),
        (DockerWish::IfThere | DockerWish::Required, Ok(())) => {
            say("Containers are Docker's: each host has a dockerd of its own.");
        }
    }
    Ok(wish)
}

fn join(host_a: &Host, host_b: &Host, wish: DockerWish) -> Result<(), Failure> {
    let docker: &[&str] = if wish == DockerWish::Unwanted { &["--no-docker"] } else { &[] };
    host_a.show(&[&["launch", "--name", "hostA"], docker].concat())?;
    host_a.write_token(host_b)?;
    let (address, token) = (host_a.address.to_string(), host_b.token_file().display().to_string());
    host_b.show(&[&["launch", "--name", "hostB"], docker, &["--token-file", &token, &address]].concat())?;
    for host in [host_a, host_b] {
        host.wait_until_ready()?;
    }
    Ok(())
}

/// What makes the containers of each host. A Docker that does not work here is done without, unless it is required.
fn engines(hosts: [&Host; 2], wish: DockerWish) -> Result<[Engine; 2], Failure> {
    const NAMESPACES: [Engine; 2] = [Engine::Namespaces, Engine::Namespaces];
    if wish == DockerWish::Unwanted {
        return Ok(NAMESPACES);
    }
    let [host_a, host_b] = hosts;
    let dockerd_a = Dockerd::start(host_a);
    let both = dockerd_a.and_then(|dockerd_a| match Dockerd::start(host_b) {
        Ok(dockerd_b) => Ok([dockerd_a, dockerd_b].map(Engine::Docker)),
        Err(failure) => dockerd_a.finish().and(Err(failure)),
    });
    match both {
        Err(reason) if wish == DockerWish::IfThere => {
            say(format!("\nContainers are namespaces too: on without Docker, because {reason}."));
            Ok(NAMESPACES)
        }
        both => both,
    }
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
