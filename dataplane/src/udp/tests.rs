//! Behaviour of real sockets, each test in a network namespace of its own.

use super::*;
use crate::testing::{await_readable, in_namespace, in_namespace_with_loopback};

const SEGMENT_LEN: usize = 1400;
const SEGMENT_COUNT: usize = 45;

fn open() -> UdpSocket {
    open_with(OffloadSwitches::default())
}

fn open_with(switches: OffloadSwitches) -> UdpSocket {
    UdpSocket::open(0, switches, Arc::default()).unwrap()
}

/// Sends without a mark.
fn send(sender: &UdpSocket, to: SocketAddr, datagrams: &[u8], segment_len: usize) -> Result<(), Unsent> {
    sender.send(Sending { to, source: None, sends: Sends::Joined, datagrams, segment_len, ecn: Ecn::NotEct })
}

fn unsent(error: SendError) -> Result<(), Unsent> {
    Err(Unsent { error, sent_len: 0 })
}

fn loopback(socket: &UdpSocket) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, socket.port()).into()
}

/// 45 segments, the last one shorter.
fn train() -> Vec<u8> {
    (0..SEGMENT_LEN * SEGMENT_COUNT - 300).map(|at| (at / 7) as u8).collect()
}

/// Waits for one receive.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Received {
    await_readable(socket);
    socket.receive(buffer).unwrap().unwrap()
}

#[test]
fn a_train_leaves_in_one_send_and_arrives_in_one_receive() {
    in_namespace_with_loopback(|| {
        let (sender, receiver) = (open(), open());
        let UdpOffload { gso, gro } = sender.offload();
        assert!(gso.is_on && gro.is_on, "this test needs Linux 5.12 or newer: {gso:?} {gro:?}");
        let train = train();
        send(&sender, loopback(&receiver), &train, SEGMENT_LEN).unwrap();
        let mut buffer = vec![0; RECEIVE_BYTES];
        let arrived = receive(&receiver, &mut buffer);
        assert_eq!((arrived.len, arrived.segment_len), (train.len(), SEGMENT_LEN));
        assert!(buffer.starts_with(&train));
        assert_eq!(arrived.from, loopback(&sender), "mapped addresses stay in the kernel");
        assert_eq!(receiver.receive(&mut buffer).unwrap(), None);
    });
}

#[test]
fn without_offloads_a_train_is_as_many_datagrams() {
    in_namespace_with_loopback(|| {
        let off = OffloadSwitches {
            udp_gso: weaved_api::Switch::Off,
            udp_gro: weaved_api::Switch::Off,
            ..OffloadSwitches::default()
        };
        let (sender, receiver) = (open_with(off), open_with(off));
        let train = train();
        send(&sender, loopback(&receiver), &train, SEGMENT_LEN).unwrap();
        let mut buffer = vec![0; RECEIVE_BYTES];
        for datagram in train.chunks(SEGMENT_LEN) {
            let arrived = receive(&receiver, &mut buffer);
            assert_eq!((arrived.len, arrived.segment_len), (datagram.len(), datagram.len()));
            assert!(buffer.starts_with(datagram));
        }
    });
}

#[test]
fn a_train_that_is_to_leave_apart_is_as_many_sends_though_the_kernel_could() {
    in_namespace_with_loopback(|| {
        let (sender, receiver) = (open(), open());
        let (train, to) = (train(), loopback(&receiver));
        let sending =
            |sends| Sending { to, source: None, sends, datagrams: &train, segment_len: SEGMENT_LEN, ecn: Ecn::NotEct };
        let mut buffer = vec![0; RECEIVE_BYTES];
        sender.send(sending(Sends::Apart)).unwrap();
        for datagram in train.chunks(SEGMENT_LEN) {
            assert_eq!(receive(&receiver, &mut buffer).len, datagram.len());
            assert!(buffer.starts_with(datagram));
        }
        sender.send(sending(Sends::Joined)).unwrap();
        assert_eq!(receive(&receiver, &mut buffer).len, train.len());
        assert_eq!(sender.refused_trains(), None, "the kernel has refused nothing");
        assert_eq!(sender.stats.udp_unsegmented.load(std::sync::atomic::Ordering::Relaxed), 1);
    });
}

