//! How much of bulk traffic arrives over paths of several MTUs and losses, and what it costs on the wire.
//!
//! Everything is deterministic, so the table in `goodput.txt` changes only when the behaviour of trains, salvage or
//! path MTU discovery does. `WEAVED_WRITE_TABLE=1` writes it anew; the difference belongs into the commit that made it.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use weaved_api::MacAddr;
use weaved_core::{
    offload::vnet_hdr::{Gso, VnetHeader},
    testing::{
        Conditions, Network,
        frames::{TCP_HEADERS_LEN, mac, tcp_superframe},
    },
    wire::data::DataHeader,
};

/// Super-frames for each line.
const FRAME_COUNT: usize = 100;
const PAYLOAD_LEN: usize = 57_920;
const SEGMENT_LEN: u16 = 1448;

/// What became of the traffic of one line.
struct Outcome {
    payload_delivered: usize,
    segments_delivered: usize,
    writes: usize,
    datagrams: usize,
    wire_bytes: usize,
}

/// Whether the sender knows what the path loses when the traffic of a line begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Unknown,
    Known,
}

fn exchange(mtu: usize, conditions: &Conditions, loss: Loss) -> Outcome {
    let clean = Conditions { max_datagram: mtu - 28, ..Conditions::lan() };
    let mut network = Network::mesh(2, clean, 1);
    assert!(network.run_until(Duration::from_secs(10), Network::is_full_mesh));
    network.run(Duration::from_secs(5));
    network.conditions = Conditions { max_datagram: mtu - 28, ..conditions.clone() };
    let frame = || tcp_superframe(mac(1, 1), MacAddr([2, 9, 9, 9, 9, 9]), PAYLOAD_LEN, SEGMENT_LEN);
    for _ in 0..if loss == Loss::Known { 1000 } else { 0 } {
        network.send_offloaded(0, &[frame()]);
        network.run(Duration::from_millis(5));
    }
    network.wiretap.seen.clear();
    network.nodes[1].delivered.clear();
    for _ in 0..FRAME_COUNT {
        network.send_offloaded(0, &[frame()]);
        network.run(Duration::from_millis(5));
    }
    network.run(Duration::from_millis(100));
    let is_traffic = |datagram: &[u8]| DataHeader::parse(datagram).is_some_and(|header| header.lane.0 == 1);
    let sent: Vec<usize> =
        network.wiretap.seen.iter().map(|seen| &seen.datagram).filter(|sent| is_traffic(sent)).map(Vec::len).collect();
    let delivered = &network.nodes[1].delivered;
    let payload = |(_, frame): &(VnetHeader, Vec<u8>)| frame.len() - TCP_HEADERS_LEN;
    let segments = |(vnet, frame): &(VnetHeader, Vec<u8>)| match vnet.gso {
        Gso::None => 1,
        _ => (frame.len() - TCP_HEADERS_LEN).div_ceil(vnet.gso_size.into()),
    };
    Outcome {
        payload_delivered: delivered.iter().map(payload).sum(),
        segments_delivered: delivered.iter().map(segments).sum(),
        writes: delivered.len(),
        datagrams: sent.len(),
        wire_bytes: sent.iter().sum(),
    }
}

fn percent(part: usize, whole: usize) -> String {
    let per_mille = (part * 1000 + whole / 2) / whole;
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

fn table() -> String {
    let sent = FRAME_COUNT * PAYLOAD_LEN;
    let mut table = format!("{FRAME_COUNT} super-frames of {PAYLOAD_LEN} bytes, segments of {SEGMENT_LEN}\n\n");
    table.push_str(" mtu  path                delivered  segments  writes  datagrams  added on the wire\n");
    for mtu in [1280, 1400, 1500, 9000] {
        for (name, loss, known, jitter) in [
            ("clean", 0.0, Loss::Unknown, 0),
            ("loss 0.1 %", 0.001, Loss::Unknown, 0),
            ("loss 1 %", 0.01, Loss::Unknown, 0),
            ("loss 1 %, known", 0.01, Loss::Known, 0),
            ("loss 5 %", 0.05, Loss::Unknown, 0),
            ("loss 5 %, known", 0.05, Loss::Known, 0),
            ("reordered by 0.5 ms", 0.0, Loss::Unknown, 500),
            ("reordered by 5 ms", 0.0, Loss::Unknown, 5000),
        ] {
            let conditions = Conditions { loss, jitter: Duration::from_micros(jitter), ..Conditions::lan() };
            let outcome = exchange(mtu, &conditions, known);
            let delivered = percent(outcome.payload_delivered, sent);
            let added = percent(outcome.wire_bytes - sent, sent);
            let Outcome { segments_delivered: segments, writes, datagrams, .. } = outcome;
            writeln!(table, "{mtu:4}  {name:20}{delivered:>9}  {segments:8}  {writes:6}  {datagrams:9}  {added:>17}")
                .expect("a string takes anything");
            if name == "clean" {
                assert_eq!(outcome.payload_delivered, sent, "a clean path of {mtu} loses nothing");
                assert_eq!(writes, FRAME_COUNT, "super-frames arrive whole");
            }
        }
    }
    table
}

#[test]
#[expect(clippy::disallowed_methods, reason = "whoever changes the behaviour writes the table anew")]
fn bulk_traffic_arrives_as_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goodput.txt");
    let table = table();
    if std::env::var("WEAVED_WRITE_TABLE").is_ok() {
        fs::write(&path, &table).expect("the file can be written");
    }
    let committed = fs::read_to_string(&path).expect("the table is committed");
    assert!(committed == table, "the behaviour has changed; run with WEAVED_WRITE_TABLE=1 if it should:\n{table}");
}
