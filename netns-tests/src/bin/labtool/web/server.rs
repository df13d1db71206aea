//! The service: says its colour, and fails while a file tells it to.

use std::{
    io::{self, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use super::message::{Head, checksum, read_body, read_head};

/// While it exists every answer is a 500: a version that has turned sick.
const SICK_FILE: &str = "/tmp/sick";

/// Serves, a thread for each connection, until killed. A path such as `/wait/200` takes so many milliseconds.
pub(crate) fn serve(port: u16, colour: &str) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("listening");
    loop {
        let (stream, _) = listener.accept()?;
        let colour = colour.to_owned();
        // A client that goes away is done.
        std::thread::spawn(move || converse(&stream, &colour).ok());
    }
}

fn converse(stream: &TcpStream, colour: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    while let Some(head) = read_head(&mut reader)? {
        if head.get("upgrade").is_some() {
            return echo(reader, stream, colour);
        }
        let body = read_body(&mut reader, &head)?;
        answer(stream, &head, &body, colour)?;
        if head.is_last() {
            return Ok(());
        }
    }
    Ok(())
}

fn answer(mut stream: &TcpStream, head: &Head, body: &[u8], colour: &str) -> io::Result<()> {
    let path = head.first.split(' ').nth(1).unwrap_or_default();
    if let Some(wait) = path.strip_prefix("/wait/").and_then(|ms| ms.parse().ok()) {
        std::thread::sleep(Duration::from_millis(wait));
    }
    let status = if Path::new(SICK_FILE).exists() { "500 Sick" } else { "200 OK" };
    let text = format!("{colour} {:016x}\n", checksum(body));
    let len = text.len();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\r\n{text}");
    stream.write_all(answer.as_bytes())
}

/// An upgraded connection: the colour, then whatever comes.
fn echo(mut reader: BufReader<&TcpStream>, mut stream: &TcpStream, colour: &str) -> io::Result<()> {
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(format!("{head}{colour}\n").as_bytes())?;
    let mut buffer = [0; 4096];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}
