//! Names: clients in closed loops over UDP, each with a socket and one question at a time.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::net::UdpSocket;

use super::{Measured, Outcome, Shape};

/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn run(address: SocketAddr, shape: Shape, count: usize) -> Outcome<Measured> {
    let (times, lost) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(0)));
    let begun = Instant::now();
    let end = begun + Duration::from_millis(shape.millis);
    let mut loops = Vec::new();
    for client in 0..shape.clients {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(address).await?;
        let (times, lost) = (Rc::clone(&times), Rc::clone(&lost));
        loops.push(tokio::task::spawn_local(async move {
            let (mut turn, mut buffer) = (client, [0; 1500]);
            while Instant::now() < end {
                turn += shape.clients;
                let (id, asked) = (turn as u16, Instant::now());
                let question = question(id, &format!("svc-{}", turn % count));
                socket.send(&question).await.map_err(|error| error.to_string())?;
                match tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await {
                    Ok(received) => {
                        check(id, &buffer[..received.map_err(|error| error.to_string())?])?;
                        times.borrow_mut().push(asked.elapsed().as_micros() as u64);
                    }
                    Err(_) => *lost.borrow_mut() += 1,
                }
            }
            Ok::<(), String>(())
        }));
    }
    for each in loops {
        each.await??;
    }
    let took = begun.elapsed();
    Ok(Measured::of(times.take(), took, lost.take()))
}

/// `NAME.service.consul A`
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [name, "service", "consul"] {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// Two addresses, and no error.
fn check(id: u16, answer: &[u8]) -> Result<(), String> {
    let is_ours = answer.len() > 12 && answer[..2] == id.to_be_bytes();
    let is_good = is_ours && answer[3].is_multiple_of(16) && answer[6..8] == [0, 2];
    if is_good { Ok(()) } else { Err(format!("not two addresses: {:02x?}", &answer[..answer.len().min(12)])) }
}
