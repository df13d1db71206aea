//! `weaved template`: renders files from catalogue and keys, and keeps them so.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::output;
use crate::{
    failure::Failure,
    logging::{self, LogTarget},
    paths::Paths,
    template::{api::Api, config, runner},
};

/// Tokens are UUIDs; nobody's is longer.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Render files from catalogue and keys, and render them again when those change
///
/// Talks to the Consul-compatible API of this node. A file is replaced at once or not at all: a template with an error, a check
/// command that refuses, and an API that is away leave the old one. A token comes from `CONSUL_HTTP_TOKEN` or from a file.
/// SIGHUP reads the configuration again. The language is described in docs/templates.md.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved template -c /etc/weaved/haproxy.toml           render and watch\n  \
                  weaved template -c /etc/weaved/haproxy.toml --once    render once and end\n  \
                  weaved template -c /etc/weaved/haproxy.toml --dry     show what would be written")]
pub(super) struct Args {
    /// Configuration: which templates, where to, which commands
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Render once and end
    #[arg(long)]
    once: bool,
    /// Print what would be written and end; write and run nothing
    #[arg(long, conflicts_with = "once")]
    dry: bool,
    /// Where the API is
    #[arg(long, value_name = "URL", env = "CONSUL_HTTP_ADDR", default_value = "http://127.0.0.1:8500")]
    http_addr: String,
    /// File with the token of the API
    #[arg(long, value_name = "FILE", env = "CONSUL_HTTP_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    logging::init(&LogTarget::Stderr, paths)?;
    let token = token(args.token_file.as_deref())?;
    let api = Api::new(&args.http_addr, token.as_ref().map(|token| token.trim())).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::refused(format!("cannot start: {error}")))?;
    if !args.once && !args.dry {
        return runtime.block_on(runner::run(api, args.config.clone()));
    }
    let templates = config::load(&args.config).map_err(Failure::refused)?;
    if args.once {
        return runtime.block_on(runner::once(&api, templates));
    }
    for (destination, text) in runtime.block_on(runner::dry(&api, templates))? {
        output::say(format!("> {}\n{}", destination.display(), text.trim_end_matches('\n')));
    }
    Ok(())
}

fn token(file: Option<&Path>) -> Result<Option<Zeroizing<String>>, Failure> {
    let Some(path) = file else {
        let token = std::env::var("CONSUL_HTTP_TOKEN").ok().filter(|token| !token.is_empty());
        return Ok(token.map(Zeroizing::new));
    };
    let mut text = Zeroizing::new(String::new());
    let outcome = File::open(path).and_then(|file| file.take(MAX_TOKEN_BYTES).read_to_string(&mut text));
    outcome.map_err(|error| Failure::refused(format!("cannot read the token from {}: {error}", path.display())))?;
    Ok(Some(text))
}
