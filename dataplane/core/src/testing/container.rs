//! A container: a whole TCP/IP stack (smoltcp) with one Ethernet interface, and small programs that use it.
//!
//! smoltcp verifies every checksum that it receives and drops what does not fit, so a frame that the data plane has
//! damaged shows as a transfer that does not end.

use std::{collections::VecDeque, net::IpAddr};

use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::{icmp, tcp, udp},
    time::Instant,
    wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, IpEndpoint},
};
use weaved_api::MacAddr;

/// Bytes of an Ethernet header.
const ETHERNET_LEN: usize = 14;
const TCP_BUFFER_LEN: usize = 64 << 10;
const UDP_PACKETS: usize = 64;
const UDP_BUFFER_LEN: usize = 256 << 10;

/// A stack and its programs.
pub struct Container {
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its IPv4 address, then its IPv6 address.
    pub addresses: [IpAddr; 2],
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    programs: Vec<Program>,
}

/// What runs in a container.
enum Program {
    /// Sends bytes over TCP, then closes.
    Source { socket: SocketHandle, bytes: Vec<u8>, sent: usize },
    /// Keeps what comes over TCP.
    Sink { socket: SocketHandle, received: Vec<u8> },
    /// Sends every datagram back.
    Echo { socket: SocketHandle },
    /// Keeps datagrams.
    Inbox { socket: SocketHandle, received: Vec<Vec<u8>> },
    /// Keeps the data of echo replies.
    Ping { socket: SocketHandle, replies: Vec<Vec<u8>> },
}

/// Names a program of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramId(usize);

impl Container {
    /// A container that has just been started. `mtu` is of its interface: the longest IP packet.
    pub fn new(mac: MacAddr, addresses: [IpAddr; 2], mtu: usize, now: Instant) -> Self {
        let mut wire = Wire { mtu, received: VecDeque::new(), to_send: VecDeque::new() };
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = u64::from_be_bytes([0, 0, mac.0[0], mac.0[1], mac.0[2], mac.0[3], mac.0[4], mac.0[5]]);
        let mut interface = Interface::new(config, &mut wire, now);
        interface.update_ip_addrs(|own| {
            for (address, prefix) in addresses.into_iter().zip([12, 64]) {
                own.push(IpCidr::new(address.into(), prefix)).expect("two addresses fit");
            }
        });
        Self { mac, addresses, wire, interface, sockets: SocketSet::new(Vec::new()), programs: Vec::new() }
    }

    /// Sends `bytes` to a port over TCP.
    pub fn run_source(&mut self, to: IpAddr, port: u16, bytes: Vec<u8>) -> ProgramId {
        let mut socket = tcp_socket();
        let local_port = 40_000 + self.programs.len() as u16;
        let remote = IpEndpoint::new(IpAddress::from(to), port);
        socket.connect(self.interface.context(), remote, local_port).expect("ports and addresses are valid");
        let socket = self.sockets.add(socket);
        self.start(Program::Source { socket, bytes, sent: 0 })
    }

    /// Receives on a TCP port.
    pub fn run_sink(&mut self, port: u16) -> ProgramId {
        let mut socket = tcp_socket();
        socket.listen(port).expect("the port is valid");
        let socket = self.sockets.add(socket);
        self.start(Program::Sink { socket, received: Vec::new() })
    }

    /// Sends datagrams that come to a UDP port back.
    pub fn run_echo(&mut self, port: u16) -> ProgramId {
        let socket = self.udp_socket(port);
        self.start(Program::Echo { socket })
    }

    /// Keeps datagrams that come to a UDP port.
    pub fn run_inbox(&mut self, port: u16) -> ProgramId {
        let socket = self.udp_socket(port);
        self.start(Program::Inbox { socket, received: Vec::new() })
    }

    /// Sends one datagram from an inbox.
    ///
    /// # Panics
    /// When the program is no inbox or its buffer is full.
    pub fn send_datagram(&mut self, inbox: ProgramId, to: IpAddr, port: u16, bytes: &[u8]) {
        let Program::Inbox { socket, .. } = &self.programs[inbox.0] else { panic!("not an inbox") };
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(*socket);
        socket.send_slice(bytes, IpEndpoint::new(to.into(), port)).expect("the buffer has room");
    }

