//! The programs of the machine that the demo uses: where they are, which Debian package has them, running them.

use std::{
    io,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{failure::Failure, host::process::Process};

/// How long a program may take that normally takes a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a program to its end; what it prints is returned. The reason of a failure is its last complaint.
pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    finish(&format!("{program} {}", arguments.join(" ")), Command::new(program).args(arguments))
}

/// Runs a command, which people know as `line`, to its end or to that of our patience. What it prints must fit a pipe.
pub(super) fn finish(line: &str, command: &mut Command) -> Result<String, Failure> {
    let cannot = |error: io::Error| Failure::refused(format!("cannot run `{line}`: {error}"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(cannot)?;
    if Process::of_child(&child).is_some_and(|process| !process.wait(PATIENCE)) {
        return Err(Failure::refused(format!("`{line}` does not end within {} s", PATIENCE.as_secs())));
    }
    let output = child.wait_with_output().map_err(cannot)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    Err(Failure::refused(format!("`{line}` failed: {complaint}")))
}

/// Where a program is. The directories of root's programs count also for those whose path lacks them.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Refused if one of these programs is missing, by the name of the package that has it.
pub(super) fn require(programs: &[(&str, &str)]) -> Result<(), Failure> {
    match programs.iter().find(|(program, _)| find(program).is_none()) {
        Some((program, package)) => {
            Err(Failure::refused(format!("the program `{program}` is missing (Debian package {package})")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        assert_eq!(require(&[("sh", "dash")]), Ok(()));
        let refused = require(&[("sh", "dash"), ("no-such-program", "some-package")]).unwrap_err().to_string();
        assert!(refused.contains("`no-such-program`") && refused.contains("some-package"), "{refused}");
    }

    #[test]
    fn a_failure_gives_the_last_complaint() {
        assert_eq!(run("echo", &["well"]).unwrap(), "well\n");
        let refused = run("sh", &["-c", "echo first >&2; echo last >&2; exit 3"]).unwrap_err().to_string();
        assert!(refused.ends_with("failed: last"), "{refused}");
    }
}
