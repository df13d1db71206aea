//! `weaved kv`: keys and values of the cluster.
//!
//! Reads show what this host knows, and complain on standard error where it is not with the others; `get --consistent`
//! asks a majority about a guarded key.

pub(crate) mod transfer;
mod watch;

use std::io::{self, Read, Write};

use serde::Serialize;

use super::output::{self, Table, ago};
use crate::{
    failure::Failure,
    kv::{Change, Reach, Reply, Request, Row, Rows, Rule, Topic, Value, limits::MAX_VALUE_BYTES},
    paths::Paths,
    serve::client,
};

/// Bytes of a value that a table shows.
const SHOWN_BYTES: usize = 48;

/// Read, write and watch keys and values of the whole cluster
///
/// Keys below backend/ and keys that a session has locked are guarded: a majority of the hosts decides each change of
/// them, and where none answers the change is refused. All others belong to the last writer.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved kv put backend/current blue\n  weaved kv get backend/current\n  \
                        weaved kv put site/motd - < motd\n  weaved kv ls backend/\n  weaved kv watch backend/current")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Print the value of a key
    #[command(after_help = "Example:\n  weaved kv get backend/current")]
    Get {
        /// The key
        key: String,
        /// Ask a majority, not only this host
        #[arg(long)]
        consistent: bool,
        /// As JSON, with indexes and flags
        #[arg(long)]
        json: bool,
    },
    /// Set the value of a key
    #[command(after_help = "Examples:\n  weaved kv put backend/current green --cas 1700000000000000\n  \
                            echo hello | weaved kv put site/motd -")]
    Put {
        /// The key
        key: String,
        /// The value; - reads standard input. Before one that begins with a hyphen and is no number, write --
        #[arg(allow_negative_numbers = true)]
        value: String,
        /// Only if the key's modify index is this; 0 means that it is not there
        #[arg(long, value_name = "INDEX")]
        cas: Option<u64>,
        /// A number of your own that is kept with the value; a key that shows a live colour has none
        #[arg(long, default_value_t = 0)]
        flags: u64,
    },
    /// List keys
    #[command(after_help = "Example:\n  weaved kv ls backend/")]
    Ls {
        /// Only keys that begin so
        #[arg(default_value = "")]
        prefix: String,
        /// As JSON, with values
        #[arg(long)]
        json: bool,
    },
    /// Delete a key, or all that begin so
    #[command(after_help = "Example:\n  weaved kv rm --recurse site/")]
    Rm {
        /// The key
        key: String,
        /// Only if the key's modify index is this
        #[arg(long, value_name = "INDEX", conflicts_with = "recurse")]
        cas: Option<u64>,
        /// All keys that begin so
        #[arg(long, short)]
        recurse: bool,
    },
    /// Print a key, or all keys below one that ends in /, now and at each change
    #[command(after_help = "Example:\n  weaved kv watch backend/current")]
    Watch {
        /// The key, or a prefix that ends in /
        key: String,
        /// As JSON, one object a line
        #[arg(long)]
        json: bool,
        /// End after so many changes [default: never]
        #[arg(long, value_name = "COUNT")]
        count: Option<u64>,
    },
    /// Print keys and values as `consul kv export` does
    #[command(after_help = "Example:\n  weaved kv export backend/ > backup.json")]
    Export {
        /// Only keys that begin so
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Set all keys that a file of `export` holds, from standard input or FILE
    #[command(after_help = "Example:\n  weaved kv import backup.json")]
    Import {
        /// The file; - is standard input
        #[arg(default_value = "-")]
        file: String,
    },
}

/// One key for programs.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct RowReport<'a> {
    key: &'a str,
    /// Base64.
    value: &'a Value,
    flags: u64,
    create_index: u64,
    modify_index: u64,
    lock_index: u64,
    session: Option<String>,
}

/// What was read for programs.
#[derive(Serialize)]
struct ReadReport<'a> {
    #[serde(flatten)]
    row: RowReport<'a>,
    /// Whether the host that was read from is with the others; none where it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<Reach>,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    match &args.action {
        Action::Get { key, consistent, json } => get(paths, key, *consistent, *json),
        Action::Put { key, value, cas, flags } => {
            let value = if value == "-" { from_stdin()? } else { Value::new(value.as_bytes()) };
            let change = Change::Put { value, flags: *flags, rule: rule(*cas) };
            write(paths, key, change, *cas)
        }
        Action::Ls { prefix, json } => list(paths, prefix, *json),
        Action::Rm { key, recurse: true, .. } => {
            client::kv(paths, Request::DeletePrefix { prefix: key.clone() })?;
            Ok(())
        }
        Action::Rm { key, cas, .. } => write(paths, key, Change::Delete { rule: rule(*cas) }, *cas),
        Action::Watch { key, json, count } => watch::watch(paths, key, *json, *count, &mut io::stdout().lock()),
        Action::Export { prefix } => transfer::export(paths, prefix),
        Action::Import { file } => transfer::import(paths, file),
    }
}

fn rule(cas: Option<u64>) -> Rule {
    cas.map_or(Rule::Always, Rule::AtIndex)
}