    /// Sends one echo request over IPv4 with this data.
    ///
    /// # Panics
    /// When the address is not IPv4.
    pub fn run_ping(&mut self, to: IpAddr, data: &[u8]) -> ProgramId {
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; UDP_BUFFER_LEN]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        let ident = self.programs.len() as u16;
        socket.bind(icmp::Endpoint::Ident(ident)).expect("the identifier is free");
        let request = Icmpv4Repr::EchoRequest { ident, seq_no: 1, data };
        let packet = socket.send(request.buffer_len(), to.into()).expect("the buffer has room");
        request.emit(&mut Icmpv4Packet::new_unchecked(packet), &ChecksumCapabilities::default());
        let socket = self.sockets.add(socket);
        self.start(Program::Ping { socket, replies: Vec::new() })
    }

    /// The data of the replies to an echo request.
    ///
    /// # Panics
    /// When the program is no ping.
    pub fn replies(&self, ping: ProgramId) -> &[Vec<u8>] {
        let Program::Ping { replies, .. } = &self.programs[ping.0] else { panic!("not a ping") };
        replies
    }

    /// What an inbox holds.
    ///
    /// # Panics
    /// When the program is no inbox.
    pub fn datagrams(&self, inbox: ProgramId) -> &[Vec<u8>] {
        let Program::Inbox { received, .. } = &self.programs[inbox.0] else { panic!("not an inbox") };
        received
    }

    /// What a sink has received.
    ///
    /// # Panics
    /// When the program is no sink.
    pub fn received(&self, sink: ProgramId) -> &[u8] {
        let Program::Sink { received, .. } = &self.programs[sink.0] else { panic!("not a sink") };
        received
    }

    /// Gives the interface a frame. One that is longer than it takes is dropped, as a veth does.
    pub fn handle_frame(&mut self, frame: &[u8]) {
        if frame.len() <= self.wire.mtu + ETHERNET_LEN {
            self.wire.received.push_back(frame.to_vec());
        }
    }

    /// Lets the stack and the programs work.
    pub fn drive(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
        for program in &mut self.programs {
            program.run(&mut self.sockets);
        }
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// The next frame that the interface sends.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.wire.to_send.pop_front()
    }

    /// When [`Self::drive`] wants to be called.
    pub fn next_timeout(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    fn start(&mut self, program: Program) -> ProgramId {
        self.programs.push(program);
        ProgramId(self.programs.len() - 1)
    }

    fn udp_socket(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; UDP_PACKETS], vec![0; UDP_BUFFER_LEN]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("the port is valid");
        self.sockets.add(socket)
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER_LEN]);
    tcp::Socket::new(buffer(), buffer())
}

impl Program {
    /// Does what can be done without waiting.
    fn run(&mut self, sockets: &mut SocketSet<'static>) {
        match self {
            Self::Source { socket, bytes, sent } => {
                let socket = sockets.get_mut::<tcp::Socket<'_>>(*socket);
                if socket.may_send() && *sent < bytes.len() {
                    *sent += socket.send_slice(&bytes[*sent..]).unwrap_or(0);
                    if *sent == bytes.len() {
                        socket.close();
                    }
                }
            }
            Self::Sink { socket, received } => {
                let socket = sockets.get_mut::<tcp::Socket<'_>>(*socket);
                while socket.can_recv() {
                    let taken = socket.recv(|bytes| (bytes.len(), bytes.to_vec()));
                    received.extend(taken.unwrap_or_default());
                }
            }
            Self::Echo { socket } => {
                let socket = sockets.get_mut::<udp::Socket<'_>>(*socket);
                while socket.can_send()
                    && let Ok((bytes, from)) = socket.recv().map(|(bytes, from)| (bytes.to_vec(), from))
                {
                    // A full buffer loses the echo, as UDP may.
                    let _ = socket.send_slice(&bytes, from);
                }
            }
            Self::Inbox { socket, received } => {
                let socket = sockets.get_mut::<udp::Socket<'_>>(*socket);
                while let Ok((bytes, _)) = socket.recv() {
                    received.push(bytes.to_vec());
                }
            }
            Self::Ping { socket, replies } => {
                let socket = sockets.get_mut::<icmp::Socket<'_>>(*socket);
                while let Ok((bytes, _)) = socket.recv() {
                    let packet = Icmpv4Packet::new_checked(bytes).expect("the stack has checked it");
                    if let Ok(Icmpv4Repr::EchoReply { data, .. }) =
                        Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default())
                    {
                        replies.push(data.to_vec());
                    }
                }
            }
        }
    }
}

/// The two queues of a veth.
struct Wire {
    mtu: usize,
    received: VecDeque<Vec<u8>>,
    to_send: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sending(&mut self.to_send)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.to_send))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + ETHERNET_LEN;
        capabilities
    }
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push_back(frame);
        result
    }
}
