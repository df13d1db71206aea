//! Where the API listens: addresses come and go with the bridge; one that is taken is tried again.
//!
//! The API has a thread of its own, so that ten thousand clients do not delay what the daemon's loop does.
//!
//! INVARIANT: nothing fails because an address cannot be listened on; it is said once in the log and stands in the status.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::{
    counters::Counters,
    room::{Limits, Room},
    server::{self, Handler, MAX_CONNECTIONS},
};
use crate::{failure::Failure, host::open_files};

/// An address that is taken, or not there yet, is tried again after this.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A bridge gets its address a moment after it is wanted: that it is not there is no problem before this.
const GRACE: Duration = Duration::from_secs(5);

/// Where the API answers, and why it does not where it should: None for an address where it does. An address that may
/// still come is in neither state and not here.
pub type Listening = BTreeMap<SocketAddr, Option<String>>;

/// Serves on the wanted addresses, whatever they are at the time, until `wanted` is dropped.
pub fn start(
    handler: impl Handler,
    wanted: watch::Receiver<BTreeSet<SocketAddr>>,
    state: watch::Sender<Listening>,
    counters: Arc<Counters>,
) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::refused(format!("cannot start the HTTP API: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let room = Arc::new(Room::new(Limits::of_node(open_files::room_for(MAX_CONNECTIONS)), counters));
    let run = move || runtime.block_on(keep_listening(Arc::new(handler), room, wanted, state));
    thread::Builder::new().name("http".into()).spawn(run).map(drop).map_err(cannot)
}

async fn keep_listening(
    handler: Arc<impl Handler>,
    room: Arc<Room>,
    mut wanted: watch::Receiver<BTreeSet<SocketAddr>>,
    state: watch::Sender<Listening>,
) {
    let mut listeners: BTreeMap<SocketAddr, JoinHandle<()>> = BTreeMap::new();
    let mut missing = Missing::default();
    loop {
        let addresses = wanted.borrow_and_update().clone();
        for (_, gone) in listeners.extract_if(.., |address, _| !addresses.contains(address)) {
            gone.abort();
        }
        missing.since.retain(|address, _| addresses.contains(address));
        let mut listening = Listening::new();
        for &address in &addresses {
            if let Entry::Vacant(place) = listeners.entry(address) {
                match server::bind(address) {
                    Ok(listener) => {
                        let task = server::serve(listener, Arc::clone(&handler), Arc::clone(&room));
                        place.insert(tokio::spawn(task));
                        missing.since.remove(&address);
                        tracing::info!(%address, "the HTTP API listens");
                    }
                    Err(error) => {
                        if missing.is_problem(address, &error, Instant::now()) {
                            listening.insert(address, Some(error.to_string()));
                        }
                        continue;
                    }
                }
            }
            listening.insert(address, None);
        }
        let is_complete = listeners.len() == addresses.len();
        tell(listening, &state);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY_INTERVAL), if !is_complete => {}
        }
    }
}

/// Addresses that this host does not have, since when.
#[derive(Default)]
struct Missing {
    since: BTreeMap<SocketAddr, Instant>,
}

impl Missing {
    /// Everything that fails is a problem, but an address that is not there is one only when it does not come.
    fn is_problem(&mut self, address: SocketAddr, error: &io::Error, now: Instant) -> bool {
        if error.kind() != io::ErrorKind::AddrNotAvailable {
            return true;
        }
        now - *self.since.entry(address).or_insert(now) >= GRACE
    }
}

/// A problem is said when it is new.
fn tell(listening: Listening, state: &watch::Sender<Listening>) {
    state.send_if_modified(|known| {
        for (address, problem) in &listening {
            if let Some(problem) =
                problem.as_ref().filter(|problem| known.get(address) != Some(&Some((*problem).clone())))
            {
                tracing::warn!(%address, problem, "the HTTP API cannot listen here; tried again every second");
            }
        }
        let has_changed = *known != listening;
        *known = listening;
        has_changed
    });
}

#[cfg(test)]
mod tests {
    use hyper::Method;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::{
        consul::{
            answer::{Answer, Standing},
            request::Ask,
        },
        kv::Reach,
    };

    struct Hello;

    impl Handler for Hello {
        async fn answer(&self, ask: Ask) -> Answer {
            if ask.method == Method::GET { Answer::json(&"hello") } else { Answer::nothing() }
        }

        fn standing(&self) -> Standing {
            Standing { index: 1, reach: Reach { answering: 1, voters: 1, lost_for_ms: None } }
        }

        fn admits(&self, _token: Option<&str>) -> bool {
            true
        }
    }

    async fn ask(address: SocketAddr) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[test]
    fn an_address_that_is_not_there_is_a_problem_only_when_it_does_not_come() {
        let address = "192.0.2.1:8500".parse().unwrap();
        let (mut missing, start) = (Missing::default(), Instant::now());
        let not_there = io::Error::from(io::ErrorKind::AddrNotAvailable);
        assert!(!missing.is_problem(address, &not_there, start));
        assert!(!missing.is_problem(address, &not_there, start + GRACE / 2));
        assert!(missing.is_problem(address, &not_there, start + GRACE));
        assert!(
            missing.is_problem(address, &io::ErrorKind::AddrInUse.into(), start),
            "one that is taken is one at once"
        );
    }

    #[tokio::test]
    async fn an_address_that_this_host_does_not_have_yet_stands_in_neither_state() {
        let (address, local) =
            ("192.0.2.1:8500".parse().unwrap(), server::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let taken = local.local_addr().unwrap();
        let (_wanted, addresses) = watch::channel(BTreeSet::from([address, taken]));
        let (sender, mut state) = watch::channel(Listening::new());
        start(Hello, addresses, sender, Arc::default()).unwrap();
        let told = state.wait_for(|listening| listening.contains_key(&taken)).await.unwrap().clone();
        assert!(!told.contains_key(&address), "{told:?}");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_listened_on_when_it_is_free() {
        let taken = server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        let (wanted, addresses) = watch::channel(BTreeSet::from([address]));
        let (sender, mut state) = watch::channel(Listening::new());
        start(Hello, addresses, sender, Arc::default()).unwrap();
        let told = state.wait_for(|listening| listening.contains_key(&address)).await.unwrap().clone();
        assert!(told[&address].as_ref().unwrap().contains("in use"), "{told:?}");
        drop(taken);
        state.wait_for(|listening| listening.get(&address) == Some(&None)).await.unwrap();
        assert!(ask(address).await.unwrap().ends_with("\"hello\""));

        wanted.send_replace(BTreeSet::new());
        state.wait_for(Listening::is_empty).await.unwrap();
        assert!(ask(address).await.is_err(), "an address that is wanted no more is left");
    }
}
