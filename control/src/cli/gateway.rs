//! `weaved gateway`: the process that answers names. Hidden.

use std::path::PathBuf;

use weaved_gateway::{Config, Office};

use crate::{
    failure::Failure,
    host::process::{PidFile, RetiredFile},
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
    /// Take over from the gateway that runs
    #[arg(long)]
    take_over: bool,
}

/// The pid file says who is in office.
#[derive(Debug)]
struct PidFiles {
    paths: Paths,
    own: Option<PidFile>,
    retired: Option<RetiredFile>,
}

impl Office for PidFiles {
    fn take(&mut self) -> Result<(), String> {
        self.own = Some(PidFile::claim(&self.paths, Part::Gateway).map_err(|failure| failure.to_string())?);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), String> {
        // First, so that there is no moment in which `stop` finds neither.
        self.retired = Some(RetiredFile::write(&self.paths).map_err(|failure| failure.to_string())?);
        self.own = None;
        Ok(())
    }
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    logging::init(if args.log_to_file { &LogTarget::File } else { &LogTarget::Stderr }, paths)?;
    paths.create_run_dir()?;
    let config = Config {
        run_dir: paths.run_dir.clone(),
        resolv_conf: args.resolv_conf.clone(),
        office: Box::new(PidFiles { paths: paths.clone(), own: None, retired: None }),
        takes_over: args.take_over,
    };
    weaved_gateway::run(config).map_err(|error| Failure::refused(format!("{error:#}")))
}
