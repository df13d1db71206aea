//! Replays the corpus of every fuzz target, and some thousand random and mutated inputs with a fixed seed.
//!
//! `WEAVED_WRITE_CORPUS=1` writes the inputs made of real messages. What a fuzzer has found is added to the folder of
//! its target by hand and stays there.

use std::{fmt::Write as _, fs, panic, path::PathBuf, time::Duration};

use weaved_api::{ClusterSecret, Event, MacAddr, Request};
use weaved_core::{
    rng::Rng,
    testing::{
        Conditions, Network,
        frames::{frame, mac},
        fuzz::{TARGETS, Target},
        reference::below,
    },
};

/// Files of one target. More belong to the fuzzer's own folder.
const MAX_CORPUS_FILES: usize = 30;

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The corpus of a target, in the order of the names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder(target)).expect("every target has a corpus");
    let mut inputs: Vec<_> = files
        .map(|file| {
            let path = file.expect("a readable folder").path();
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            (name, fs::read(&path).expect("a readable file"))
        })
        .collect();
    inputs.sort();
    inputs
}

/// Runs one input; on failure says which, so that it can be added to the corpus.
fn run(target: &Target, name: &str, input: &[u8]) {
    if let Err(panicked) = panic::catch_unwind(|| (target.run)(input)) {
        let mut digits = String::new();
        input.iter().for_each(|byte| write!(digits, "{byte:02x}").expect("a string takes anything"));
        eprintln!("target {}, input {name} ({} bytes): {digits}", target.name, input.len());
        panic::resume_unwind(panicked);
    }
}

fn run_many(name: &str, count: usize) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("the target exists");
    let corpus = corpus(name);
    assert!((1..=MAX_CORPUS_FILES).contains(&corpus.len()), "{} files", corpus.len());
    corpus.iter().for_each(|(name, input)| run(target, name, input));
    let mut rng = Rng::new([0x42; 32]);
    for number in 0..count {
        let mut input = corpus[below(&mut rng, corpus.len())].1.clone();
        match below(&mut rng, 4) {
            0 => input = (0..below(&mut rng, 300)).map(|_| rng.public_u32() as u8).collect(),
            1 => input.truncate(below(&mut rng, input.len() + 1)),
            _ => {}
        }
        for _ in 0..below(&mut rng, 6) {
            match below(&mut rng, 8) {
                0 => input.push(rng.public_u32() as u8),
                _ if input.is_empty() => {}
                1 => drop(input.remove(below(&mut rng, input.len()))),
                2 => {
                    let at = below(&mut rng, input.len());
                    input[at] = [0, 1, 0x7f, 0xff][below(&mut rng, 4)];
                }
                _ => {
                    let at = below(&mut rng, input.len());
                    input[at] ^= 1 << below(&mut rng, 8);
                }
            }
        }
        run(target, &format!("number {number}"), &input);
    }
}

#[test]
fn parsers_take_anything() {
    run_many("wire", 20_000);
}

#[test]
fn handshakes_take_anything() {
    run_many("handshake", 400);
}

#[test]
fn decap_takes_anything() {
    run_many("decap", 4000);
}

#[test]
fn encap_takes_anything() {
    run_many("encap", 4000);
}

#[test]
fn framing_takes_anything() {
    run_many("framing", 20_000);
}

