//! Texts that operators and other programs write: whatever they are, they are understood or refused in one line.

use std::path::Path;

use super::assert_is_a_line;
use crate::{
    cli::kv::transfer,
    docker::config::{DockerOptions, Installed, OnConflict, same_document},
    firewall,
    health::{self, http},
    kv::Key,
    state::token,
    template::config,
};

/// The first letter says what kind of text the rest is: `I` an export of keys, `D` a `daemon.json`, `F` what `iptables-save`
/// prints, `J` a join token, `T` the configuration of `weaved template`, `U` the URL of a check, `G` the answer to one by gRPC.
pub fn fuzz_files(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let text = &*String::from_utf8_lossy(bytes);
    match kind {
        b'I' => import(bytes),
        b'D' => daemon_json(text),
        b'F' => {
            let obstacle = firewall::obstacle_in(text, "weave", Some("10.32.0.0/12".parse().expect("a range")));
            assert!(obstacle.is_none_or(|obstacle| !obstacle.contains('\n')), "{text:?}");
        }
        b'J' => {
            if let Ok(secret) = token::decode(text) {
                assert_eq!(token::encode(&secret).as_str(), text.trim().to_ascii_lowercase());
            }
        }
        b'T' => assert_is_a_line(config::parse(Path::new("c.toml"), text).err().as_deref()),
        b'U' => assert_is_a_line(http::problem_of(text).as_deref().filter(|_| !text.contains(char::is_control))),
        b'G' => drop(health::grpc_status(bytes)),
        _ => {}
    }
}

/// What is read is exported as something that is read as the same.
fn import(bytes: &[u8]) {
    match transfer::parse(bytes) {
        Ok(entries) => {
            assert!(entries.iter().all(|entry| Key::new(&entry.key).is_ok()));
            let exported = serde_json::to_vec(&entries).expect("entries are JSON");
            assert!(transfer::parse(&exported).is_ok_and(|again| again == entries));
        }
        Err(failure) => assert!(failure.to_string().ends_with("nothing was changed")),
    }
}

/// What was put in is taken out again, and what was there before comes back.
fn daemon_json(text: &str) {
    let options = DockerOptions {
        bridge: "weave".into(),
        fixed_cidr: "10.32.1.0/24".parse().expect("a slice"),
        mtu: 1400,
        dns: None,
    };
    for on_conflict in [OnConflict::Refuse, OnConflict::Replace] {
        let mut installed = Installed { had_file: true, ..Installed::default() };
        let Ok(Some(merged)) = options.merge(text, &mut installed, on_conflict) else { continue };
        let again = options.merge(&merged, &mut installed, on_conflict);
        assert_eq!(again, Ok(None), "it says it all already");
        let back = installed.unmerge(&merged).expect("it is JSON").expect("there was a file");
        assert!(same_document(&back, text), "{text:?} came back as {back:?}");
    }
}
