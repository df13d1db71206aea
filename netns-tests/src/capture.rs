//! Captures what passes an interface, to a file that Wireshark reads, and searches it for plain text.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    namespace::Namespace,
    packet_socket::{MAX_FRAME_BYTES, PacketSocket, is_ready},
};

/// pcap file header: magic (microseconds), version 2.4, zone, accuracy, snap length, link type Ethernet.
const FILE_HEADER: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, MAX_FRAME_BYTES as u32, 1];
/// Bytes of the header in front of each frame in the file.
const RECORD_HEADER_LEN: usize = 16;
/// How soon the thread notices that it shall stop.
const STOP_INTERVAL: Duration = Duration::from_millis(20);

/// A running capture; it ends when dropped.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Capture {
    /// Begins to capture; everything that is sent after the return is seen.
    #[track_caller]
    pub(crate) fn start(namespace: &Namespace, interface: &str, path: &Path) -> Self {
        let socket = namespace.inside(|| PacketSocket::open(interface));
        let socket = socket.unwrap_or_else(|error| panic!("cannot capture on {interface}: {error}"));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (path, stop) = (path.to_owned(), Arc::clone(&stop));
            move || write_frames(&socket, &path, &stop)
        });
        Self { path: path.to_owned(), stop, thread: Some(thread) }
    }

    /// Ends the capture and returns its frames, from the Ethernet header on.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        self.end();
        let bytes = fs::read(&self.path).unwrap_or_else(|error| panic!("cannot read {}: {error}", self.path.display()));
        frames_of(&bytes)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            eprintln!("lab: the capture ended early: {error}");
        }
    }

    /// How many of the frames contain `pattern`.
    pub fn count_with(frames: &[Vec<u8>], pattern: &[u8]) -> usize {
        frames.iter().filter(|frame| frame.windows(pattern.len()).any(|window| window == pattern)).count()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

fn write_frames(socket: &PacketSocket, path: &Path, stop: &AtomicBool) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for word in FILE_HEADER {
        file.write_all(&word.to_le_bytes())?;
    }
    let mut buffer = vec![0; MAX_FRAME_BYTES];
    loop {
        // Asked before the queue is emptied: what was there when the stop came is still written.
        let last_round = stop.load(Ordering::Relaxed);
        while let Some((len, _)) = socket.try_receive(&mut buffer)? {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            for word in [now.as_secs() as u32, now.subsec_micros(), len as u32, len as u32] {
                file.write_all(&word.to_le_bytes())?;
            }
            file.write_all(&buffer[..len])?;
        }
        file.flush()?;
        if last_round {
            return Ok(());
        }
        is_ready(&[socket.as_fd()], STOP_INTERVAL)?;
    }
}

fn frames_of(file: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = file.get(size_of_val(&FILE_HEADER)..).unwrap_or_default();
    let mut frames = Vec::new();
    while let Some((header, after)) = rest.split_at_checked(RECORD_HEADER_LEN) {
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some((frame, after)) = after.split_at_checked(len) else { break };
        frames.push(frame.to_vec());
        rest = after;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_back_and_a_cut_one_is_left_out() {
        let mut file: Vec<u8> = FILE_HEADER.iter().flat_map(|word| word.to_le_bytes()).collect();
        for frame in [b"one".as_slice(), b"three"] {
            for word in [0, 0, frame.len() as u32, frame.len() as u32] {
                file.extend(word.to_le_bytes());
            }
            file.extend(frame);
        }
        assert_eq!(frames_of(&file), [b"one".to_vec(), b"three".to_vec()]);
        file.pop();
        assert_eq!(frames_of(&file), [b"one".to_vec()]);
    }

    #[test]
    fn frames_with_a_pattern_are_counted() {
        let frames = [b"xxsecretxx".to_vec(), b"secre".to_vec()];
        assert_eq!(Capture::count_with(&frames, b"secret"), 1);
    }
}