#[test]
fn only_a_few_destinations_are_named() {
    let names: Vec<String> = (0..5).map(|number| format!("h{number}")).collect();
    assert_eq!(name_some(&[]), None);
    assert_eq!(name_some(&names[..2]).as_deref(), Some("h0, h1"));
    assert_eq!(name_some(&names).as_deref(), Some("h0, h1, h2, h3 and others"));
}

#[test]
fn ipv6_and_ipv4_share_one_socket() {
    in_namespace_with_loopback(|| {
        let (sender, receiver) = (open(), open());
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            send(&sender, (ip, receiver.port()).into(), b"hello", 5).unwrap();
            let arrived = receive(&receiver, &mut [0; 100]);
            assert_eq!(arrived.from, SocketAddr::new(ip, sender.port()));
        }
    });
}

#[test]
fn a_datagram_over_the_mtu_is_too_big_and_gso_goes_on() {
    in_namespace_with_loopback(|| {
        let mut netlink = crate::netlink::Netlink::open().unwrap();
        let index = netlink.link("lo").unwrap().unwrap().index;
        netlink.set_mtu(index, 1280).unwrap();
        let (sender, receiver) = (open(), open());
        let to = loopback(&receiver);
        assert_eq!(send(&sender, to, &[0; 1400], 1400), unsent(SendError::TooBig));
        assert_eq!(send(&sender, to, &[0; 4000], 1400), unsent(SendError::TooBig));
        send(&sender, to, &[0; 4000], 1200).unwrap();
        assert_eq!(receive(&receiver, &mut vec![0; RECEIVE_BYTES]).len, 4000, "the train went in one send");
    });
}

#[test]
fn a_datagram_of_64_kilobytes_arrives_and_a_small_buffer_is_told() {
    in_namespace_with_loopback(|| {
        let (sender, receiver) = (open(), open());
        let datagram = vec![5; 65_507];
        send(&sender, loopback(&receiver), &datagram, datagram.len()).unwrap();
        let mut buffer = vec![0; RECEIVE_BYTES];
        let arrived = receive(&receiver, &mut buffer);
        assert_eq!((arrived.len, arrived.is_truncated), (datagram.len(), false));
        send(&sender, loopback(&receiver), &datagram, datagram.len()).unwrap();
        let arrived = receive(&receiver, &mut buffer[..100]);
        assert_eq!((arrived.len, arrived.is_truncated), (100, true));
    });
}

#[test]
fn lost_datagrams_are_reported() {
    in_namespace_with_loopback(|| {
        let (sender, receiver) = (open(), open());
        sockopt::set_socket_recv_buffer_size(&receiver.fd, 5000).unwrap();
        for _ in 0..50 {
            send(&sender, loopback(&receiver), &[0; 1000], 1000).unwrap();
        }
        let mut buffer = vec![0; RECEIVE_BYTES];
        while receiver.receive(&mut buffer).unwrap().is_some() {}
        // The report comes with the datagram after the loss.
        send(&sender, loopback(&receiver), &[0; 1000], 1000).unwrap();
        let count = receive(&receiver, &mut buffer).overflow_count.expect("something was lost");
        assert!(count > 0);
        let told = [count, count, count + 2].map(|count| receiver.newly_lost(count));
        assert_eq!(told, [count, 0, 2], "each once, whoever reads");
    });
}

#[test]
fn a_port_in_use_is_named() {
    in_namespace_with_loopback(|| {
        let first = open();
        let error = UdpSocket::open(first.port(), OffloadSwitches::default(), Arc::default()).unwrap_err();
        assert!(matches!(error, SocketError::PortInUse(_)));
        assert!(error.to_string().contains(&first.port().to_string()), "{error}");
    });
}

