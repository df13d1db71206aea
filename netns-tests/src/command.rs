//! Commands with a deadline, and processes that end with the value that holds them.
//!
//! Output goes to unlinked files, not to pipes: a daemon that a command leaves behind may hold its output open for
//! ever, and nobody has to drain anything while a command runs.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// The most output that is read back of one command; more is cut off.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// How long a command may take unless the caller says otherwise.
pub(crate) const COMMAND_DEADLINE: Duration = Duration::from_mins(1);
/// How often a running command is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, to be pasted into a shell.
    pub line: String,
    /// Exit code; None when a signal ended it, as at the deadline.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Runs a command, at most a minute.
    #[track_caller]
    pub fn of(command: Command) -> Self {
        run(command, COMMAND_DEADLINE)
    }

    /// True for exit code 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Panics unless the command succeeded.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "often the panic is all that is wanted")]
    pub fn ok(self) -> Self {
        assert!(self.success(), "command failed\n{self}");
        self
    }

    /// Panics unless the command ended with `code` and said why in one line on standard error; returns that line.
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        assert!(self.code == Some(code), "exit code {code} was expected\n{self}");
        let mut lines = self.stderr.lines().filter(|line| !line.trim().is_empty());
        match (lines.next(), lines.next()) {
            (Some(line), None) => line.to_owned(),
            _ => panic!("one line on standard error was expected\n{self}"),
        }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, code, stdout, stderr } = self;
        let code = code.map_or_else(|| "ended by a signal (the deadline?)".to_owned(), |code| format!("code {code}"));
        write!(f, "$ {line}\n--- {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// A running command; killed, by its pid, when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    line: String,
    stdout: File,
    stderr: File,
}

impl Process {
    /// Starts a command. Its standard input ends when this value is dropped, which reaches also what a signal does
    /// not, such as a process that `docker exec` has started in a container.
    #[track_caller]
    pub fn start(command: Command) -> Self {
        Self::start_with(command, Stdio::piped())
    }

    #[track_caller]
    fn start_with(mut command: Command, stdin: Stdio) -> Self {
        let line = shell_line(&command);
        let (stdout, stderr) = (scratch_file(), scratch_file());
        command.stdin(stdin).stdout(shared(&stdout)).stderr(shared(&stderr));
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
        Self { child, line, stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        text_of(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        text_of(&self.stderr)
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `text` appears in its output.
    #[track_caller]
    pub fn wait_for_text(&mut self, text: &str, deadline: Duration) {
        let end = Instant::now() + deadline;
        while !self.stdout().contains(text) && !self.stderr().contains(text) {
            let failed = Instant::now() >= end || !self.is_running();
            assert!(!failed, "`{text}` was expected from `{}`\n{}\n{}", self.line, self.stdout(), self.stderr());
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Ends its standard input, which some take as a sign to come to an end.
    pub fn end_input(&mut self) {
        self.child.stdin = None;
    }

    /// Waits for its end; at the deadline it is killed.
    pub fn finish(mut self, deadline: Duration) -> Output {
        let end = Instant::now() + deadline;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < end => std::thread::sleep(POLL_INTERVAL),
                _ => break None,
            }
        };
        self.output(status)
    }

    /// Ends it now.
    pub fn kill(mut self) -> Output {
        let status = self.end();
        self.output(status)
    }

    fn end(&mut self) -> Option<ExitStatus> {
        // An error means that it has ended already, which `wait` tells as well.
        let _ = self.child.kill();
        self.child.wait().ok()
    }

    fn output(&mut self, status: Option<ExitStatus>) -> Output {
        let code = status.or_else(|| self.end()).and_then(|status| status.code());
        Output { line: self.line.clone(), code, stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs a command to its end, or to the deadline.
#[track_caller]
pub(crate) fn run(command: Command, deadline: Duration) -> Output {
    Process::start_with(command, Stdio::null()).finish(deadline)
}

/// The command as it would be typed, with the variables that were set for it.
fn shell_line(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        value.map(|value| format!("{}={}", name.to_string_lossy(), quoted(&value.to_string_lossy())))
    });
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    variables.chain(words.map(|word| quoted(&word.to_string_lossy()))).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[track_caller]
fn scratch_file() -> File {
    tempfile::tempfile().unwrap_or_else(|error| panic!("cannot make a file for a command's output: {error}"))
}

#[track_caller]
fn shared(file: &File) -> File {
    file.try_clone().unwrap_or_else(|error| panic!("cannot hand a file to a command: {error}"))
}

/// Reads without moving the offset, which the writing process shares.
fn text_of(file: &File) -> String {
    let len = file.metadata().map_or(0, |metadata| metadata.len() as usize).min(MAX_OUTPUT_BYTES);
    let mut bytes = vec![0; len];
    let read = read_at_start(file, &mut bytes).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

fn read_at_start(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_code_are_reported() {
        let output = run(shell("echo out; echo err >&2; exit 3"), Duration::from_secs(10));
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(3), "out\n", "err\n"));
        assert_eq!(output.refused(3), "err");
    }

    #[test]
    fn a_command_is_killed_at_its_deadline() {
        let output = run(shell("echo begun; exec sleep 60"), Duration::from_millis(200));
        assert_eq!((output.code, output.stdout.as_str()), (None, "begun\n"));
    }

    #[test]
    fn a_daemon_left_behind_does_not_hold_up_its_starter() {
        let output = run(shell("sleep 2 & echo done"), Duration::from_secs(10));
        assert_eq!(output.ok().stdout, "done\n");
    }

    #[test]
    fn the_line_can_be_pasted() {
        let mut command = shell("echo 'a b'");
        command.env("X", "1 2");
        assert_eq!(shell_line(&command), r"X='1 2' sh -c 'echo '\''a b'\'''");
    }
}
