//! What clients have noted while a service was switched, and what of it was wrong.
//!
//! A request that *began* after a switch was acknowledged, and *ended* before the next one was begun, must have been answered by the
//! colour of that switch: whatever clocks, hosts and processes did meanwhile. Everything here is in microseconds of one clock,
//! because the lab is one machine.

use std::{fmt, fs, path::Path, time::Duration};

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
    /// When the order was acknowledged; [`u64::MAX`] if it was not.
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

/// What clients have seen of a version that turned sick and was taken back.
#[derive(Debug)]
pub struct Sickness<'a> {
    /// Requests between its first moment and its end.
    pub asked: usize,
    /// Of them, those that the sick version has answered.
    pub saw_it: usize,
    /// From its first moment until everybody was served by the other colour again.
    pub lasted: Duration,
    /// What failed otherwise: it must be empty.
    pub unexplained: Vec<&'a Request>,
}

impl Ledger {
    /// Everything together.
    pub fn of_all(ledgers: Vec<Self>) -> Self {
        Self { requests: ledgers.into_iter().flat_map(|ledger| ledger.requests).collect() }
    }

    /// What became of requests while a colour was sick, which then answers with 500: from before the first instance was until
    /// everybody had gone back.
    pub fn sickness(&self, colour: &str, from_us: u64, until_us: u64) -> Sickness<'_> {
        let is_within = |request: &&Request| request.ended_us >= from_us && request.began_us <= until_us;
        let saw_it = |request: &&Request| is_within(request) && request.colour == colour && request.status == "500";
        Sickness {
            asked: self.requests.iter().filter(is_within).count(),
            saw_it: self.requests.iter().filter(saw_it).count(),
            lasted: Duration::from_micros(until_us.saturating_sub(from_us)),
            unexplained: self.failed().into_iter().filter(|request| !saw_it(request)).collect(),
        }
    }

    /// Adds what is in a file.
    #[track_caller]
    pub fn read(&mut self, file: &Path) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.requests.extend(text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("no request: {line}"))));
    }

    /// Whether the clients have asked before the one moment and behind the other: what was between them happened under load.
    pub fn spans(&self, from_us: u64, until_us: u64) -> bool {
        let is_before = self.requests.iter().any(|request| request.ended_us < from_us);
        is_before && self.requests.iter().any(|request| request.began_us > until_us)
    }

    /// Requests that were not answered, or not with 200.
    pub fn failed(&self) -> Vec<&Request> {
        self.requests.iter().filter(|request| request.status != "200").collect()
    }

    /// Requests that a colour has answered which was not live at any moment of the request. `switches` in their order.
    pub fn wrong<'a>(&'a self, switches: &[Switched]) -> Vec<&'a Request> {
        self.requests.iter().filter(|request| is_wrong(request, switches)).collect()
    }

    /// Requests of one host that the colour before has answered although the same host had begun to answer by the colour of the
    /// switch: it has gone over more than once. Whenever it heard of the switch, this must not happen.
    pub fn relapsed(&self, switches: &[Switched]) -> Vec<&Request> {
        let mut relapsed = Vec::new();
        for (at, switch) in switches.iter().enumerate() {
            let next_begun_us = switches.get(at + 1).map_or(u64::MAX, |next| next.begun_us);
            let within = self.requests.iter().filter(|request| {
                request.status == "200" && request.began_us >= switch.begun_us && request.ended_us < next_begun_us
            });
            let by_new = within.clone().filter(|request| request.colour == switch.colour);
            let Some(first_us) = by_new.map(|request| request.ended_us).min() else { continue };
            relapsed.extend(within.filter(|request| request.began_us > first_us && request.colour != switch.colour));
        }
        relapsed
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

impl fmt::Display for Sickness<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, saw_it, lasted, unexplained } = self;
        let others = unexplained.len();
        write!(
            f,
            "taken back after {lasted:.1?}; {saw_it} of {asked} requests in that time saw it; failed otherwise: {others}"
        )
    }
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
    fn only_what_has_requests_on_both_sides_is_under_load() {
        let ledger = Ledger { requests: vec![request(90, 95, "blue"), request(130, 140, "green")] };
        for (from_us, until_us, is_under_load) in
            [(100, 120, true), (95, 120, false), (80, 120, false), (100, 130, false), (100, u64::MAX, false)]
        {
            assert_eq!(ledger.spans(from_us, until_us), is_under_load, "{from_us}..{until_us}");
        }
        assert!(!Ledger::default().spans(100, 120));
    }

    #[test]
    fn a_host_may_be_late_and_must_not_go_back() {
        let late = vec![request(130, 140, "blue"), request(150, 160, "green"), request(155, 165, "blue")];
        assert_eq!(Ledger { requests: late.clone() }.relapsed(&switches()), Vec::<&Request>::new());
        let back = request(161, 170, "blue");
        let ledger = Ledger { requests: [late, vec![back.clone()]].concat() };
        assert_eq!(ledger.relapsed(&switches()), [&back]);
    }

    #[test]
    fn only_the_sick_colour_explains_a_failure_and_only_while_it_is_live() {
        let failed =
            |began_us, colour: &str| Request { status: "500".into(), ..request(began_us, began_us + 5, colour) };
        let seen = vec![failed(100, "green"), request(110, 115, "green"), failed(130, "blue"), failed(201, "green")];
        let ledger = Ledger { requests: seen.clone() };
        let sickness = ledger.sickness("green", 90, 200);
        assert_eq!((sickness.asked, sickness.saw_it), (3, 1));
        assert_eq!(sickness.unexplained, [&seen[2], &seen[3]]);
    }

    #[test]
    fn what_failed_is_counted_once_and_not_as_wrong() {
        let ledger = Ledger { requests: vec![Request { status: "503".into(), ..request(130, 140, "-") }] };
        assert_eq!((ledger.failed().len(), ledger.wrong(&switches()).len()), (1, 0));
    }
}
