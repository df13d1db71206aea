//! Names and keys against well-known servers from Debian, in one run and in turns: see `weaved_bench::control`.

use clap::Parser;
use weaved_bench::control::{self, Options};

fn main() -> std::process::ExitCode {
    control::main(&Options::parse())
}
