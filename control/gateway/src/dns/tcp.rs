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
use crate::{
    limits::{MAX_QUERY_BYTES, MAX_TCP_QUERIES, TCP_IDLE},
    share::Client,
};

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
        let local = stream.local_addr().map_or(source.ip(), |own| own.ip());
        let Some(place) = server.tcp_place(Client::of(source.ip(), local)) else { continue };
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{dns::forward::Forwarder, limits::TCP_CONNECTIONS, stats::Counters};

    #[test]
    fn one_container_cannot_take_all_places_nor_all_of_them_the_hosts() {
        let counters = Arc::new(Counters::default());
        let server = Server::new(Forwarder::new(PathBuf::new(), Arc::clone(&counters)), Arc::clone(&counters));
        let bridge = IpAddr::from([10, 32, 0, 1]);
        let from = |address: [u8; 4]| server.tcp_place(Client::of(address.into(), bridge));
        let places_of = |address: [u8; 4]| std::iter::from_fn(|| from(address)).collect::<Vec<_>>();
        let first = places_of([10, 32, 0, 5]);
        assert_eq!((first.len(), counters.tcp_refused.value()), (TCP_CONNECTIONS.share, 1));
        let others: Vec<_> = (6..20).flat_map(|last| places_of([10, 32, 0, last])).collect();
        assert_eq!(first.len() + others.len(), TCP_CONNECTIONS.all / 4 * 3);
        assert_eq!(places_of([127, 0, 0, 1]).len(), TCP_CONNECTIONS.all / 4, "the host asks on");
        assert_eq!(counters.tcp_refused.value(), 1 + 14 + 1);
        drop(first);
        assert!(from([10, 32, 0, 5]).is_some());
    }
}
