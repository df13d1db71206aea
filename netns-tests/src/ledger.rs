//! What clients have noted while a service was switched, and what of it was wrong.
//!
//! A request that *began* after a switch was acknowledged, and *ended* before the next one was begun, must have been answered by the
//! colour of that switch: whatever clocks, hosts and processes did meanwhile. Everything here is in microseconds of one clock,
//! because the lab is one machine.

use std::{fmt, fs, path::Path};

/// One request, as `labtool web-load` has written it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// When the client began.
    pub began_us: u64,
    /// When it had the answer.
    pub ended_us: u64,
    /// Who has answered; `-` for nobody.
    pub colour: String,
    /// `200`, another status, or what was wrong.
    pub status: String,
}

/// One switch, as who has ordered it saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    /// When it was ordered.
    pub begun_us: u64,
    /// When the order was acknowledged.
    pub acknowledged_us: u64,
    /// To what.
    pub colour: String,
}

/// What all clients have seen.
#[derive(Debug, Default)]
pub struct Ledger {
    /// In no order.
    pub requests: Vec<Request>,
}

impl Ledger {
    /// Adds what is in a file.
    #[track_caller]
    pub fn read(&mut self, file: &Path) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.requests.extend(text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("no request: {line}"))));
    }

    /// Requests that were not answered, or not with 200.
    pub fn failed(&self) -> Vec<&Request> {
        self.requests.iter().filter(|request| request.status != "200").collect()
    }

    /// Requests that a colour has answered which was not live at any moment of the request. `switches` in their order.
    pub fn wrong<'a>(&'a self, switches: &[Switched]) -> Vec<&'a Request> {
        self.requests.iter().filter(|request| is_wrong(request, switches)).collect()
    }
}

fn is_wrong(request: &Request, switches: &[Switched]) -> bool {
    let before = switches.iter().rposition(|switch| switch.acknowledged_us <= request.began_us);
    let Some(at) = before.filter(|_| request.status == "200") else { return false };
    let next_begun = switches.get(at + 1).map(|next| next.begun_us);
    next_begun.is_none_or(|begun| request.ended_us < begun) && request.colour != switches[at].colour
}

fn parse(line: &str) -> Option<Request> {
    let [began, ended, colour, status] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let (colour, status) = (colour.to_owned(), status.to_owned());
    Some(Request { began_us: began.parse().ok()?, ended_us: ended.parse().ok()?, colour, status })
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { began_us, ended_us, colour, status } = self;
        write!(f, "began {began_us}, took {} us, answered by {colour}: {status}", ended_us.saturating_sub(*began_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(began_us: u64, ended_us: u64, colour: &str) -> Request {
        Request { began_us, ended_us, colour: colour.into(), status: "200".into() }
    }

    fn switches() -> Vec<Switched> {
        [(100, 120, "green"), (200, 220, "blue")]
            .map(|(begun_us, acknowledged_us, colour)| Switched { begun_us, acknowledged_us, colour: colour.into() })
            .into()
    }

    #[test]
    fn an_old_colour_is_wrong_behind_the_acknowledgement_and_only_there() {
        for (began, ended, colour, is_wrong) in [
            (50, 60, "blue", false),   // before the first switch
            (110, 130, "blue", false), // began before it was acknowledged
            (130, 140, "blue", true),
            (130, 140, "green", false),
            (190, 210, "blue", false), // the next one was under way
            (230, 240, "green", true),
        ] {
            let ledger = Ledger { requests: vec![request(began, ended, colour)] };
            assert_eq!(!ledger.wrong(&switches()).is_empty(), is_wrong, "{began}..{ended} {colour}");
        }
    }

    #[test]
    fn what_failed_is_counted_once_and_not_as_wrong() {
        let ledger = Ledger { requests: vec![Request { status: "503".into(), ..request(130, 140, "-") }] };
        assert_eq!((ledger.failed().len(), ledger.wrong(&switches()).len()), (1, 0));
    }
}
