//! `labtool`: the traffic of the lab's containers, one subcommand per kind, content always compared.
//!
//! Servers print `listening` when they can be used, and end when their standard input does. Exit code 0 means that everything was as sent; 1 comes with the
//! reason on standard error.

mod datagrams;
mod flood;
mod http;
mod listen;
mod rate;
mod tcp;
mod web;

use std::{
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

const USAGE: &str = "usage:
  labtool tcp-serve PORT                    receive, compare, answer with the checksum
  labtool tcp-send ADDRESS PORT BYTES SEED  send pseudo-random bytes
  labtool udp-echo PORT                     send every datagram back
  labtool udp-check ADDRESS PORT LARGEST    datagrams of many sizes to an echo
  labtool flood ADDRESS PORT                one a millisecond to an echo, until killed
  labtool rate-serve PORT                   count datagrams for the next two
  labtool rate-find ADDRESS PORT LEN MS     highest rate with little loss, tries of so many milliseconds;
                                            to several in turns with commas between the addresses
  labtool rate-blast ADDRESS PORT LEN MS    as fast as one thread can
  labtool http-serve PORT                   a small page, connections are kept
  labtool http-load ADDRESS PORT CONNS MS   requests a second and how long they take
  labtool web-serve PORT COLOUR             a service that says its colour, upgrades, fails while /tmp/sick exists
  labtool web-load ADDRESS PORT HOST CLIENTS MS FILE  a line in FILE for each request;
                                            ends early when its standard input does
  labtool web-hold ADDRESS PORT HOST COUNT MS  upgraded connections that are used all the time
  labtool listen PORT [GROUP]               print datagrams, also of a multicast group (ff02::5%eth0)
  labtool send ADDRESS PORT TEXT            one datagram; broadcast and multicast too
  labtool garbage ADDRESS PORT COUNT SEED   random datagrams of 0 to 65,000 bytes
  labtool datagram ADDRESS PORT HEX...      these bytes, each in a datagram of its own
  labtool frame INTERFACE HEX               this Ethernet frame";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("labtool: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> io::Result<()> {
    if matches!(words, ["tcp-serve" | "udp-echo" | "rate-serve" | "http-serve" | "web-serve" | "listen" | "flood", ..])
    {
        std::thread::spawn(end_with_standard_input);
    }
    match *words {
        ["tcp-serve", port] => tcp::serve(number(port)? as u16),
        ["tcp-send", address, port, bytes, seed] => tcp::send(endpoint(address, port)?, number(bytes)?, number(seed)?),
        ["udp-echo", port] => datagrams::echo(number(port)? as u16),
        ["udp-check", address, port, largest] => datagrams::check(endpoint(address, port)?, number(largest)? as usize),
        ["flood", address, port] => flood::flood(endpoint(address, port)?),
        ["rate-serve", port] => rate::serve(number(port)? as u16),
        ["rate-find", address, port, len, ms] => {
            rate::find(&endpoints(address, port)?, number(len)? as usize, Duration::from_millis(number(ms)?))
        }
        ["rate-blast", address, port, len, ms] => {
            rate::blast(&endpoints(address, port)?, number(len)? as usize, Duration::from_millis(number(ms)?))
        }
        ["http-serve", port] => http::serve(number(port)? as u16),
        ["http-load", address, port, connections, ms] => {
            http::load(endpoint(address, port)?, number(connections)?, Duration::from_millis(number(ms)?))
        }
        ["web-serve", port, colour] => web::serve(number(port)? as u16, colour),
        ["web-load", address, port, host, clients, ms, file] => {
            let time = Duration::from_millis(number(ms)?);
            let is_enough = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&is_enough);
            std::thread::spawn(move || {
                wait_for_end_of_input();
                told.store(true, Relaxed);
            });
            let load = web::Load { clients: number(clients)?, time, is_enough };
            web::load(endpoint(address, port)?, host, &load, file)
        }
        ["web-hold", address, port, host, count, ms] => {
            web::hold(endpoint(address, port)?, host, number(count)?, Duration::from_millis(number(ms)?))
        }
        ["listen", port] => listen::listen(number(port)? as u16, None),
        ["listen", port, group] => listen::listen(number(port)? as u16, Some(endpoint(group, port)?)),
        ["send", address, port, text] => datagrams::send(endpoint(address, port)?, text.as_bytes()),
        ["garbage", address, port, count, seed] => {
            datagrams::garbage(endpoint(address, port)?, number(count)?, number(seed)?)
        }
        ["datagram", address, port, ref all @ ..] => {
            let to = endpoint(address, port)?;
            all.iter().try_for_each(|hex| datagrams::send(to, &from_hex(hex)?))
        }
        ["frame", interface, hex] => weaved_netns_tests::PacketSocket::open(interface)?.send(&from_hex(hex)?),
        _ => Err(io::Error::other(USAGE)),
    }
}

/// Signals do not pass `docker exec`, but the end of the input does.
fn end_with_standard_input() {
    wait_for_end_of_input();
    std::process::exit(0);
}

fn wait_for_end_of_input() {
    // Ended and broken are the same here.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

fn number(word: &str) -> io::Result<u64> {
    word.parse().map_err(|error| io::Error::other(format!("{word}: {error}")))
}

fn from_hex(word: &str) -> io::Result<Vec<u8>> {
    let digits: Option<Vec<u8>> = word.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0);
    let digits = digits.ok_or_else(|| io::Error::other("an even number of hexadecimal digits is needed"))?;
    Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Addresses with commas between them.
fn endpoints(addresses: &str, port: &str) -> io::Result<Vec<SocketAddr>> {
    addresses.split(',').map(|address| endpoint(address, port)).collect()
}

/// An address with a port; `fe80::1%eth0` has the interface that it is meant for behind it.
fn endpoint(address: &str, port: &str) -> io::Result<SocketAddr> {
    let port = number(port)? as u16;
    let bad = |error: &dyn std::fmt::Display| io::Error::other(format!("{address}: {error}"));
    let Some((bare, interface)) = address.split_once('%') else {
        return Ok(SocketAddr::new(address.parse::<IpAddr>().map_err(|error| bad(&error))?, port));
    };
    let scope = nix::net::if_::if_nametoindex(interface).map_err(|error| bad(&error))?;
    let bare: Ipv6Addr = bare.parse().map_err(|error| bad(&error))?;
    Ok(SocketAddrV6::new(bare, port, 0, scope).into())
}

/// A socket for both address families, or for IPv4 alone where there is no IPv6.
fn bind_any(port: u16) -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
}

/// The same for TCP.
fn listen_any(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
}

fn read_u64(reader: &mut impl Read) -> io::Result<u64> {
    let mut word = [0; 8];
    reader.read_exact(&mut word)?;
    Ok(u64::from_le_bytes(word))
}

/// A socket that can send to `to`, broadcast and multicast included.
fn bind_for(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_broadcast(true)?;
    Ok(socket)
}
