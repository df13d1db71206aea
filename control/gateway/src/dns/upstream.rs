//! One question to one resolver of the host, over UDP and, when the answer was cut, over TCP.
//!
//! Each question has a socket of its own, and so a port that the kernel has drawn, and an id drawn by us: a forger has to guess
//! both (RFC 5452). The socket is connected, so that the kernel drops what comes from elsewhere.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use crate::{limits::MAX_UDP_ANSWER_BYTES, stats::Counters};

/// Asks; gives up after `patience`.
pub(super) async fn ask(
    upstream: SocketAddr,
    query: &Query,
    dnssec: bool,
    patience: Duration,
    counters: &Counters,
) -> io::Result<Message> {
    let question = question(query, dnssec);
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let exchange = async {
        let answer = over_udp(upstream, &question, &bytes, counters).await?;
        if answer.metadata.truncation { over_tcp(upstream, &question, &bytes).await } else { Ok(answer) }
    };
    tokio::time::timeout(patience, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

pub(super) fn question(query: &Query, dnssec: bool) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_ANSWER_BYTES as u16).set_dnssec_ok(dnssec);
    message.edns = Some(edns);
    message
}

async fn over_udp(upstream: SocketAddr, question: &Message, bytes: &[u8], counters: &Counters) -> io::Result<Message> {
    let any: IpAddr = if upstream.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; MAX_UDP_ANSWER_BYTES * 4];
    loop {
        let len = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..len]) {
            Ok(answer) if belongs(&answer, question) => return Ok(answer),
            // The right one may still come.
            _ => counters.upstream_mismatched.add(),
        }
    }
}

async fn over_tcp(upstream: SocketAddr, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(upstream).await?;
    let mut framed = (bytes.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let mut buffer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if belongs(&answer, question) { Ok(answer) } else { Err(io::Error::other("the answer is to another question")) }
}

/// True for an answer to this question and to no other.
pub(super) fn belongs(answer: &Message, question: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.op_code == OpCode::Query
        && answer.metadata.id == question.metadata.id
        && answer.queries == question.queries
}
