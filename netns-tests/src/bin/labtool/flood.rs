//! One small datagram a millisecond to an echo; tells again and again what became of them.
//!
//! A request is settled when it is so old that an answer is no longer waited for: only settled ones count as lost,
//! so that a report is right at any moment and nobody has to end the flood in order.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use crate::bind_for;

const INTERVAL: Duration = Duration::from_millis(1);
const REPORT_INTERVAL: Duration = Duration::from_millis(20);
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// As large as the default echo request of ping.
const DATAGRAM_LEN: usize = 56;

/// Floods until killed.
pub(crate) fn flood(to: SocketAddr) -> io::Result<()> {
    let socket = bind_for(to)?;
    socket.connect(to)?;
    socket.set_nonblocking(false)?;
    let start = Instant::now();
    let mut state = State::new();
    let (mut next_send, mut next_report) = (start, start);
    loop {
        let now = Instant::now();
        if now >= next_send {
            // An unreachable network is a lost request like any other.
            let _ = socket.send(&state.request(now));
            next_send += INTERVAL;
        }
        if now >= next_report {
            state.settle(now);
            println!("{}", state.report());
            next_report = now + REPORT_INTERVAL;
        }
        receive(&socket, &mut state, next_send)?;
    }
}

/// Takes in one answer, if one comes before `until`.
fn receive(socket: &UdpSocket, state: &mut State, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(());
    }
    socket.set_read_timeout(Some(left))?;
    let mut buffer = [0; DATAGRAM_LEN];
    if let Ok(len) = socket.recv(&mut buffer)
        && let Some(number) = buffer[..len].first_chunk::<8>()
    {
        state.on_answer(u64::from_le_bytes(*number), Instant::now());
    }
    Ok(())
}

/// What has been sent and what of it came back.
struct State {
    sent: u64,
    /// Requests that are not settled: when they were sent and whether they were answered. The first has the number
    /// `settled + 1`.
    open: VecDeque<(Instant, bool)>,
    settled: u64,
    answered: u64,
    repeated: u64,
    latest: u64,
    last_answer: Option<Instant>,
    longest_gap: Duration,
}

impl State {
    fn new() -> Self {
        Self {
            sent: 0,
            open: VecDeque::new(),
            settled: 0,
            answered: 0,
            repeated: 0,
            latest: 0,
            last_answer: None,
            longest_gap: Duration::ZERO,
        }
    }

    fn request(&mut self, now: Instant) -> [u8; DATAGRAM_LEN] {
        self.sent += 1;
        self.open.push_back((now, false));
        let mut datagram = [0; DATAGRAM_LEN];
        datagram[..8].copy_from_slice(&self.sent.to_le_bytes());
        datagram
    }

    fn on_answer(&mut self, number: u64, now: Instant) {
        let index = number.checked_sub(self.settled + 1).map(|index| index as usize);
        let Some((_, answered)) = index.and_then(|index| self.open.get_mut(index)) else { return };
        if *answered {
            self.repeated += 1;
            return;
        }
        *answered = true;
        self.latest = self.latest.max(number);
        let gap = self.last_answer.map_or(Duration::ZERO, |last| now - last);
        self.longest_gap = self.longest_gap.max(gap);
        self.last_answer = Some(now);
    }

    fn settle(&mut self, now: Instant) {
        while let Some((_, answered)) = self.open.pop_front_if(|(sent, _)| now - *sent >= SETTLED_AFTER) {
            self.settled += 1;
            self.answered += u64::from(answered);
        }
    }

    fn report(&self) -> String {
        let Self { sent, settled, answered, repeated, latest, longest_gap, .. } = self;
        format!("report {sent} {settled} {answered} {repeated} {latest} {}", longest_gap.as_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settled_requests_count_as_lost() {
        let start = Instant::now();
        let mut state = State::new();
        for _ in 0..3 {
            state.request(start);
        }
        state.request(start + SETTLED_AFTER);
        state.on_answer(2, start + INTERVAL);
        state.on_answer(2, start + INTERVAL);
        state.on_answer(3, start + 5 * INTERVAL);
        state.settle(start + SETTLED_AFTER);
        assert_eq!(state.report(), "report 4 3 2 1 3 4000");
    }

    #[test]
    fn an_answer_to_nothing_is_ignored() {
        let mut state = State::new();
        state.on_answer(0, Instant::now());
        state.on_answer(9, Instant::now());
        assert_eq!(state.report(), "report 0 0 0 0 0 0");
    }
}
