//! Prints datagrams, also those of a multicast group.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

/// Prints each datagram as a line, until killed.
pub(crate) fn listen(port: u16, group: Option<SocketAddr>) -> io::Result<()> {
    let any: IpAddr = if group.is_some_and(|group| group.is_ipv6()) {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, port))?;
    match group {
        Some(SocketAddr::V4(group)) => socket.join_multicast_v4(group.ip(), &Ipv4Addr::UNSPECIFIED)?,
        Some(SocketAddr::V6(group)) => socket.join_multicast_v6(group.ip(), group.scope_id())?,
        None => {}
    }
    println!("listening");
    let mut buffer = vec![0; 65_536];
    loop {
        let (len, _) = socket.recv_from(&mut buffer)?;
        println!("{}", String::from_utf8_lossy(&buffer[..len]));
    }
}
