//! One thread that carries traffic: a runtime of its own, sockets of its own on every address (`SO_REUSEPORT`), connections to
//! backends of its own. A connection never leaves its thread, so nothing on a request's way waits for another thread.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Notify, Semaphore, mpsc, oneshot},
    task::AbortHandle,
};

use super::{
    alive, connection,
    counters::BalancerCounters,
    limits::{BACKLOG, HOUSEKEEPING, WARM_AT_ONCE},
    pool::Pool,
    prepare::{Place, Preparation},
    rules::Slot,
};

/// Connections that are taken before others get their turn.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What connections of one thread share.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) number: u32,
    pub(super) pool: Arc<Pool>,
    pub(super) counters: Arc<BalancerCounters>,
    /// Somebody should look: a preparation has come further.
    pub(super) news: Arc<Notify>,
    /// Connections and streams of clients.
    pub(super) held: AtomicUsize,
}

/// A connection or stream of a client, for as long as it lives.
#[derive(Debug)]
pub(super) struct Held(Arc<Worker>);

impl Held {
    pub(super) fn new(worker: &Arc<Worker>) -> Self {
        worker.held.fetch_add(1, Relaxed);
        Self(Arc::clone(worker))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

/// What a thread is told.
pub(super) enum Command {
    /// Listen there.
    Open {
        slot: Arc<Slot>,
        /// Sockets that a predecessor has opened there; a new one is opened when there are none.
        inherited: Vec<std::net::TcpListener>,
        /// Second handles on the sockets.
        reply: oneshot::Sender<io::Result<Vec<OwnedFd>>>,
    },
    /// And no more. Connections stay.
    Close { address: SocketAddr, reply: oneshot::Sender<()> },
    /// Connect to what has not been connected to.
    Warm { preparation: Arc<Preparation>, patience: Duration, is_stream: bool },
    /// Close idle connections that are of no use any more.
    Sweep,
}

/// A thread.
#[derive(Debug)]
pub(super) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    worker: Arc<Worker>,
}

impl Handle {
    /// Starts one. It ends when the handle is dropped.
    pub(super) fn start(worker: Worker) -> io::Result<Self> {
        let (commands, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let name = format!("balancer-{}", worker.number);
        let worker = Arc::new(worker);
        let carrier = Arc::clone(&worker);
        thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(run(carrier, received));
            runtime.shutdown_background();
        })?;
        Ok(Self { commands, worker })
    }

    /// True without a connection or stream of a client.
    pub(super) fn is_idle(&self) -> bool {
        self.worker.held.load(Relaxed) == 0
    }

    /// Tells it. One that is ending does not care.
    pub(super) fn tell(&self, command: Command) {
        drop(self.commands.send(command));
    }
}

async fn run(worker: Arc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut open: Vec<(SocketAddr, AbortHandle)> = Vec::new();
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    loop {
        tokio::select! {
            _ = housekeeping.tick() => worker.pool.sweep(Instant::now()),
            command = commands.recv() => match command {
                None => return,
                Some(Command::Sweep) => worker.pool.sweep(Instant::now()),
                Some(Command::Open { slot, inherited, reply }) => {
                    drop(reply.send(begin(&worker, &slot, inherited, &mut open)));
                }
                Some(Command::Close { address, reply }) => {
                    worker.pool.set_listening(address, false);
                    open.extract_if(.., |(known, _)| *known == address).for_each(|(_, task)| task.abort());
                    // The abort takes effect when the task would run next; then the socket is closed.
                    tokio::task::yield_now().await;
                    // Whoever has asked may be ending.
                    let _is_heard = reply.send(()).is_ok();
                }
                Some(Command::Warm { preparation, patience, is_stream }) => {
                    tokio::spawn(warm(Arc::clone(&worker), preparation, patience, is_stream));
                }
            },
        }
    }
}

/// Accepts there from now on.
fn begin(
    worker: &Arc<Worker>,
    slot: &Arc<Slot>,
    inherited: Vec<std::net::TcpListener>,
    open: &mut Vec<(SocketAddr, AbortHandle)>,
) -> io::Result<Vec<OwnedFd>> {
    let listeners: Vec<TcpListener> = if inherited.is_empty() {
        vec![listen(slot.address)?]
    } else {
        inherited.into_iter().map(TcpListener::from_std).collect::<io::Result<_>>()?
    };
    listeners.iter().try_for_each(alive::probe)?;
    let second: io::Result<Vec<OwnedFd>> =
        listeners.iter().map(|listener| listener.as_fd().try_clone_to_owned()).collect();
    let second = second?;
    worker.pool.set_listening(slot.address, true);
    open.extend(listeners.into_iter().map(|listener| {
        let task = tokio::spawn(accept(listener, Arc::clone(slot), Arc::clone(worker)));
        (slot.address, task.abort_handle())
    }));
    Ok(second)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, slot: Arc<Slot>, worker: Arc<Worker>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                tokio::spawn(connection::serve(stream, peer, Arc::clone(&slot), Arc::clone(&worker)));
            }
            Err(error) => {
                // Out of file descriptors, mostly: those that are there go on.
                tracing::warn!(address = %slot.address, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn warm(worker: Arc<Worker>, preparation: Arc<Preparation>, patience: Duration, is_stream: bool) {
    let places = Arc::new(Semaphore::new(WARM_AT_ONCE));
    for place in preparation.begin(worker.number) {
        let Ok(permit) = Arc::clone(&places).acquire_owned().await else { return };
        let worker = Arc::clone(&worker);
        tokio::spawn(async move {
            let has_reached = reach(&worker, &place, patience, is_stream).await;
            place.on_tried(worker.number, has_reached);
            worker.news.notify_one();
            drop(permit);
        });
    }
}

async fn reach(worker: &Worker, place: &Place, patience: Duration, is_stream: bool) -> bool {
    worker.counters.backend_connections.add();
    if is_stream {
        // A stream that nobody uses would be one of the backend's for nothing.
        return matches!(tokio::time::timeout(patience, worker.pool.open(&place.backend, None)).await, Ok(Ok(_)));
    }
    worker.pool.warm(&place.backend, patience).await
}
