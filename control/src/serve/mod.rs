//! The socket on which the verbs talk to `weaved control`.
//!
//! One connection carries requests one after the other, each with one reply ([`protocol`]). The daemon owns
//! everything; a connection only passes its request on and waits.
//!
//! INVARIANT: at most [`MAX_CONNECTIONS`] at once; further ones wait in the kernel's queue. A request that does not
//! parse ends its connection and changes nothing.

pub mod client;
pub mod protocol;
pub mod report;
pub mod services;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
};

use self::protocol::{MAX_REQUEST_BYTES, Reply, Request};

/// More verbs than anybody runs at once.
pub const MAX_CONNECTIONS: usize = 32;
/// A verb that says nothing for so long has been suspended or is none.
const READ_PATIENCE: Duration = Duration::from_secs(10);

/// A request and where its reply goes.
pub type Call = (Request, oneshot::Sender<Reply>);

/// Serves until the receiver of calls is gone.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, calls).await {
                        tracing::debug!(%error, "a connection of a verb ended");
                    }
                    drop(place);
                });
            }
            // Out of file descriptors, most likely: others must end first.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of a verb");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        if calls.is_closed() {
            return;
        }
    }
}

async fn converse(mut stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let ending = || io::Error::other("control is ending");
    loop {
        let request = match tokio::time::timeout(READ_PATIENCE, read_request(&mut stream)).await {
            Ok(Ok(Some(request))) => request,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let (reply_to, reply) = oneshot::channel();
        calls.send((request, reply_to)).await.map_err(|_| ending())?;
        let reply = reply.await.map_err(|_| ending())?;
        stream.write_all(&protocol::encode(&reply)?).await?;
    }
}

async fn read_request(stream: &mut UnixStream) -> io::Result<Option<Request>> {
    let mut announced = [0; protocol::LEN_BYTES];
    match stream.read_exact(&mut announced).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let mut bytes = vec![0; protocol::decode_len(announced, MAX_REQUEST_BYTES)?];
    stream.read_exact(&mut bytes).await?;
    protocol::decode(&bytes).map(Some)
}

#[cfg(test)]
mod tests {
    use weaved_gateway::private_socket;

    use super::*;
    use crate::serve::protocol::Done;

    struct Server {
        _dir: tempfile::TempDir,
        path: std::path::PathBuf,
    }

    fn server() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let listener = private_socket::bind(&path).unwrap();
        let (calls, mut received) = mpsc::channel::<Call>(1);
        tokio::spawn(serve(listener, calls));
        tokio::spawn(async move {
            while let Some((request, reply)) = received.recv().await {
                reply.send(Reply::Done(Done { lines: vec![format!("{request:?}")] })).unwrap();
            }
        });
        Server { _dir: dir, path }
    }

    async fn answer_to(stream: &mut UnixStream, bytes: &[u8]) -> Option<Reply> {
        stream.write_all(bytes).await.unwrap();
        let mut announced = [0; protocol::LEN_BYTES];
        stream.read_exact(&mut announced).await.ok()?;
        let mut body = vec![0; u32::from_le_bytes(announced) as usize];
        stream.read_exact(&mut body).await.unwrap();
        Some(protocol::decode(&body).unwrap())
    }

    #[tokio::test]
    async fn each_request_gets_its_reply() {
        let server = server();
        let mut stream = UnixStream::connect(&server.path).await.unwrap();
        for request in [Request::Status, Request::Forget { targets: vec!["b".into()] }] {
            let reply = answer_to(&mut stream, &protocol::encode(&request).unwrap()).await;
            assert_eq!(reply, Some(Reply::Done(Done { lines: vec![format!("{request:?}")] })));
        }
    }

    #[tokio::test]
    async fn garbage_and_giant_lengths_end_the_connection_and_nothing_else() {
        let server = server();
        for garbage in [&b"\x05\0\0\0hello"[..], &[0xff; 64], b"\x02\0\0\0{}"] {
            let mut stream = UnixStream::connect(&server.path).await.unwrap();
            assert_eq!(answer_to(&mut stream, garbage).await, None);
        }
        let mut stream = UnixStream::connect(&server.path).await.unwrap();
        assert!(answer_to(&mut stream, &protocol::encode(&Request::Status).unwrap()).await.is_some());
    }
}
