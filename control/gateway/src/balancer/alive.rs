//! Ends of connections that vanish without a word (a host that lost its power, a client that went out of reach): where nothing moves, the kernel asks
//! for a sign of life. Without it a stream that has no limit would be held for ever.

use std::{io, os::fd::AsFd};

use rustix::net::sockopt;

use super::limits::{PROBE_AFTER, PROBE_COUNT, PROBE_INTERVAL};

/// From now on; what a listening socket accepts has it from that.
pub(super) fn probe(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(&socket, PROBE_INTERVAL)?;
    Ok(sockopt::set_tcp_keepcnt(&socket, PROBE_COUNT)?)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_a_listening_socket_accepts_is_asked_for_signs_of_life_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        probe(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), PROBE_AFTER);
        assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), PROBE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&accepted).unwrap(), PROBE_COUNT);
    }
}