#[test]
fn of_a_group_one_socket_gets_all_that_one_sender_sends_and_every_socket_has_senders() {
    in_namespace_with_loopback(|| {
        let stats = std::iter::repeat_with(Arc::default).take(3);
        let group = UdpSocket::open_group(0, OffloadSwitches::default(), stats).unwrap();
        let to = loopback(&group[0]);
        assert!(group.iter().all(|socket| socket.port() == to.port()));
        let senders: Vec<UdpSocket> = std::iter::repeat_with(open).take(24).collect();
        for sender in senders.iter().cycle().take(3 * senders.len()) {
            send(sender, to, b"hello", 5).unwrap();
        }
        let mut receivers = std::collections::BTreeMap::<u16, Vec<usize>>::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        for (at, socket) in group.iter().enumerate() {
            let mut received_count = 0;
            while let Some(received) = socket.receive(&mut buffer).unwrap() {
                receivers.entry(received.from.port()).or_default().push(at);
                received_count += 1;
            }
            assert!(received_count > 0, "the kernel's hash leaves socket {at} out");
        }
        assert_eq!(receivers.len(), senders.len());
        assert!(receivers.values().all(|at| at.len() == 3 && at.iter().all(|one| *one == at[0])), "{receivers:?}");
    });
}

#[test]
fn nobody_joins_the_group_of_another_and_a_group_finds_the_port_taken() {
    in_namespace_with_loopback(|| {
        let two = || [Arc::default(), Arc::default()];
        let alone = open();
        let error = UdpSocket::open_group(alone.port(), OffloadSwitches::default(), two()).unwrap_err();
        assert!(matches!(error, SocketError::PortInUse(_)), "{error}");
        let group = UdpSocket::open_group(0, OffloadSwitches::default(), two()).unwrap();
        let error = UdpSocket::open_group(group[0].port(), OffloadSwitches::default(), two()).unwrap_err();
        assert!(matches!(error, SocketError::PortInUse(_)), "{error}");
    });
}

#[test]
fn without_a_route_a_peer_is_unreachable_and_offloads_are_presumed() {
    in_namespace(|| {
        let sender = open();
        let to = "192.0.2.1:6783".parse().unwrap();
        assert_eq!(send(&sender, to, b"hello", 5), unsent(SendError::Unreachable));
        assert!(sender.offload().gso.is_on, "no loopback is no proof against it");
    });
}

#[test]
fn errors_are_told_apart_by_what_there_is_to_do() {
    for (errno, expected) in [
        (Errno::MSGSIZE, SendError::TooBig),
        (Errno::INVAL, SendError::Refused),
        (Errno::IO, SendError::Refused),
        (Errno::NOBUFS, SendError::NoMemory),
        (Errno::AGAIN, SendError::Full),
        (Errno::PERM, SendError::Unreachable),
        (Errno::CONNREFUSED, SendError::Unreachable),
    ] {
        assert_eq!(SendError::from(errno), expected, "{errno}");
    }
}

/// Receives datagrams until so many bytes have come; they must be these.
fn receive_all(socket: &UdpSocket, expected: &[u8]) {
    let mut buffer = vec![0; RECEIVE_BYTES];
    let mut arrived = Vec::new();
    while arrived.len() < expected.len() {
        let received = receive(socket, &mut buffer);
        arrived.extend_from_slice(&buffer[..received.len]);
    }
    assert!(arrived == expected, "something else has arrived");
}

#[test]
fn a_kernel_that_refuses_every_train_gets_single_datagrams_and_says_so() {
    in_namespace_with_loopback(|| {
        let (sender, receiver) = (open(), open());
        // Without checksums the kernel refuses trains with EINVAL, whatever their length.
        sender.refuse_trains().unwrap();
        let train = train();
        for _ in 0..2 {
            send(&sender, loopback(&receiver), &train, SEGMENT_LEN).unwrap();
            receive_all(&receiver, &train);
        }
        assert_eq!(sender.refused_trains().as_deref(), Some("refused on the way to 127.0.0.1"));
        assert_eq!(sender.stats.udp_gso_refused.load(std::sync::atomic::Ordering::Relaxed), 1);
    });
}

