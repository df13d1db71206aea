//! Kinds of work. A [`Row`] can be measured on any side and yields one or more figures.
//!
//! To add one: a variant, a line in [`ROWS`], a line in `Row::measure`, and the measurement in a file of this
//! directory. What needs a set-up of its own and concerns the product alone is a [`Special`].

mod fan_out;
mod footprint;
mod http;
mod idle;
mod outage;
mod ping;
mod tcp;
mod udp;

use weaved_netns_tests::{Impairment, Lab};

use super::{
    plan::Plan,
    record::{Better, Figure},
    side::{Side, Underlay},
};

/// A kind of work that any side can be given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Row {
    /// TCP streams by iperf3, over a path that may be bad.
    Tcp { streams: u8, way: Way, path: Path },
    /// Round trips on an idle overlay.
    Ping,
    /// Round trips while a TCP stream takes what it gets.
    PingUnderBulk,
    /// The highest rate of datagrams at which hardly any is lost.
    UdpRate { len: u16 },
    /// More datagrams than can be carried, and what a neighbour notices.
    UdpFlood,
    /// Requests on connections that are kept.
    Http,
}

/// In which direction streams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    There,
    Back,
    Both,
}

/// What the underlay does to packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Path {
    /// veth, super-packets pass whole.
    Clean,
    /// Real packets, this share of which is lost.
    Lossy(f64),
    /// 20 ms round trip, 0.5 % of datagrams overtaken by three others.
    Reordering,
}

/// Work of the product alone, with hosts of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// CPU time with many connected peers and no traffic.
    Idle,
    /// How long nothing passes when the data plane is killed.
    Outage,
    /// Memory and threads.
    Footprint,
    /// Datagrams of one guest to guests of several hosts in turns.
    FanOut,
}

/// Rows by the names that `--rows` takes.
pub(super) const ROWS: &[(&str, Row, &str)] = &[
    ("tcp1", tcp(1, Way::There), "TCP, 1 stream; with CPU seconds per GB"),
    ("tcp1-back", tcp(1, Way::Back), "the other direction"),
    ("tcp1-both", tcp(1, Way::Both), "one each way at once; the sum"),
    ("tcp2", tcp(2, Way::There), "TCP, 2 streams"),
    ("tcp2-back", tcp(2, Way::Back), ""),
    ("tcp2-both", tcp(2, Way::Both), ""),
    ("tcp8", tcp(8, Way::There), "TCP, 8 streams"),
    ("tcp8-back", tcp(8, Way::Back), ""),
    ("tcp8-both", tcp(8, Way::Both), ""),
    ("ping", Row::Ping, "round trip, idle: median and 99th percentile"),
    ("ping-bulk", Row::PingUnderBulk, "round trip under one TCP stream"),
    ("udp64", Row::UdpRate { len: 64 }, "highest rate of 64-byte datagrams with < 0.1 % loss"),
    ("udp512", Row::UdpRate { len: 512 }, "… of 512 bytes"),
    ("udp1400", Row::UdpRate { len: 1400 }, "… of 1,400 bytes"),
    ("udp-flood", Row::UdpFlood, "1,400-byte datagrams flat out: share lost, a neighbour's ping"),
    ("http", Row::Http, "keep-alive requests/s of 1 KiB on 16 connections; p50, p99, p99.9"),
    ("loss-0", over(Path::Lossy(0.0)), "TCP, 1 stream, each packet by itself on the cable"),
    ("loss-0.01", over(Path::Lossy(0.0001)), "… 0.01 % of packets lost"),
    ("loss-0.1", over(Path::Lossy(0.001)), "… 0.1 % lost"),
    ("loss-1", over(Path::Lossy(0.01)), "… 1 % lost"),
    ("reorder", over(Path::Reordering), "TCP, 1 stream, 20 ms round trip, 0.5 % reordered (UDP overlays only)"),
];

/// The same for what only the product is asked.
pub(super) const SPECIALS: &[(&str, Special, &str)] = &[
    ("idle", Special::Idle, "CPU of one data plane with 50 connected peers and no traffic"),
    ("outage", Special::Outage, "longest silence when the data plane is killed and started again"),
    ("fan-out", Special::FanOut, "highest rate of 64-byte datagrams to one of four hosts, and to all four in turns"),
    ("footprint", Special::Footprint, "memory and threads with no and with 1,000 silent peers"),
];

const fn tcp(streams: u8, way: Way) -> Row {
    Row::Tcp { streams, way, path: Path::Clean }
}

const fn over(path: Path) -> Row {
    Row::Tcp { streams: 1, way: Way::There, path }
}

/// What was chosen by `--rows`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Selection {
    pub(super) rows: Vec<Row>,
    pub(super) specials: Vec<Special>,
}

