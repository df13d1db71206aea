//! Super-frames through the simulated network: what is delivered are pieces of what was sent, as the slow reference
//! of `offload` builds them; all of them when nothing is lost, none of them twice.

use std::time::Duration;

use super::{Conditions, Network, seeds};
use crate::offload::reference::{Ip, L4, Spec, payload};

fn specs() -> Vec<Spec> {
    let tcp = |flags| L4::Tcp { seq: u32::MAX - 30_000, flags, option_words: 3 };
    let v4 = || Ip::V4 { id: 0xfff0, option_words: 0 };
    let v6 = || Ip::V6 { extensions: vec![] };
    let spec = |ip, transport, len, gso_size| Spec { tags: vec![], ip, transport, payload: payload(len, 7), gso_size };
    vec![
        spec(v4(), tcp(0x18), 60_000, 1348),
        spec(v4(), tcp(0x99), 60_000, 8900),
        spec(v6(), tcp(0x10), 60_000, 1428),
        spec(v4(), tcp(0x10), 2000, 1000),
        spec(v4(), L4::Udp, 40 * 1300, 1300),
        spec(v6(), L4::Udp, 30_001, 1200),
        Spec { tags: vec![0x8100], ..spec(v4(), tcp(0x18), 64_000, 536) },
    ]
}

/// Sends every super-frame over a connected pair. Returns how many bytes were sent and how many came.
fn exchange(conditions: &Conditions, seed: u64) -> (usize, usize) {
    let clean = Conditions { max_datagram: conditions.max_datagram, ..Conditions::lan() };
    let mut network = Network::mesh(2, clean, seed);
    assert!(network.run_until(Duration::from_secs(10), Network::is_full_mesh), "seed {seed}");
    network.run(Duration::from_secs(5));
    network.conditions = conditions.clone();
    let (mut sent, mut came) = (0, 0);
    for spec in specs() {
        let all = 0..spec.segment_count();
        network.send_offloaded(0, &[(spec.vnet(&all), spec.superframe())]);
        network.run(Duration::from_millis(50));
        let mut delivered = vec![false; spec.payload.len()];
        for (vnet, frame) in std::mem::take(&mut network.nodes[1].delivered) {
            for byte in spec.identify(vnet, &frame) {
                assert!(!std::mem::replace(&mut delivered[byte], true), "byte {byte} came twice");
            }
        }
        sent += spec.payload.len();
        came += delivered.iter().filter(|came| **came).count();
    }
    (sent, came)
}

#[test]
fn super_frames_arrive_whole_on_every_clean_path() {
    for max_datagram in [1232, 1372, 1472, 8972] {
        let (sent, came) = exchange(&Conditions { max_datagram, ..Conditions::lan() }, 1);
        assert_eq!(sent, came, "path of {max_datagram}");
    }
}

#[test]
fn of_a_torn_super_frame_only_unchanged_pieces_arrive() {
    for seed in seeds(20) {
        let jitter = Duration::from_micros(300);
        let conditions = Conditions { loss: 0.03, duplicate: 0.03, damage: 0.01, jitter, ..Conditions::lan() };
        let (sent, came) = exchange(&conditions, seed);
        assert!(came < sent && came * 2 > sent, "seed {seed}: {came} of {sent}");
    }
}
