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
    time::Instant,
};

use tokio::{sync::watch, task::JoinHandle};
use weaved_gateway::obstacle::{Obstacle, RETRY_INTERVAL};

use super::{
    room::Room,
    server::{self, Handler},
};
use crate::failure::Failure;

/// Where the API answers, and why it does not where it should: None for an address where it does. An address that may
/// still come is in neither state and not here.
pub type Listening = BTreeMap<SocketAddr, Option<String>>;

/// Serves on the wanted addresses, whatever they are at the time, until `wanted` is dropped.
pub fn start(
    handler: impl Handler,
    wanted: watch::Receiver<BTreeSet<SocketAddr>>,
    state: watch::Sender<Listening>,
    room: Arc<Room>,
) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::refused(format!("cannot start the HTTP API: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
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
    let mut failed: BTreeMap<SocketAddr, Obstacle> = BTreeMap::new();
    loop {
        let addresses = wanted.borrow_and_update().clone();
        for (_, gone) in listeners.extract_if(.., |address, _| !addresses.contains(address)) {
            gone.abort();
        }
        failed.retain(|address, _| addresses.contains(address));
        for &address in &addresses {
            let Entry::Vacant(place) = listeners.entry(address) else { continue };
            match server::bind(address) {
                Ok(listener) => {
                    let task = server::serve(listener, Arc::clone(&handler), Arc::clone(&room));
                    place.insert(tokio::spawn(task));
                    failed.remove(&address);
                    tracing::info!(%address, "the HTTP API listens");
                }
                Err(error) => {
                    let now = Instant::now();
                    let obstacle = failed.entry(address).or_insert_with(|| Obstacle::new(now));
                    if let Some(problem) = obstacle.on_failed(&error, now) {
                        tracing::warn!(%address, problem, "the HTTP API cannot listen here; tried again every second");
                    }
                }
            }
        }
        tell(&state, &listeners, &failed);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY_INTERVAL), if !failed.is_empty() => {}
        }
    }
}

fn tell(
    state: &watch::Sender<Listening>,
    listeners: &BTreeMap<SocketAddr, JoinHandle<()>>,
    failed: &BTreeMap<SocketAddr, Obstacle>,
) {
    let open = listeners.keys().map(|&address| (address, None));
    let problems =
        failed.iter().filter_map(|(&address, obstacle)| Some((address, Some(obstacle.problem()?.to_owned()))));
    let listening: Listening = open.chain(problems).collect();
    state.send_if_modified(|known| {
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
            room::Limits,
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

    fn room() -> Arc<Room> {
        Arc::new(Room::new(Limits::of_node(10)))
    }

    async fn ask(address: SocketAddr) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn an_address_that_this_host_does_not_have_yet_stands_in_neither_state() {
        let (address, local) =
            ("192.0.2.1:8500".parse().unwrap(), server::bind("127.0.0.1:0".parse().unwrap()).unwrap());
        let taken = local.local_addr().unwrap();
        let (_wanted, addresses) = watch::channel(BTreeSet::from([address, taken]));
        let (sender, mut state) = watch::channel(Listening::new());
        start(Hello, addresses, sender, room()).unwrap();
        let told = state.wait_for(|listening| listening.contains_key(&taken)).await.unwrap().clone();
        assert!(!told.contains_key(&address), "{told:?}");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_listened_on_when_it_is_free() {
        let taken = server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        let (wanted, addresses) = watch::channel(BTreeSet::from([address]));
        let (sender, mut state) = watch::channel(Listening::new());
        start(Hello, addresses, sender, room()).unwrap();
        let told = state.wait_for(|listening| listening.contains_key(&address)).await.unwrap().clone();
        assert!(told[&address].as_ref().unwrap().contains("has the port"), "{told:?}");
        drop(taken);
        state.wait_for(|listening| listening.get(&address) == Some(&None)).await.unwrap();
        assert!(ask(address).await.unwrap().ends_with("\"hello\""));

        wanted.send_replace(BTreeSet::new());
        state.wait_for(Listening::is_empty).await.unwrap();
        assert!(ask(address).await.is_err(), "an address that is wanted no more is left");
    }
}
