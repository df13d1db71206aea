//! How a gateway takes over from the one before it, so that no client finds the door closed.
//!
//! ```text
//!   successor                          predecessor
//!    ├── connects ───────────────────▶ │ serves
//!    │ ◀────── its listening sockets ──┤ serves
//!    │ accepts from them as well       │ serves
//!    ├── ready ──────────────────────▶ │ accepts no more, leaves control's socket and its office
//!    │ ◀────────────────────── yours ──┤ ends what is in flight
//! ```
//!
//! They are the very same sockets: a connection that waits to be accepted is accepted by either. One byte says each thing, and a socket
//! itself says where it listens, so that two versions of the program understand each other.
//!
//! INVARIANT: nothing has changed for anybody until the successor says that it is ready.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketType, sockopt,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::private_socket;

/// Name of the socket in the run directory.
const SOCKET: &str = "gateway-handover.sock";
/// Sockets in one message; the kernel takes 253 (`SCM_MAX_FD`).
const SOCKETS_AT_ONCE: usize = 64;
/// Sockets in all: a thousand listeners on as many threads as there may be would fit.
const MAX_SOCKETS: usize = 16 * 1024;
/// How long either waits for a byte that needs nobody else.
const PATIENCE: Duration = Duration::from_secs(5);

const SOCKETS: u8 = b's';
const NO_MORE: u8 = b'.';
const READY: u8 = b'r';
const YOURS: u8 = b'y';

/// What a successor wants of the gateway's loop.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Handles on everything that is listened on.
    Sockets(oneshot::Sender<Vec<OwnedFd>>),
    /// Leave.
    Leave(oneshot::Sender<()>),
}

/// Opens the door for a successor.
pub(crate) fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    private_socket::bind(&run_dir.join(SOCKET))
}

/// Serves successors, one after the other: one that breaks off has changed nothing. Ends when one has taken over.
pub(crate) async fn serve(listener: UnixListener, asks: mpsc::Sender<Ask>) {
    loop {
        let outcome = match listener.accept().await {
            Ok((stream, _)) => hand_over(stream, &asks).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "the gateway was not handed over");
                // Out of file descriptors, perhaps.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn hand_over(mut stream: UnixStream, asks: &mpsc::Sender<Ask>) -> io::Result<()> {
    let ending = || io::Error::other("the gateway is ending");
    let (reply, sockets) = oneshot::channel();
    asks.send(Ask::Sockets(reply)).await.map_err(|_| ending())?;
    let sockets = sockets.await.map_err(|_| ending())?;
    for some in sockets.chunks(SOCKETS_AT_ONCE) {
        stream.async_io(Interest::WRITABLE, || send(&stream, some)).await?;
    }
    stream.write_all(&[NO_MORE]).await?;
    drop(sockets);
    // As long as it needs: it may have to hear of control first.
    expect(&mut stream, READY).await?;
    let (reply, left) = oneshot::channel();
    asks.send(Ask::Leave(reply)).await.map_err(|_| ending())?;
    left.await.map_err(|_| ending())?;
    // A successor that is gone by now is started anew, as any gateway that ends.
    drop(stream.write_all(&[YOURS]).await);
    Ok(())
}

/// The gateway that is to be taken over from.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
}

impl Predecessor {
    /// Finds it, and takes its sockets.
    pub(crate) async fn find(run_dir: &Path) -> io::Result<(Self, Inherited)> {
        let stream = UnixStream::connect(run_dir.join(SOCKET)).await?;
        let inherited = timeout(PATIENCE, receive_all(&stream)).await??;
        Ok((Self { stream }, inherited))
    }

    /// Returns when it has ended. May be dropped at any time.
    pub(crate) async fn ended(&self) {
        // It says nothing unasked; only a read that finds nothing makes sure that there is nothing.
        let is_silent = |read: io::Result<usize>| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        while self.stream.readable().await.is_ok() && is_silent(self.stream.try_read(&mut [0])) {}
    }

    /// Tells it that everything is served without it. Returns when it has left.
    pub(crate) async fn relieve(mut self) -> io::Result<()> {
        self.stream.write_all(&[READY]).await?;
        timeout(PATIENCE, expect(&mut self.stream, YOURS)).await?
    }
}

