//! Questions over TCP: a length of two bytes in front of each message (RFC 1035 §4.2.2), several on one connection.

use std::{io, net::IpAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    listen::Server,
    respond::{Recursion, Step, Transport},
};
use crate::limits::{MAX_QUERY_BYTES, MAX_TCP_QUERIES, TCP_IDLE};

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, offered: Recursion, server: Arc<Server>) {
    loop {
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: others must end first.
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&server.tcp_places).try_acquire_owned() else {
            server.counters.tcp_refused.add();
            continue;
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            if let Err(error) = converse(stream, source.ip(), offered, &server).await {
                tracing::debug!(%error, "a DNS connection ended");
            }
            drop(place);
        });
    }
}

/// One question after the other: an answer that has to be waited for holds up only its own connection.
async fn converse(mut stream: TcpStream, source: IpAddr, offered: Recursion, server: &Server) -> io::Result<()> {
    let idle = |_| io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..MAX_TCP_QUERIES {
        let Some(bytes) = tokio::time::timeout(TCP_IDLE, read(&mut stream)).await.map_err(idle)?? else {
            return Ok(());
        };
        server.counters.queries_tcp.add();
        let reply = match server.step(&bytes, Transport::Tcp, offered, source) {
            Step::Drop => return Ok(()),
            Step::Reply(reply) => reply,
            Step::Forward(request) => server.forward(&request).await,
        };
        let mut framed = Vec::with_capacity(reply.len() + 2);
        framed.extend_from_slice(&(reply.len() as u16).to_be_bytes());
        framed.extend_from_slice(&reply);
        tokio::time::timeout(TCP_IDLE, stream.write_all(&framed)).await.map_err(idle)??;
    }
    Ok(())
}

async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let len = match stream.read_u16().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => usize::from(other?),
    };
    if len > MAX_QUERY_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a question of that length is none"));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}
