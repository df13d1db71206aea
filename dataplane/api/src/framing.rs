//! One message on the socket: a length, then the message in postcard form.
//!
//! ```text
//! +----------------+---------------------------+
//! | len: u32 LE    | len bytes of postcard     |
//! +----------------+---------------------------+
//! ```
//!
//! INVARIANT: no message is longer than [`MAX_MESSAGE_BYTES`]; a longer one ends the connection, unread.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};
#[cfg(feature = "tokio")]
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Room for 10,000 neighbours and 1,000 peers, several times over.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// Bytes of the length in front of each message.
pub const LEN_BYTES: usize = 4;

/// A message with its length in front.
///
/// Fails with `InvalidInput` when the message is too long.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let encoded = postcard::to_extend(message, vec![0; LEN_BYTES]).map_err(invalid)?;
    let len = encoded.len() - LEN_BYTES;
    if len > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("message of {len} bytes is too long")));
    }
    let mut encoded = encoded;
    encoded[..LEN_BYTES].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(encoded)
}

/// The length that announces the next message, checked.
pub fn decode_len(announced: [u8; LEN_BYTES]) -> io::Result<usize> {
    let len = u32::from_le_bytes(announced) as usize;
    if len > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("message of {len} bytes announced")));
    }
    Ok(len)
}

/// A message from exactly its bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} bytes after the message", rest.len())))
        }
        Err(error) => Err(invalid(error)),
    }
}

/// Writes one message.
pub fn write_message<T: Serialize>(writer: &mut impl Write, message: &T) -> io::Result<()> {
    writer.write_all(&encode(message)?)
}

/// Reads one message; `None` when the other end has closed between messages.
pub fn read_message<T: DeserializeOwned>(reader: &mut impl Read) -> io::Result<Option<T>> {
    let mut announced = [0; LEN_BYTES];
    match reader.read(&mut announced)? {
        0 => return Ok(None),
        count => reader.read_exact(&mut announced[count..])?,
    }
    let mut bytes = vec![0; decode_len(announced)?];
    reader.read_exact(&mut bytes)?;
    decode(&bytes).map(Some)
}

/// [`read_message`] in an asynchronous program. It must not be dropped in the middle of a message.
#[cfg(feature = "tokio")]
pub async fn receive_message<T: DeserializeOwned>(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
    let mut announced = [0; LEN_BYTES];
    match reader.read(&mut announced).await? {
        0 => return Ok(None),
        count => reader.read_exact(&mut announced[count..]).await?,
    };
    let mut bytes = vec![0; decode_len(announced)?];
    reader.read_exact(&mut bytes).await?;
    decode(&bytes).map(Some)
}

fn invalid(error: postcard::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        CipherChoice, ClusterSecret, DesiredState, Generation, MacAddr, Neighbour, OffloadSwitches, Overlay,
        PeerConfig, PeerId, Request, SecretKey, SourcePorts, WorkerCount,
    };

    fn state() -> DesiredState {
        DesiredState {
            generation: Generation(7),
            identity: SecretKey([1; 32]),
            cluster_secret: ClusterSecret([2; 32]),
            listen_port: 6783,
            overlay: Overlay {
                bridge: "weave".into(),
                tap: "weave-tap".into(),
                mtu: 1500,
                gateway: Some("10.32.0.1/12".parse().unwrap()),
            },
            peers: vec![PeerConfig {
                id: PeerId([3; 32]),
                name: "b".into(),
                endpoints: vec!["192.0.2.1:6783".parse().unwrap()],
            }],
            targets: vec!["[2001:db8::1]:6783".parse().unwrap()],
            neighbours: vec![Neighbour {
                mac: MacAddr([2, 0x42, 10, 32, 0, 2]),
                ips: vec!["10.32.0.2".parse().unwrap()],
                peer: PeerId([3; 32]),
            }],
            quarantined: vec![PeerId([4; 32])],
            offload: OffloadSwitches::default(),
            cipher: CipherChoice::Auto,
            workers: WorkerCount::Auto,
            source_ports: SourcePorts::default(),
            bridge_rules: None,
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let sent = Request::Apply(Box::new(state()));
        let mut wire = Vec::new();
        write_message(&mut wire, &sent).unwrap();
        write_message(&mut wire, &Request::QueryStats).unwrap();
        let mut wire = wire.as_slice();
        assert_eq!(read_message(&mut wire).unwrap(), Some(sent));
        assert_eq!(read_message(&mut wire).unwrap(), Some(Request::QueryStats));
        assert_eq!(read_message::<Request>(&mut wire).unwrap(), None);
    }

    #[test]
    fn a_desired_state_is_the_same_document_in_json() {
        let json = serde_json::to_string(&state()).unwrap();
        assert_eq!(serde_json::from_str::<DesiredState>(&json).unwrap(), state());
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_memory_is_taken() {
        let announced = (MAX_MESSAGE_BYTES as u32 + 1).to_le_bytes();
        let error = read_message::<Request>(&mut announced.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_message_cut_short_or_followed_by_garbage_is_an_error() {
        let wire = encode(&Request::Hello(1)).unwrap();
        for len in 1..wire.len() {
            assert!(read_message::<Request>(&mut &wire[..len]).is_err(), "{len}");
        }
        let mut longer = wire[LEN_BYTES..].to_vec();
        longer.push(0);
        assert!(decode::<Request>(&longer).is_err());
    }
}