impl Selection {
    /// Reads one word of `--rows`: a row, the beginning of several (`tcp`, `loss`), or `all`.
    pub(super) fn add(&mut self, word: &str) -> Result<(), String> {
        let exact = ROWS.iter().map(|row| row.0).chain(SPECIALS.iter().map(|row| row.0)).any(|name| name == word);
        let chosen = |name: &str| if exact { name == word } else { word == "all" || name.starts_with(word) };
        let rows: Vec<Row> = ROWS.iter().filter(|row| chosen(row.0)).map(|row| row.1).collect();
        let specials: Vec<Special> = SPECIALS.iter().filter(|row| chosen(row.0)).map(|row| row.1).collect();
        if word.is_empty() || (rows.is_empty() && specials.is_empty()) {
            return Err(format!("there is no row `{word}`; --help lists them"));
        }
        rows.into_iter().for_each(|row| {
            if !self.rows.contains(&row) {
                self.rows.push(row);
            }
        });
        specials.into_iter().for_each(|row| {
            if !self.specials.contains(&row) {
                self.specials.push(row);
            }
        });
        Ok(())
    }
}

impl Row {
    /// What it must be measured on.
    pub(super) fn underlay(self) -> Underlay {
        match self {
            Self::Tcp { path: Path::Lossy(_), .. } => Underlay::Card,
            Self::Tcp { path: Path::Reordering, .. } => Underlay::Relay,
            _ => Underlay::Cable,
        }
    }

    /// The name that `--rows` takes.
    pub(super) fn name(self) -> &'static str {
        ROWS.iter().find(|row| row.1 == self).map_or("", |row| row.0)
    }

    /// Makes the underlay as this row wants it. The sides are up.
    pub(super) fn prepare(self, lab: &Lab, sides: &[Side]) {
        match self {
            Self::Tcp { path: Path::Lossy(share), .. } => lab.lose(share),
            Self::Tcp { path: Path::Reordering, .. } => {
                // Each packet passes two wires, one of each host; one of them does all the harm.
                let impairment =
                    Impairment { delay: REORDERING_DELAY, reorder: REORDERED_SHARE, ..Impairment::default() };
                sides.iter().for_each(|side| side.hosts[0].wire().impair(&impairment));
            }
            _ => {}
        }
    }

    /// Measures one turn of a side.
    pub(super) fn measure(self, side: &Side, plan: &Plan) -> Result<Vec<Figure>, String> {
        match self {
            Self::Tcp { path: Path::Reordering, .. } if side.is_bare() => {
                Err("the relay impairs UDP only, and here TCP is on the cable by itself".to_owned())
            }
            Self::Tcp { streams, way, path } => tcp::measure(side, plan, streams, way, path),
            Self::Ping => ping::idle(side, plan),
            Self::PingUnderBulk => ping::under_bulk(side, plan),
            Self::UdpRate { len } => udp::rate(side, plan, len),
            Self::UdpFlood => udp::flood(side, plan),
            Self::Http => http::measure(side, plan),
        }
    }
}

/// One way; there and back is 20 ms.
const REORDERING_DELAY: std::time::Duration = std::time::Duration::from_millis(10);
const REORDERED_SHARE: f64 = 0.005;

impl Special {
    /// The name that `--rows` takes.
    pub(super) fn name(self) -> &'static str {
        SPECIALS.iter().find(|row| row.1 == self).map_or("", |row| row.0)
    }

    /// Measures it, in a lab of its own.
    pub(super) fn measure(self, lab: &mut Lab, plan: &Plan, report: &mut dyn FnMut(u32, Figure)) -> Result<(), String> {
        match self {
            Self::Idle => idle::measure(lab, plan, report),
            Self::Outage => outage::measure(lab, plan, report),
            Self::Footprint => footprint::measure(lab, plan, report),
            Self::FanOut => fan_out::measure(lab, plan, report),
        }
    }
}

/// A figure of which more is better.
fn more(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
    Figure { name: name.into(), value, unit: unit.to_owned(), better: Better::Higher }
}

/// A figure of which less is better.
fn less(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
    Figure { name: name.into(), value, unit: unit.to_owned(), better: Better::Lower }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_name_by_beginning_or_all() {
        let chosen = |words: &[&str]| {
            let mut selection = Selection::default();
            words.iter().for_each(|word| selection.add(word).unwrap());
            selection
        };
        assert_eq!(chosen(&["tcp1"]).rows, [tcp(1, Way::There)]);
        assert_eq!(chosen(&["tcp"]).rows.len(), 9);
        assert_eq!(chosen(&["tcp1", "tcp"]).rows.len(), 9);
        let all = chosen(&["all"]);
        assert_eq!((all.rows.len(), all.specials.len()), (ROWS.len(), SPECIALS.len()));
        assert_eq!(chosen(&["idle"]).specials, [Special::Idle]);
        assert!(Selection::default().add("sctp").is_err());
        assert!(Selection::default().add("").is_err());
    }
}
