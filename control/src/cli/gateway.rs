//! `weaved gateway`: the process that answers names. Hidden.

use std::path::PathBuf;

use weaved_gateway::Config;

use crate::{
    failure::Failure,
    host::process::PidFile,
    logging::{self, LogTarget},
    paths::{Part, Paths},
};

/// Run the process that answers names
#[derive(clap::Args)]
#[command(hide = true, after_help = "Example:\n  weaved gateway --run-dir R")]
pub(super) struct Args {
    /// Log to the file in the state directory
    #[arg(long)]
    log_to_file: bool,
    /// Where the resolvers of this host are named
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf", env = "WEAVED_RESOLV_CONF")]
    resolv_conf: PathBuf,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    logging::init(if args.log_to_file { &LogTarget::File } else { &LogTarget::Stderr }, paths)?;
    paths.create_run_dir()?;
    let _pid_file = PidFile::claim(paths, Part::Gateway)?;
    let config = Config { run_dir: paths.run_dir.clone(), resolv_conf: args.resolv_conf.clone() };
    weaved_gateway::run(&config).map_err(|error| Failure::refused(format!("{error:#}")))
}
