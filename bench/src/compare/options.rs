//! What can be asked for on the command line.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use super::{
    plan::Plan,
    row::{ROWS, SPECIALS, Selection},
    side::{Between, NAMES, PeerKind, Subject},
};

/// What to measure, how long and how often; or what to make of what was measured.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "weaved-bench",
    about = "Compare weaved with other ways to join two hosts, in turns, in one run",
    args_conflicts_with_subcommands = true,
    after_help = catalogue()
)]
pub struct Options {
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
    /// What is compared, in the order of the turns
    #[arg(long, value_name = "SIDE,…", value_delimiter = ',', default_value = "vxlan,weaved")]
    sides: Vec<String>,
    /// Kinds of work; the beginning of a name stands for all that begin so, `all` for all
    #[arg(long, value_name = "ROW,…", value_delimiter = ',', default_value = "tcp1,tcp1-back,tcp8,ping,udp64")]
    rows: Vec<String>,
    /// Between what ends
    #[arg(long, value_enum, value_delimiter = ',', default_value = "guests")]
    pub(super) between: Vec<Between>,
    /// What the others are divided by
    #[arg(long, value_name = "SIDE", default_value = "vxlan")]
    pub(super) reference: String,
    /// Another executable of a peer than the installed one; may be given several times
    #[arg(long, value_name = "NAME=FILE")]
    peer: Vec<String>,
    /// Turns of each side
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// Seconds of each TCP, HTTP or flood measurement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Directory for the results, one file of JSON lines for each run
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    pub(super) results: PathBuf,
    /// Everything once and short: shows that the bench works, measures nothing
    #[arg(long)]
    pub(super) smoke: bool,
}

/// What else the program can do.
#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Print the tables of one or more runs as if they were one
    Report {
        /// Files of JSON lines that runs have written
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// What the others are divided by
        #[arg(long, value_name = "SIDE", default_value = "vxlan")]
        reference: String,
        /// Draw the headline figures, as SVG
        #[arg(long, value_name = "FILE")]
        chart: Option<PathBuf>,
        /// Put the tables between the lines `<!-- figures -->` and `<!-- end of figures -->` of a Markdown file
        #[arg(long, value_name = "FILE")]
        into: Option<PathBuf>,
    },
}

impl Options {
    pub(super) fn plan(&self) -> Plan {
        if self.smoke { Plan::smoke() } else { Plan::new(self.pairs, Duration::from_secs(self.seconds.into())) }
    }

    pub(super) fn subjects(&self) -> Result<Vec<Subject>, String> {
        let mut subjects: Vec<Subject> = Vec::new();
        for name in &self.sides {
            for subject in Subject::parse(name)? {
                if !subjects.contains(&subject) {
                    subjects.push(subject);
                }
            }
        }
        for peer in &self.peer {
            let (name, path) = peer.split_once('=').ok_or(format!("`{peer}` is not NAME=FILE"))?;
            if PeerKind::ALL.iter().all(|kind| kind.name() != name) {
                return Err(format!("there is no peer `{name}`; --help lists them"));
            }
            subjects.iter_mut().try_for_each(|subject| subject.use_program(name, path))?;
        }
        Ok(subjects)
    }

    pub(super) fn selection(&self) -> Result<Selection, String> {
        let mut selection = Selection::default();
        self.rows.iter().try_for_each(|word| selection.add(word))?;
        Ok(selection)
    }
}

/// The end of `--help`: sides, rows, examples.
fn catalogue() -> String {
    let mut text = "Sides:\n".to_owned();
    let mut list = |heading: &str, names: &mut dyn Iterator<Item = (&str, &str)>| {
        text.push_str(heading);
        for (name, about) in names {
            let _ = writeln!(text, "  {name:<20} {about}");
        }
    };
    list("", &mut NAMES.iter().copied());
    list("\nRows, on any side:\n", &mut ROWS.iter().map(|(name, _, about)| (*name, *about)));
    list("\nRows, of WEAVED_BIN alone:\n", &mut SPECIALS.iter().map(|(name, _, about)| (*name, *about)));
    text.push_str(EXAMPLES);
    text
}

const EXAMPLES: &str = "
A pair is one turn of each side; ratios are of turns of the same pair. Each run writes a file of JSON lines.
Needs root, iperf3 and ping. The program under test is WEAVED_BIN, else the one beside this program; the traffic tool
is WEAVED_LABTOOL, else the one beside this program.

Examples:
  weaved-bench --rows tcp1,ping --pairs 7
  weaved-bench --sides vxlan,switches --rows tcp1,udp64
  weaved-bench --sides weaved:program=/tmp/before,weaved --reference weaved:program=/tmp/before --rows tcp,udp
  weaved-bench --between hosts --sides veth,vxlan,weaved,peers --peer wireguard-go=/opt/wireguard-go --rows tcp1
  weaved-bench --between containers --sides vxlan,weaved --rows tcp1,tcp8
  weaved-bench report --chart docs/performance.svg --into docs/performance.md bench/results/*.jsonl";

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_help_lists_every_side_and_row() {
        let help = Options::command().render_help().to_string();
        let rows = ROWS.iter().map(|row| row.0).chain(SPECIALS.iter().map(|row| row.0));
        for name in rows.chain(NAMES.iter().map(|(name, _)| *name)) {
            assert!(help.contains(&format!("  {name}")), "{name}\n{help}");
        }
    }

    #[test]
    fn defaults_can_be_measured() {
        let options = Options::parse_from(["weaved-bench"]);
        assert_eq!(options.subjects().unwrap().len(), 2);
        assert!(!options.selection().unwrap().rows.is_empty());
    }
}
