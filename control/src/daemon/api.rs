//! The HTTP API's place in the daemon: what it is given, where it shall listen.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use tokio::sync::watch;

use super::{Daemon, KvClient};
use crate::{
    consul::{
        kv::Keys,
        listen::{self, Listening},
        room::{Limits, Room},
        routes::Routes,
        server::MAX_CONNECTIONS,
    },
    failure::Failure,
    host::open_files,
    serve::report::HttpReport,
    state::settings::HttpSettings,
};

/// The longest token; more is another file.
const MAX_TOKEN_BYTES: usize = 4096;

/// The API of this node, if it has one.
pub(super) struct Api {
    port: Option<u16>,
    wanted: watch::Sender<BTreeSet<SocketAddr>>,
    listening: watch::Receiver<Listening>,
    problem: Option<String>,
    room: Arc<Room>,
}

impl Api {
    /// Starts it. Nothing else fails when it cannot be: the reason stands in the status.
    pub(super) fn start<K: Keys + 'static>(
        settings: &HttpSettings,
        routes: impl FnOnce(Option<String>) -> Routes<K>,
    ) -> Self {
        let (wanted, addresses) = watch::channel(BTreeSet::new());
        let (state, listening) = watch::channel(Listening::new());
        let room = Arc::new(Room::new(Limits::of_node(open_files::room_for(MAX_CONNECTIONS))));
        let started = read_token(settings.token_file.as_deref()).and_then(|token| {
            settings.port.map_or(Ok(()), |_| listen::start(routes(token), addresses, state, Arc::clone(&room)))
        });
        let problem = started.err().map(|failure| failure.to_string());
        if let Some(problem) = &problem {
            tracing::error!(problem, "the HTTP API does not run");
        }
        Self { port: settings.port, wanted, listening, problem, room }
    }

    /// What somebody should look at.
    pub(super) fn problems(&self) -> Vec<String> {
        let refused = |(address, problem): (&SocketAddr, &Option<String>)| {
            problem
                .as_ref()
                .map(|problem| format!("the HTTP API cannot listen on {address}: {problem}; it tries again"))
        };
        self.problem.iter().cloned().chain(self.listening.borrow().iter().filter_map(refused)).collect()
    }

    /// What it counts.
    pub(super) fn report(&self) -> HttpReport {
        HttpReport { open: self.room.open() as u64, counters: self.room.counters.report() }
    }

    fn listen_on(&self, gateway: Option<IpAddr>) {
        let Some(port) = self.port else { return };
        let addresses = [Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), gateway];
        let addresses = addresses.into_iter().flatten().map(|address| SocketAddr::new(address, port)).collect();
        self.wanted.send_if_modified(|wanted| {
            let has_changed = *wanted != addresses;
            *wanted = addresses;
            has_changed
        });
    }
}

impl Keys for KvClient {
    async fn call_from(&self, request: crate::kv::Request, source: &str) -> crate::kv::Answer {
        self.call(request, source).await
    }
}

impl Daemon {
    /// The API listens where the bridge is.
    pub(super) fn place_api(&self) {
        self.api.listen_on(self.node.wanted().gateway.map(|gateway| gateway.addr()));
    }
}

fn read_token(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(file) = file else { return Ok(None) };
    let cannot = |reason: String| Failure::refused(format!("the HTTP API's token in {}: {reason}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| cannot(error.to_string()))?;
    match text.trim() {
        "" => Err(cannot("the file is empty".into())),
        token if token.len() > MAX_TOKEN_BYTES => Err(cannot(format!("longer than {MAX_TOKEN_BYTES} bytes"))),
        token => Ok(Some(token.to_owned())),
    }
}
