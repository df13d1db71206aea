//! The forwarder against small resolvers on addresses of the loopback interface.

use std::{fs, net::Ipv4Addr};

use hickory_proto::{
    op::MessageType,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, SOA},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

use super::*;

/// How a resolver behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Good,
    /// First an answer with another id, and one to another question.
    Preceded,
    /// Its answers over UDP are cut.
    Cut,
    Fails,
    Silent,
    NoName,
}

/// An address that no other test has: there are sixteen million.
fn own_address() -> Ipv4Addr {
    let [first, second, third]: [u8; 3] = rand::random();
    Ipv4Addr::new(127, first.clamp(1, 254), second, third.clamp(1, 254))
}

fn answer_to(question: &Message, manner: Manner) -> Message {
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    let name = question.queries[0].name().clone();
    match manner {
        Manner::Fails => answer.metadata.response_code = ResponseCode::ServFail,
        Manner::NoName => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 60);
            answer.authorities.push(Record::from_rdata(Name::root(), 60, RData::SOA(soa)));
        }
        _ => answer.answers.push(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1)))),
    }
    answer
}

/// Starts one; tells how often it was asked over UDP.
async fn resolver(manner: Manner) -> (Ipv4Addr, watch::Receiver<u32>) {
    let (address, socket, listener) = loop {
        let address = own_address();
        // Needs root, as the tests of the lab do.
        if let Ok(socket) = UdpSocket::bind((address, 53)).await {
            break (address, socket, TcpListener::bind((address, 53)).await.unwrap());
        }
    };
    let (counter, count) = watch::channel(0);
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (len, client) = socket.recv_from(&mut buffer).await.unwrap();
            counter.send_modify(|count| *count += 1);
            let question = Message::from_vec(&buffer[..len]).unwrap();
            let mut answer = answer_to(&question, manner);
            let mut wrong = Vec::new();
            match manner {
                Manner::Silent => continue,
                Manner::Cut => {
                    answer.answers.clear();
                    answer.metadata.truncation = true;
                }
                Manner::Preceded => {
                    let mut other = answer.clone();
                    other.metadata.id ^= 1;
                    wrong.push(other);
                    let mut other = answer.clone();
                    other.queries[0].set_name(Name::from_ascii("forged.example.").unwrap());
                    wrong.push(other);
                }
                _ => {}
            }
            for message in wrong.iter().chain([&answer]) {
                socket.send_to(&message.to_vec().unwrap(), client).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut bytes).await.unwrap();
            let answer = answer_to(&Message::from_vec(&bytes).unwrap(), manner).to_vec().unwrap();
            stream.write_u16(answer.len() as u16).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    (address, count)
}

struct Host {
    _dir: tempfile::TempDir,
    forwarder: Forwarder,
}

fn host(resolvers: &[Ipv4Addr]) -> Host {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    let lines: Vec<String> = resolvers.iter().map(|address| format!("nameserver {address}")).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    Host { forwarder: Forwarder::new(path, Arc::new(Counters::default())), _dir: dir }
}

fn query(name: &str) -> Query {
    Query::query(Name::from_ascii(name).unwrap(), RecordType::A)
}

#[tokio::test]
async fn an_answer_comes_from_the_resolver_once_and_then_from_memory() {
    let (address, asked) = resolver(Manner::Good).await;
    let host = host(&[address]);
    for name in ["a.example.", "A.eXample."] {
        let answer = host.forwarder.resolve(&query(name)).await.unwrap();
        assert_eq!(answer.answers[0].data, RData::A(A::new(192, 0, 2, 1)));
    }
    assert_eq!((*asked.borrow(), host.forwarder.counters.cache_hits.value()), (1, 1));
}

#[tokio::test]
async fn an_answer_that_was_cut_is_fetched_over_tcp() {
    let (address, _) = resolver(Manner::Cut).await;
    let answer = host(&[address]).forwarder.resolve(&query("a.example.")).await.unwrap();
    assert!(answer.answers.len() == 1 && !answer.metadata.truncation);
}

#[tokio::test]
async fn forged_answers_are_passed_over_and_counted() {
    let (address, _) = resolver(Manner::Preceded).await;
    let host = host(&[address]);
    let answer = host.forwarder.resolve(&query("a.example.")).await.unwrap();
    assert_eq!(answer.queries[0].name().to_ascii(), "a.example.");
    assert_eq!(host.forwarder.counters.upstream_mismatched.value(), 2);
}

#[tokio::test]
async fn a_resolver_that_fails_or_is_silent_is_followed_by_the_next() {
    for manner in [Manner::Fails, Manner::Silent] {
        let ((first, _), (second, asked)) = (resolver(manner).await, resolver(Manner::Good).await);
        let host = host(&[first, second]);
        assert!(host.forwarder.resolve(&query("a.example.")).await.is_ok(), "{manner:?}");
        assert_eq!((*asked.borrow(), host.forwarder.counters.upstream_attempts_failed.value()), (1, 1));
    }
}

#[tokio::test]
async fn that_there_is_no_such_name_is_remembered_too() {
    let (address, asked) = resolver(Manner::NoName).await;
    let host = host(&[address]);
    for _ in 0..2 {
        let answer = host.forwarder.resolve(&query("a.example.")).await.unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(*asked.borrow(), 1);
}

#[tokio::test]
async fn the_same_question_is_under_way_once() {
    let (address, asked) = resolver(Manner::Silent).await;
    let host = host(&[address]);
    let question = query("a.example.");
    let (first, second) = tokio::join!(host.forwarder.resolve(&question), host.forwarder.resolve(&question));
    assert_eq!((first, second), (Err(ForwardError::Failed), Err(ForwardError::Failed)));
    assert_eq!(host.forwarder.counters.joined.value(), 1);
    assert!(*asked.borrow() <= 3, "once for each attempt: {}", *asked.borrow());
    assert!(host.forwarder.lock().under_way.is_empty());
}

#[tokio::test]
async fn nobody_to_ask_is_an_error_at_once_and_we_are_nobody() {
    let (address, asked) = resolver(Manner::Good).await;
    let host = host(&[address]);
    host.forwarder.set_own(vec![address.into()]);
    assert_eq!(host.forwarder.resolve(&query("a.example.")).await, Err(ForwardError::NoUpstream));
    assert_eq!(*asked.borrow(), 0);
}