async fn expect(stream: &mut UnixStream, expected: u8) -> io::Result<()> {
    let said = stream.read_u8().await?;
    if said == expected { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown word")) }
}

fn send(stream: &UnixStream, sockets: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    message.push(SendAncillaryMessage::ScmRights(&borrowed));
    // One byte: it is sent whole or not at all.
    rustix::net::sendmsg(stream, &[IoSlice::new(&[SOCKETS])], &mut message, SendFlags::NOSIGNAL)?;
    Ok(())
}

async fn receive_all(stream: &UnixStream) -> io::Result<Inherited> {
    let mut sockets = Vec::new();
    loop {
        let (word, some) = stream.async_io(Interest::READABLE, || receive(stream)).await?;
        sockets.extend(some);
        match word {
            Some(SOCKETS) if sockets.len() <= MAX_SOCKETS => {}
            Some(NO_MORE) => return Inherited::sort(sockets),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the sockets are not complete")),
        }
    }
}

/// One word, None at the end, and the sockets that came with it.
fn receive(stream: &UnixStream) -> io::Result<(Option<u8>, Vec<OwnedFd>)> {
    let mut word = [0];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_AT_ONCE))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut word)];
    let received = rustix::net::recvmsg(stream, &mut into, &mut message, RecvFlags::CMSG_CLOEXEC)?;
    let sockets = message.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    let sockets = sockets.flatten().collect();
    Ok(((received.bytes == 1).then_some(word[0]), sockets))
}

/// Listening sockets of a predecessor that nobody here has taken yet.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    sockets: Arc<Mutex<Sorted>>,
}

/// By whether they carry connections, and where they listen.
type Sorted = BTreeMap<(bool, SocketAddr), Vec<OwnedFd>>;

impl Inherited {
    /// By what they say of themselves.
    pub fn sort(sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let mut sorted = Sorted::new();
        for socket in sockets {
            let address = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
            let is_tcp = sockopt::socket_type(&socket)? == SocketType::STREAM;
            sorted.entry((is_tcp, address)).or_default().push(socket);
        }
        Ok(Self { sockets: Arc::new(Mutex::new(sorted)) })
    }

    /// Those that listen for connections there.
    pub(crate) fn tcp(&self, address: SocketAddr) -> Vec<std::net::TcpListener> {
        self.take(true, address).into_iter().map(Into::into).collect()
    }

    /// The one that takes datagrams there.
    pub(crate) fn udp(&self, address: SocketAddr) -> Option<std::net::UdpSocket> {
        self.take(false, address).pop().map(Into::into)
    }

    fn take(&self, is_tcp: bool, address: SocketAddr) -> Vec<OwnedFd> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.remove(&(is_tcp, address)).unwrap_or_default()
    }

    /// Closes what nobody wants: a client must not wait in the queue of a socket from which nobody accepts.
    pub(crate) fn close(&self) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A predecessor with so many listening sockets, and what is asked of it.
    fn predecessor(run_dir: &Path, count: usize) -> (Vec<SocketAddr>, mpsc::Receiver<&'static str>) {
        let (asks, mut asked) = mpsc::channel(1);
        let (told, tells) = mpsc::channel(8);
        let sockets: Vec<std::net::TcpListener> =
            (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        tokio::spawn(serve(bind(run_dir).unwrap(), asks));
        tokio::spawn(async move {
            while let Some(ask) = asked.recv().await {
                match ask {
                    Ask::Sockets(reply) => {
                        told.send("sockets").await.unwrap();
                        let copies = sockets.iter().map(|socket| socket.as_fd().try_clone_to_owned().unwrap());
                        reply.send(copies.collect()).unwrap();
                    }
                    Ask::Leave(reply) => {
                        told.send("leave").await.unwrap();
                        reply.send(()).unwrap();
                    }
                }
            }
        });
        (addresses, tells)
    }

    #[tokio::test]
    async fn sockets_come_with_where_they_listen_and_the_predecessor_leaves_when_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (addresses, mut tells) = predecessor(dir.path(), 2 * SOCKETS_AT_ONCE + 1);
        let (predecessor, inherited) = Predecessor::find(dir.path()).await.unwrap();
        for address in addresses {
            let sockets = inherited.tcp(address);
            assert_eq!(sockets.len(), 1);
            assert_eq!(sockets[0].local_addr().unwrap(), address);
            assert!(inherited.tcp(address).is_empty() && inherited.udp(address).is_none());
        }
        assert_eq!((tells.recv().await, tells.try_recv().ok()), (Some("sockets"), None));
        predecessor.relieve().await.unwrap();
        assert_eq!(tells.recv().await, Some("leave"));
    }

    #[tokio::test]
    async fn a_successor_that_breaks_off_has_changed_nothing_and_the_next_one_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let (addresses, mut tells) = predecessor(dir.path(), 1);
        let (first, _) = Predecessor::find(dir.path()).await.unwrap();
        assert!(timeout(Duration::ZERO, first.ended()).await.is_err(), "it is there");
        drop(first);
        let (second, inherited) = Predecessor::find(dir.path()).await.unwrap();
        assert_eq!(inherited.tcp(addresses[0]).len(), 1);
        second.relieve().await.unwrap();
        let mut told = Vec::new();
        while let Ok(ask) = tells.try_recv() {
            told.push(ask);
        }
        assert_eq!(told, ["sockets", "sockets", "leave"]);
    }

    #[tokio::test]
    async fn without_a_predecessor_there_is_nothing_to_take_over() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Predecessor::find(dir.path()).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