fn get(paths: &Paths, key: &str, consistent: bool, json: bool) -> Result<(), Failure> {
    let request = if consistent {
        Request::ReadConsistent { key: key.into() }
    } else {
        Request::Read { topic: Topic::Key(key.into()), wait: None, after: None }
    };
    let rows = rows(paths, request)?;
    let reach = reach(paths);
    let row = rows.rows.first().ok_or_else(|| Failure::refused(format!("there is no key {key}")))?;
    if json {
        return output::say_json(&ReadReport { row: report(row), reach });
    }
    raw(row.value.as_bytes())
}

fn list(paths: &Paths, prefix: &str, json: bool) -> Result<(), Failure> {
    let rows = all(paths, prefix)?;
    reach(paths);
    if json {
        return output::say_json(&rows.iter().map(report).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["KEY", "VALUE", "FLAGS", "MODIFIED AT INDEX", "LOCKED BY"]);
    for row in &rows {
        let session = row.session.map_or(String::new(), |id| id.to_string());
        let cells =
            [row.key.to_string(), shown(&row.value), row.flags.to_string(), row.modify_index.to_string(), session];
        table.row(cells);
    }
    output::say(table);
    Ok(())
}

fn write(paths: &Paths, key: &str, change: Change, cas: Option<u64>) -> Result<(), Failure> {
    match client::kv(paths, Request::Write { key: key.into(), change })? {
        Reply::Written(true) => Ok(()),
        Reply::Written(false) if cas.is_some() => Err(Failure::refused(format!(
            "{key} is not at that index: somebody else has changed it; nothing was changed, `weaved kv get --json {key}` shows it"
        ))),
        _ => Err(Failure::refused(format!("{key} was not changed"))),
    }
}

/// All that begins so.
fn all(paths: &Paths, prefix: &str) -> Result<Vec<Row>, Failure> {
    let topic = Topic::Prefix(prefix.into());
    let first = rows(paths, Request::Read { topic: topic.clone(), wait: None, after: None })?;
    Ok(with_further_pages(paths, &topic, first)?.rows)
}

/// A page and all those behind it, at the index of the first.
fn with_further_pages(paths: &Paths, topic: &Topic, mut found: Rows) -> Result<Rows, Failure> {
    while let after @ Some(_) = found.more_after.take() {
        let page = rows(paths, Request::Read { topic: topic.clone(), wait: None, after })?;
        found.rows.extend(page.rows);
        found.more_after = page.more_after;
    }
    Ok(found)
}

/// Whether this host is with the others. That it is not is told on standard error; what was read is shown all the same.
fn reach(paths: &Paths) -> Option<Reach> {
    // A control of another version may not know.
    let Ok(Reply::Reach(reach)) = client::kv(paths, Request::Reach) else { return None };
    if let Some(complaint) = complaint(&reach) {
        output::complain(complaint);
    }
    Some(reach)
}

fn complaint(reach: &Reach) -> Option<String> {
    let lost_for = ago(reach.lost_for_ms?);
    Some(match reach {
        Reach { voters: 0, .. } => {
            format!("this host has heard of no voters for {lost_for}: what others have written may be missing")
        }
        Reach { answering, voters, .. } => format!(
            "no majority ({answering} of {voters} voters) has answered for {lost_for}: what others have written since may be missing"
        ),
    })
}

fn rows(paths: &Paths, request: Request) -> Result<Rows, Failure> {
    match client::kv(paths, request)? {
        Reply::Rows(rows) => Ok(rows),
        _ => {
            Err(Failure::unreachable("weaved gave another answer than was asked for; restart it with `weaved launch`"))
        }
    }
}

fn report(row: &Row) -> RowReport<'_> {
    RowReport {
        key: row.key.as_str(),
        value: &row.value,
        flags: row.flags,
        create_index: row.create_index,
        modify_index: row.modify_index,
        lock_index: row.lock_index,
        session: row.session.map(|id| id.to_string()),
    }
}

/// A value as one short line.
fn shown(value: &Value) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) if text.len() <= SHOWN_BYTES => text.escape_debug().to_string(),
        _ => format!("({} bytes)", value.as_bytes().len()),
    }
}

/// The bytes as they are; a newline behind them only for people.
fn raw(bytes: &[u8]) -> Result<(), Failure> {
    use io::IsTerminal as _;
    let mut stdout = io::stdout().lock();
    let end: &[u8] = if stdout.is_terminal() && !bytes.ends_with(b"\n") { b"\n" } else { b"" };
    output::written(stdout.write_all(bytes).and_then(|()| stdout.write_all(end)).and_then(|()| stdout.flush()))
}

fn from_stdin() -> Result<Value, Failure> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(MAX_VALUE_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::refused(format!("cannot read standard input: {error}")))?;
    if bytes.len() > MAX_VALUE_BYTES {
        return Err(Failure::refused(format!("the value is longer than {MAX_VALUE_BYTES} bytes; nothing was changed")));
    }
    Ok(Value::new(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_a_majority_complains_and_says_for_how_long_and_another_is_silent() {
        let reach = |answering, voters, lost_for_ms| Reach { answering, voters, lost_for_ms };
        assert_eq!(complaint(&reach(2, 3, None)), None);
        let cut_off = complaint(&reach(1, 3, Some(12_000))).unwrap();
        assert!(cut_off.starts_with("no majority (1 of 3 voters) has answered for 12 s"), "{cut_off}");
        assert!(complaint(&reach(0, 0, Some(1000))).unwrap().contains("heard of no voters"));
    }
}
