//! Tells systemd how far we are (`sd_notify(3)`): one datagram to the socket that `NOTIFY_SOCKET` names.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

const VARIABLE: &str = "NOTIFY_SOCKET";

/// True when somebody asked to be told.
pub fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Sends a state like `READY=1`. Nobody listening is no reason to fail.
pub fn send(state: &str) {
    let Some(socket) = std::env::var_os(VARIABLE) else { return };
    if let Err(error) = send_to(&socket, state) {
        tracing::warn!(%error, "systemd was not told");
    }
}

fn send_to(socket: &OsStr, state: &str) -> io::Result<()> {
    // A leading `@` stands for the abstract namespace (unix(7)).
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reaches_a_socket_with_a_path_and_an_abstract_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("@weaved-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        let listeners = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (name.into(), UnixDatagram::bind_addr(&abstract_address).unwrap()),
        ];
        for (socket, listener) in listeners {
            send_to(&socket, "READY=1").unwrap();
            let mut state = [0; 16];
            let len = listener.recv(&mut state).unwrap();
            assert_eq!(&state[..len], b"READY=1");
        }
    }
}