#[test]
fn a_train_of_more_segments_than_the_kernel_takes_is_sent_in_parts() {
    in_namespace_with_loopback(|| {
        let (sender, receiver) = (open(), open());
        let train: Vec<u8> = (0..200_usize * 100 - 50).map(|at| (at / 7) as u8).collect();
        send(&sender, loopback(&receiver), &train, 100).unwrap();
        receive_all(&receiver, &train);
        assert_eq!(sender.refused_trains().as_deref(), Some("at most 100 datagrams in one send"));
    });
}

#[test]
fn congestion_marks_go_with_trains_and_single_datagrams_of_both_families() {
    in_namespace_with_loopback(|| {
        let (sender, receiver) = (open(), open());
        let mut buffer = vec![0; RECEIVE_BYTES];
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            for ecn in [Ecn::Ect0, Ecn::Ect1, Ecn::Ce, Ecn::NotEct] {
                for datagrams in [&train()[..], b"hello"] {
                    let to = (ip, receiver.port()).into();
                    sender
                        .send(Sending {
                            to,
                            source: None,
                            sends: Sends::Joined,
                            datagrams,
                            segment_len: SEGMENT_LEN,
                            ecn,
                        })
                        .unwrap();
                    let arrived = receive(&receiver, &mut buffer);
                    assert_eq!((arrived.ecn, arrived.len), (ecn, datagrams.len()), "{ip}: marks keep a train together");
                }
            }
        }
    });
}

#[test]
fn the_buffers_that_were_asked_for_are_granted_whatever_the_hosts_limit_is() {
    in_namespace_with_loopback(|| {
        // The kernel doubles them for its overhead.
        let expected = Buffers { receive_bytes: 2 * RECEIVE_BUFFER_BYTES, send_bytes: 2 * SEND_BUFFER_BYTES };
        assert_eq!(open().buffers(), expected);
    });
}

#[test]
fn an_answer_leaves_from_the_address_that_was_dialled() {
    in_namespace_with_loopback(|| {
        let (dialler, host) = (open(), open());
        let mut buffer = vec![0; RECEIVE_BYTES];
        for ip in ["127.0.0.9", "127.0.0.1", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            send(&dialler, (ip, host.port()).into(), b"hello", 5).unwrap();
            let question = receive(&host, &mut buffer);
            assert_eq!(question.to, Some(ip));
            let answer = train();
            let datagrams = &answer[..];
            let sending = Sending {
                to: question.from,
                source: question.to,
                sends: Sends::Joined,
                datagrams,
                segment_len: SEGMENT_LEN,
                ecn: Ecn::Ect0,
            };
            host.send(sending).unwrap();
            let answer = receive(&dialler, &mut buffer);
            assert_eq!((answer.from.ip(), answer.len, answer.ecn), (ip, datagrams.len(), Ecn::Ect0));
        }
    });
}

#[test]
fn an_address_that_is_gone_or_of_the_other_family_is_not_sent_from() {
    in_namespace_with_loopback(|| {
        let (sender, receiver) = (open(), open());
        let mut buffer = vec![0; RECEIVE_BYTES];
        for (to, source) in [("127.0.0.1", "192.0.2.7"), ("::1", "2001:db8::7"), ("::1", "127.0.0.9")] {
            let to = SocketAddr::new(to.parse().unwrap(), receiver.port());
            let source = Some(source.parse().unwrap());
            let sending = Sending {
                to,
                source,
                sends: Sends::Joined,
                datagrams: &train(),
                segment_len: SEGMENT_LEN,
                ecn: Ecn::NotEct,
            };
            sender.send(sending).unwrap();
            let arrived = receive(&receiver, &mut buffer);
            assert_eq!((arrived.from.ip(), arrived.len), (to.ip(), train().len()), "{sending:?}");
            assert_eq!(sender.refused_trains(), None);
        }
    });
}
