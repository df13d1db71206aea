//! Check and reload commands: run in a process group of their own, for a bounded time, with bounded output.
//!
//! A text goes to `/bin/sh -c`, a list is run as it is. `{}` stands for the path of the candidate; in a text it is quoted for
//! the shell. `WEAVED_FILE` holds it, too.

use std::{path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};

use super::limits;

/// A command as the configuration writes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum CommandLine {
    /// For the shell.
    Shell(String),
    /// A program and its arguments.
    List(Vec<String>),
}

impl CommandLine {
    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Shell(text) => text.trim().is_empty(),
            Self::List(words) => words.first().is_none_or(String::is_empty),
        }
    }

    fn words(&self, file: &Path) -> Vec<String> {
        let path = file.to_string_lossy();
        match self {
            Self::Shell(text) => {
                let quoted = format!("'{}'", path.replace('\'', r"'\''"));
                vec!["/bin/sh".into(), "-c".into(), text.replace("{}", &quoted)]
            }
            Self::List(words) => words.iter().map(|word| word.replace("{}", &path)).collect(),
        }
    }
}

/// Runs it to its end. The error is one sentence with what the command said.
pub async fn run(line: &CommandLine, file: &Path, deadline: Duration) -> Result<(), String> {
    let words = line.words(file);
    let program = words.first().map_or("", String::as_str);
    let mut command = Command::new(program);
    command.args(&words[1..]).env("WEAVED_FILE", file).env_remove("CONSUL_HTTP_TOKEN").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
    let group = Group::of(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        // A reload may leave a daemon behind that has inherited our pipes: the end of the command counts, not of its output.
        let (mut errors, mut output) = (Vec::new(), Vec::new());
        let status = {
            let reading = async { tokio::join!(keep(stderr, &mut errors), keep(stdout, &mut output)) };
            tokio::pin!(reading);
            tokio::select! {
                _ = &mut reading => child.wait().await,
                status = child.wait() => {
                    drop(timeout(Duration::from_millis(200), &mut reading).await);
                    status
                }
            }
        };
        (status, errors, output)
    };
    let Ok((status, errors, output)) = timeout(deadline, work).await else {
        group.kill();
        return Err(format!("does not end within {} s and was killed", deadline.as_secs_f32()));
    };
    let status = status.map_err(|error| format!("cannot wait for {program}: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let said = if errors.iter().all(u8::is_ascii_whitespace) { output } else { errors };
    let said = shown(&String::from_utf8_lossy(&said));
    Err(if said.is_empty() { format!("{status}, without a word") } else { format!("{status}: {said}") })
}

/// A command and what it has started.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn kill(&self) {
        if let Some(pid) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Keeps the beginning and reads on.
async fn keep(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        let room = limits::MAX_OUTPUT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..count.min(room)]);
    }
}

/// One line of it, without anything that moves a cursor.
pub fn shown(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut shown: String = line.chars().take(limits::MAX_SHOWN_CHARS).flat_map(harmless).collect();
    if line.chars().nth(limits::MAX_SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

fn harmless(letter: char) -> Vec<char> {
    if letter.is_control() { letter.escape_debug().collect() } else { vec![letter] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(line: &CommandLine, deadline: Duration) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(line, Path::new("/a b/it's"), deadline))
    }

    fn shell(text: &str) -> Result<(), String> {
        outcome(&CommandLine::Shell(text.into()), Duration::from_secs(20))
    }

    #[test]
    fn the_path_arrives_whole_whatever_it_is_called() {
        assert_eq!(shell(r#"test {} = "$WEAVED_FILE" && test {} = "/a b/it's""#), Ok(()));
        let list = ["test", "{}", "=", "/a b/it's"].map(String::from).to_vec();
        assert_eq!(outcome(&CommandLine::List(list), Duration::from_secs(20)), Ok(()));
    }

    #[test]
    fn a_failure_says_in_one_line_what_the_command_said() {
        let said = shell("echo first; printf 'bad\\nline \\033[2J' >&2; exit 3").unwrap_err();
        assert!(
            said.contains('3') && said.contains("bad line") && !said.contains('\u{1b}') && !said.contains("first"),
            "{said}"
        );
        assert_eq!(shell("exit 1").unwrap_err(), "exit status: 1, without a word");
        assert!(shell("echo only here; exit 1").unwrap_err().contains("only here"));
        let missing = CommandLine::List(vec!["/no/such/program".into()]);
        assert!(outcome(&missing, Duration::from_secs(20)).unwrap_err().contains("cannot run /no/such/program"));
    }

    #[test]
    fn a_megabyte_of_output_neither_blocks_nor_is_shown() {
        let said = shell("yes | head -c 1000000 >&2; exit 1").unwrap_err();
        assert!(said.chars().count() < 500, "{}", said.len());
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let text = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let said = outcome(&CommandLine::Shell(text), Duration::from_secs(2)).unwrap_err();
        assert!(said.contains("was killed"), "{said}");
        let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let start = std::time::Instant::now();
        while !gone() {
            assert!(start.elapsed() < Duration::from_secs(20), "the child lives on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_daemon_that_a_reload_leaves_behind_does_not_hold_us() {
        // It would outlive the deadline, which would be the failure.
        assert_eq!(shell("sleep 30 & exit 0"), Ok(()));
    }
}
