//! Docker on this host: what it must be told ([`config`], [`systemd`]), and what it runs ([`watch`]).
//!
//! INVARIANT: Docker never waits for us. Everything about containers is looked at from outside, again and again.

pub mod config;
mod inspect;
pub mod install;
mod signals;
pub mod systemd;
pub mod watch;

use std::{path::Path, time::Duration};

use bollard::{API_DEFAULT_VERSION, Docker};

use crate::state::DockerChoice;

/// Where Docker listens when nothing else is said.
const USUAL_SOCKET: &str = "unix:///var/run/docker.sock";
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);

/// The Docker of this host, in the newest version of its API that both sides speak; one line when it does not answer.
pub(crate) async fn connect(choice: &DockerChoice) -> Result<Docker, String> {
    let host = match choice {
        DockerChoice::Host(host) => host.as_str(),
        DockerChoice::Usual => USUAL_SOCKET,
        DockerChoice::Off => return Err("weaved was launched with --no-docker".into()),
    };
    if !host.starts_with("unix://") {
        return Err(format!("DOCKER_HOST is {host}; only the Docker of this host, unix://PATH, can be watched"));
    }
    let docker = Docker::connect_with_unix(host, REQUEST_PATIENCE.as_secs(), API_DEFAULT_VERSION);
    let docker = docker.map_err(|error| one_line(&error))?;
    docker.negotiate_version().await.map_err(|error| one_line(&error))
}

/// True when there is nothing at all where Docker would listen.
pub(crate) fn is_missing(choice: &DockerChoice) -> bool {
    let host = match choice {
        DockerChoice::Host(host) => host.as_str(),
        DockerChoice::Usual => USUAL_SOCKET,
        DockerChoice::Off => return true,
    };
    host.strip_prefix("unix://").is_some_and(|path| matches!(Path::new(path).try_exists(), Ok(false)))
}

/// An error of Docker's as one line.
pub(crate) fn one_line(error: &bollard::errors::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