/// A vnet header and a TCP super-frame of three segments.
fn superframe() -> Vec<u8> {
    let mut input = vec![1, 1, 54, 0, 100, 0, 34, 0, 16, 0];
    let mut frame = frame(mac(1, 1), mac(2, 1), &[]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame.extend([0x45, 0, 1, 34, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 32, 1, 2, 10, 32, 2, 2]);
    frame.extend([0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0x7f, 0xff, 0, 0, 0, 0]);
    frame.extend([0x33; 250]);
    input.extend(frame);
    input
}

fn arp_question() -> Vec<u8> {
    let mut question = frame(mac(1, 1), MacAddr::BROADCAST, &[]);
    question[12..14].copy_from_slice(&[0x08, 0x06]);
    question.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(mac(1, 1).0);
    question.extend([10, 32, 1, 2, 0, 0, 0, 0, 0, 0, 10, 32, 2, 2]);
    question
}

/// One input for `encap`: vnet header, length, padding, frame.
fn encap_input(vnet: [u8; 10], frame: &[u8], pad: u16) -> Vec<u8> {
    [&vnet[..], &(frame.len() as u16).to_le_bytes(), &pad.to_le_bytes(), frame].concat()
}

/// Inputs made of real messages, by target.
fn real_inputs() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut network = Network::pair(Conditions::lan(), 1);
    network.nodes[1].desired.cluster_secret = ClusterSecret([1; 32]);
    network.apply();
    network.run(Duration::from_secs(1));
    let refused = network.wiretap.seen.clone();
    let mut network = Network::pair(Conditions::lan(), 1);
    network.run(Duration::from_secs(1));
    network.send(0, &[frame(mac(1, 1), mac(2, 1), &[7; 46])]);
    let mut inputs = Vec::new();
    let mut seen_types = Vec::new();
    for observed in refused.iter().rev().chain(&network.wiretap.seen) {
        let kind = observed.datagram[0] & 0x0f;
        if !seen_types.contains(&kind) {
            seen_types.push(kind);
            inputs.push(("wire", format!("datagram-{kind}"), observed.datagram.clone()));
            inputs.push(("handshake", format!("datagram-{kind}"), [&[5], &observed.datagram[..]].concat()));
            let segment_len = (observed.datagram.len() as u16).to_le_bytes();
            let datagrams = [&[0], &segment_len[..], &observed.datagram].concat();
            inputs.push(("decap", format!("datagram-{kind}"), datagrams));
        }
    }
    let superframe = superframe();
    let body = &superframe[10..];
    let mut train = vec![body.len() as u8, (body.len() >> 8) as u8, 3, 0, 100, 0, 0, 0];
    train.extend(body);
    inputs.push(("wire", "superframe".into(), superframe.clone()));
    inputs.push(("wire", "arp".into(), arp_question()));
    inputs.push(("wire", "train".into(), train.clone()));
    for message in 0..5 {
        inputs.push(("handshake", format!("real-{message}"), vec![message]));
        inputs.push(("handshake", format!("changed-{message}"), vec![message, 40, 0, 1]));
    }
    inputs.push(("decap", "in-order".into(), (0..12).flat_map(|at| [at, 0]).fold(vec![1], push)));
    inputs.push(("decap", "reversed".into(), (0..12).rev().flat_map(|at| [at, 0]).fold(vec![1], push)));
    inputs.push(("decap", "changed".into(), vec![1, 0, 1, 20, 0, 1, 0, 0, 1, 0]));
    inputs.push(("decap", "member-train".into(), [&[2, 0, 0, 1][..], &train].concat()));
    inputs.push(("decap", "member-chunks".into(), [&[2, 1, 0, 0, 1, 0x40, 1][..], &train].concat()));
    let vnet = *superframe.first_chunk().expect("it begins with the header");
    inputs.push(("encap", "superframe".into(), encap_input(vnet, body, 0)));
    inputs.push(("encap", "arp".into(), encap_input([0; 10], &arp_question(), 0)));
    let partial = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0];
    let two = [encap_input(partial, body, 0), encap_input([0; 10], body, 1500)].concat();
    inputs.push(("encap", "two".into(), two));
    inputs.push(("encap", "flood".into(), encap_input([0; 10], &frame(mac(1, 1), MacAddr::BROADCAST, &[1; 46]), 60)));
    let desired = network.nodes[0].desired.clone();
    let to = network.nodes[1].id;
    let requests = [
        Request::Hello(1),
        Request::Apply(Box::new(desired)),
        Request::SendControl { to, bytes: vec![1; 20] },
        Request::QueryStats,
        Request::Teardown,
    ];
    let encoded = requests.iter().map(|request| weaved_api::framing::encode(request).expect("it is short"));
    inputs.push(("framing", "requests".into(), encoded.flatten().collect()));
    let stats = Event::Stats(Box::new(network.nodes[0].router.stats(network.now)));
    for (number, event) in network.nodes[0].events.iter().chain([&stats]).enumerate() {
        let encoded = weaved_api::framing::encode(event).expect("it is short");
        inputs.push(("framing", format!("event-{number}"), encoded[4..].to_vec()));
    }
    inputs
}

fn push(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}

/// Random keys make other messages each time they are written, so the files need not equal what is made here.
#[test]
fn every_kind_of_real_input_is_in_the_corpus() {
    for (target, name, input) in real_inputs() {
        let path = folder(target).join(&name);
        #[expect(clippy::disallowed_methods, reason = "whoever changes a format writes the corpus anew")]
        if std::env::var("WEAVED_WRITE_CORPUS").is_ok() {
            fs::create_dir_all(folder(target)).expect("the folder can be made");
            fs::write(&path, &input).expect("the file can be written");
        }
        assert!(path.exists(), "{} is missing: run with WEAVED_WRITE_CORPUS=1", path.display());
    }
}
