//! A check by a command in a container, as `docker exec` runs it.
//!
//! INVARIANT: a command that outlives its timeout is killed with its process group before the run ends, so that checks
//! that hang do not pile up. Docker has no request for that: its process id is asked for, and the kernel is told.

use std::time::Duration;

use bollard::{
    Docker,
    exec::{CreateExecOptions, StartExecResults},
};
use futures_util::StreamExt;

use super::{ExecProbe, probes::Tools, schedule::MAX_OUTPUT_BYTES};
use crate::{catalogue::Health, docker};

/// How long the end of a command that hangs may take.
pub(super) const CLEANUP_PATIENCE: Duration = Duration::from_secs(5);
const EXIT_LOOKS: usize = 20;
const EXIT_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn run(probe: &ExecProbe, timeout: Duration, tools: &Tools) -> Result<(Health, String), String> {
    let docker = docker::connect(&tools.docker).await?;
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(probe.command.clone()),
        ..CreateExecOptions::default()
    };
    let created = docker.create_exec(&probe.container, options).await.map_err(|error| docker::one_line(&error))?;
    let mut output = Vec::new();
    let ended = tokio::time::timeout(timeout, follow(&docker, &created.id, &mut output)).await;
    let text = String::from_utf8_lossy(&output).into_owned();
    match ended {
        Ok(Ok(())) => judge(&docker, &created.id, text).await,
        Ok(Err(reason)) => Err(reason),
        Err(_) => {
            kill(&docker, &created.id).await;
            Err(format!("killed after {} s\n{text}", timeout.as_secs_f64()))
        }
    }
}

/// Until the command's output ends. More than is kept is read and thrown away, so that the command goes on.
async fn follow(docker: &Docker, id: &str, output: &mut Vec<u8>) -> Result<(), String> {
    let started = docker.start_exec(id, None).await.map_err(|error| docker::one_line(&error))?;
    let StartExecResults::Attached { output: mut stream, input: _input } = started else {
        return Err("Docker gives no output of the command".into());
    };
    while let Some(piece) = stream.next().await {
        let bytes = piece.map_err(|error| docker::one_line(&error))?.into_bytes();
        output.extend_from_slice(&bytes[..bytes.len().min(MAX_OUTPUT_BYTES - output.len())]);
    }
    Ok(())
}

async fn judge(docker: &Docker, id: &str, output: String) -> Result<(Health, String), String> {
    let exit_code = match exit_code(docker, id).await? {
        Ended::With(exit_code) => exit_code,
        Ended::NotYet => {
            kill(docker, id).await;
            return Err(format!("it closed its output and went on; killed\n{output}"));
        }
    };
    match exit_code {
        Some(0) => Ok((Health::Passing, output)),
        Some(1) => Ok((Health::Warning, output)),
        Some(code) => Err(format!("exit code {code}\n{output}")),
        None => Err(format!("Docker does not know how it ended\n{output}")),
    }
}

/// Whether a command has ended.
enum Ended {
    With(Option<i64>),
    NotYet,
}

/// Docker hears of the end of the process a little after that of its output.
async fn exit_code(docker: &Docker, id: &str) -> Result<Ended, String> {
    for _ in 0..EXIT_LOOKS {
        let state = docker.inspect_exec(id).await.map_err(|error| docker::one_line(&error))?;
        if state.running != Some(true) {
            return Ok(Ended::With(state.exit_code));
        }
        tokio::time::sleep(EXIT_PAUSE).await;
    }
    Ok(Ended::NotYet)
}

async fn kill(docker: &Docker, id: &str) {
    let Ok(state) = docker.inspect_exec(id).await else { return };
    let pid = state.pid.and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    if let (Some(true), Some(pid)) = (state.running, pid) {
        let signal = rustix::process::Signal::KILL;
        // runc gives each command a session of its own, so its group is what it has forked.
        let killed = rustix::process::kill_process_group(pid, signal);
        if let Err(error) = killed.or_else(|_| rustix::process::kill_process(pid, signal)) {
            tracing::debug!(%error, "a command of a check has ended before it was killed");
        }
    }
}
