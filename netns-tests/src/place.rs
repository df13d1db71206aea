//! Where a command can be run: a host, a guest, a container, a bare namespace.

use std::{process::Command, time::Duration};

use crate::command::{self, Output, Process};

/// A place inside of which commands run.
pub trait Place {
    /// What people call it.
    fn name(&self) -> String;

    /// The command that runs `args` inside, not started yet.
    fn command(&self, args: &[&str]) -> Command;

    /// Path of the traffic tool inside.
    fn labtool(&self) -> String;

    /// Runs `args` to their end, at most a minute.
    #[track_caller]
    fn run(&self, args: &[&str]) -> Output {
        Output::of(self.command(args))
    }

    /// Runs `args` to their end or to the deadline.
    #[track_caller]
    fn run_within(&self, deadline: Duration, args: &[&str]) -> Output {
        command::run(self.command(args), deadline)
    }

    /// Starts `args`; they are killed when the value is dropped.
    #[track_caller]
    fn spawn(&self, args: &[&str]) -> Process {
        Process::start(self.command(args))
    }

    /// Starts the traffic tool.
    #[track_caller]
    fn spawn_labtool(&self, args: &[&str]) -> Process {
        let tool = self.labtool();
        self.spawn(&[&[tool.as_str()], args].concat())
    }

    /// Runs the traffic tool to its end or to the deadline.
    #[track_caller]
    fn run_labtool(&self, deadline: Duration, args: &[&str]) -> Output {
        let tool = self.labtool();
        self.run_within(deadline, &[&[tool.as_str()], args].concat())
    }
}
