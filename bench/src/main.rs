//! The program `weaved-bench`: weaved against plain kernel VXLAN in one run.

use clap::Parser;
use weaved_bench::compare::{self, Options};

fn main() -> std::process::ExitCode {
    compare::main(&Options::parse())
}
