//! `weaved kv watch`: a key, or all below a prefix, now and at each change, over restarts of control.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use super::{report, rows, shown, with_further_pages};
use crate::{
    cli::{follow::until_answered, output},
    failure::Failure,
    kv::{Request, Rows, Topic, Wait},
    paths::Paths,
};

/// One turn of a watch; shorter than the patience of a verb.
const TURN: Duration = Duration::from_secs(8);
/// A restarted weaved may answer at once; it is not asked faster than this.
const SHORTEST_TURN: Duration = Duration::from_millis(100);

pub(super) fn watch(
    paths: &Paths,
    key: &str,
    json: bool,
    count: Option<u64>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let topic = if key.is_empty() || key.ends_with('/') { Topic::Prefix(key.into()) } else { Topic::Key(key.into()) };
    let (mut index, mut left) = (0, count.unwrap_or(u64::MAX));
    let mut answer = news(paths, &topic, index)?;
    while left > 0 {
        if let Some(rows) = answer {
            let told = tell(&rows, key, json, out);
            if told.is_err() {
                return output::written(told);
            }
            index = rows.index;
            left -= 1;
            if left == 0 {
                break;
            }
        }
        answer = until_answered(|| news(paths, &topic, index));
    }
    Ok(())
}

/// All that is there, when it is newer than the index.
fn news(paths: &Paths, topic: &Topic, index: u64) -> Result<Option<Rows>, Failure> {
    let asked = Instant::now();
    let wait = Some(Wait { index, at_most_ms: TURN.as_millis() as u64 });
    let first = rows(paths, Request::Read { topic: topic.clone(), wait, after: None })?;
    if first.index == index {
        std::thread::sleep(SHORTEST_TURN.saturating_sub(asked.elapsed()));
        return Ok(None);
    }
    // What changes between two pages is told again: the index is that of the first.
    with_further_pages(paths, topic, first).map(Some)
}

fn tell(rows: &Rows, key: &str, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, &rows.rows.iter().map(report).collect::<Vec<_>>())?;
        writeln!(out)?;
    } else if rows.rows.is_empty() {
        writeln!(out, "{} is not there", key.escape_debug())?;
    } else {
        for row in &rows.rows {
            writeln!(out, "{} {}", row.key.as_str().escape_debug(), shown(&row.value))?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;
    use crate::{
        kv::{Key, Reply, Row, Value},
        serve::protocol::{self, MAX_REPLY_BYTES},
    };

    fn page(index: u64, keys: &[&str], more_after: Option<&str>) -> Rows {
        let row = |key: &&str| Row {
            key: Key::new(key).unwrap(),
            value: Value::new(b"x"),
            flags: 0,
            create_index: 1,
            modify_index: 1,
            lock_index: 0,
            session: None,
        };
        Rows { index, rows: keys.iter().map(row).collect(), more_after: more_after.map(Into::into) }
    }

    /// Control that answers so, one after the other; where there is nothing to answer it ends. Gives what it was asked.
    fn control(paths: &Paths, answers: Vec<Option<Rows>>) -> thread::JoinHandle<Vec<Request>> {
        let listener = UnixListener::bind(paths.control_socket()).unwrap();
        thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let request = protocol::read_message(&mut stream, MAX_REPLY_BYTES).unwrap();
                if let protocol::Request::Kv { ask } = request {
                    asked.push(ask);
                }
                if let Some(rows) = answer {
                    let reply = protocol::Reply::Kv(Box::new(Ok(Reply::Rows(rows))));
                    protocol::write_message(&mut stream, &reply).unwrap();
                }
            }
            asked
        })
    }

    #[test]
    fn all_pages_are_shown_and_a_restart_of_control_is_outlasted() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path(), dir.path()).unwrap();
        let (first, second) = (page(5, &["p/a"], Some("p/a")), page(6, &["p/b"], None));
        let control = control(&paths, vec![Some(first), Some(second), None, Some(page(9, &["p/c"], None))]);
        let mut out = Vec::new();
        watch(&paths, "p/", false, Some(2), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "p/a x\np/b x\np/c x\n");
        let at = |index| Some(Wait { index, at_most_ms: TURN.as_millis() as u64 });
        let read = |wait, after: Option<&str>| Request::Read {
            topic: Topic::Prefix("p/".into()),
            wait,
            after: after.map(Into::into),
        };
        let expected = [read(at(0), None), read(None, Some("p/a")), read(at(5), None), read(at(5), None)];
        assert_eq!(control.join().unwrap(), expected);
    }
}
