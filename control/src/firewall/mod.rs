//! Whether rules of iptables would do anything to packets that are bridged between the overlay and local containers.
//!
//! The data plane lets known frames skip the bridge, and with it the rules that the kernel applies there. It sees when
//! rules change, but not what they mean; so it asks, naming the generation of the rules, and the verdict goes
//! with the desired state. A verdict about rules that have changed again meanwhile is of no use to it: it asks anew.
//!
//! Rules are read by `iptables-save`, because only iptables can print what its extensions mean.

mod judge;
mod save;

use std::{process::Stdio, time::Duration};

use ipnet::Ipv4Net;
use tokio::{
    process::Command,
    sync::{mpsc, watch},
    time,
};
use weaved_api::RulesVerdict;

use self::judge::Packets;

/// Printing takes milliseconds, also with thousands of rules.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rules that change all the time are looked at once in this time.
const PAUSE: Duration = Duration::from_secs(1);
/// More than this nobody has read, and neither does weaved.
const MAX_RULES_BYTES: usize = 16 << 20;

/// The programs, best first: the plain name may be the legacy one, which shows other rules.
const IPTABLES: [&str; 2] = ["iptables-nft-save", "iptables-save"];
const IP6TABLES: [&str; 2] = ["ip6tables-nft-save", "ip6tables-save"];

/// Which packets are asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Name of the bridge.
    pub bridge: String,
    /// All addresses of the overlay.
    pub range: Ipv4Net,
}

/// Answers each question: a generation comes in, a verdict goes out. Ends when nobody asks any more.
pub async fn keep_judged(
    overlay: Overlay,
    mut questions: watch::Receiver<Option<u32>>,
    verdicts: mpsc::Sender<RulesVerdict>,
) {
    while questions.changed().await.is_ok() {
        let Some(generation) = *questions.borrow_and_update() else { continue };
        let verdict = judge(&overlay, generation).await;
        tracing::debug!(?verdict, "looked at the rules of iptables");
        if verdicts.send(verdict).await.is_err() {
            return;
        }
        time::sleep(PAUSE).await;
    }
}

async fn judge(overlay: &Overlay, generation: u32) -> RulesVerdict {
    let bridge = overlay.bridge.as_str();
    let ipv4 = obstacle(IPTABLES, Packets { bridge, range: Some(overlay.range) }).await;
    let ipv6 = obstacle(IP6TABLES, Packets { bridge, range: None }).await;
    RulesVerdict { generation, ipv4, ipv6 }
}

async fn obstacle(programs: [&str; 2], packets: Packets<'_>) -> Option<String> {
    let text = match print(programs).await {
        Ok(text) => text,
        Err(reason) => return Some(reason),
    };
    obstacle_among(&text, programs[1], packets)
}

fn obstacle_among(text: &str, program: &str, packets: Packets<'_>) -> Option<String> {
    match save::parse(text) {
        // Where there is nothing to print, nobody asks.
        Ok(tables) if tables.is_empty() => Some(format!("{program} prints no rules")),
        Ok(tables) => judge::obstacle(&tables, packets),
        Err(error) => Some(error.to_string()),
    }
}

/// The same for the fuzzer.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn obstacle_in(text: &str, bridge: &str, range: Option<Ipv4Net>) -> Option<String> {
    obstacle_among(text, "iptables-save", Packets { bridge, range })
}

/// What the first of the programs that exists prints.
async fn print(programs: [&str; 2]) -> Result<String, String> {
    for program in programs {
        let child = Command::new(program).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = match time::timeout(PATIENCE, child).await {
            Err(_) => return Err(format!("{program} does not end")),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Ok(Err(error)) => return Err(format!("cannot run {program}: {error}")),
            Ok(Ok(output)) => output,
        };
        // Warnings about rules that it cannot show are on either stream.
        let text = [output.stdout.as_slice(), &comment(&output.stderr)].concat();
        if !output.status.success() || text.len() > MAX_RULES_BYTES {
            return Err(format!("{program} does not show the rules"));
        }
        return String::from_utf8(text).map_err(|_| format!("{program} does not print text"));
    }
    Err(format!("{} is not installed, so nobody can look at the rules of iptables", programs[1]))
}

/// What was said on the error stream, as comments behind the rules.
fn comment(said: &[u8]) -> Vec<u8> {
    let said = String::from_utf8_lossy(said);
    said.lines().flat_map(|line| format!("\n# {}", line.trim_start_matches('#')).into_bytes()).collect()
}
