//! Each request in a line, written by a thread of its own.
//!
//! ```text
//! 192.0.2.1 - - [25/Nov/2026:21:40:02 +0000] "GET / HTTP/1.1" 200 512 "web" "blue" "hostA/web1" 0.004
//! ```
//!
//! The file is opened anew when it was moved away, so that logrotate needs no signal.
//!
//! INVARIANT: nobody waits for the disk: the queue is bounded, and a line that does not fit is dropped and counted by who has it.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use weaved_api::balancer::{AccessLog, LogFormat};

use super::limits::LOG_QUEUE;

/// How long a line may lie in the buffer.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// Where lines are put.
#[derive(Debug)]
pub(super) struct LogQueue {
    rule: AccessLog,
    sender: SyncSender<Entry>,
}

/// One request.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) client: IpAddr,
    pub(super) at: SystemTime,
    pub(super) started: Instant,
    /// Empty where nobody knows what was asked for.
    pub(super) method: String,
    pub(super) host: String,
    pub(super) target: String,
    pub(super) version: &'static str,
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) took: Duration,
    pub(super) service: String,
    pub(super) colour: String,
    pub(super) backend: String,
    /// True if the answer ended before its end, whoever has broken it off.
    pub(super) is_broken: bool,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    client: IpAddr,
    method: &'a str,
    host: &'a str,
    target: &'a str,
    version: &'a str,
    status: u16,
    bytes: u64,
    seconds: f64,
    service: &'a str,
    colour: &'a str,
    backend: &'a str,
    broken: bool,
}

impl Entry {
    /// Nothing is known but who has asked.
    pub(super) fn new(client: IpAddr, started: Instant) -> Self {
        Self {
            client,
            at: SystemTime::now(),
            started,
            method: String::new(),
            host: String::new(),
            target: String::new(),
            version: "",
            status: 0,
            bytes: 0,
            took: Duration::ZERO,
            service: String::new(),
            colour: String::new(),
            backend: String::new(),
            is_broken: false,
        }
    }
}

impl LogQueue {
    /// Opens the file and starts to write. Fails with the reason.
    pub(super) fn start(rule: AccessLog) -> std::io::Result<Self> {
        let file = open(&rule.path)?;
        let (sender, receiver) = sync_channel(LOG_QUEUE);
        let writer = Writer { path: rule.path.clone(), format: rule.format, out: BufWriter::new(file) };
        thread::Builder::new().name("access-log".into()).spawn(move || writer.run(&receiver))?;
        Ok(Self { rule, sender })
    }

    pub(super) fn rule(&self) -> &AccessLog {
        &self.rule
    }

    /// False when it was dropped.
    pub(super) fn write(&self, entry: Entry) -> bool {
        self.sender.try_send(entry).is_ok()
    }
}

struct Writer {
    path: PathBuf,
    format: LogFormat,
    out: BufWriter<File>,
}

impl Writer {
    /// Until nobody can send any more.
    fn run(mut self, entries: &Receiver<Entry>) {
        let mut flushed = Instant::now();
        let mut has_failed = false;
        loop {
            let outcome = match entries.recv_timeout(FLUSH_INTERVAL) {
                Ok(entry) => self.out.write_all(line(self.format, &entry).as_bytes()),
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let outcome = outcome.and_then(|()| {
                if flushed.elapsed() < FLUSH_INTERVAL {
                    return Ok(());
                }
                flushed = Instant::now();
                self.out.flush().and_then(|()| self.follow())
            });
            if let Err(error) = &outcome
                && !has_failed
            {
                tracing::warn!(path = %self.path.display(), %error, "cannot write the access log");
            }
            has_failed = outcome.is_err();
        }
        drop(self.out.flush());
    }

    /// The file that has the name, which may be another one than before.
    fn follow(&mut self) -> std::io::Result<()> {
        let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let named = std::fs::metadata(&self.path).map(place).ok();
        if named != Some(place(self.out.get_ref().metadata()?)) {
            self.out = BufWriter::new(open(&self.path)?);
        }
        Ok(())
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn line(format: LogFormat, entry: &Entry) -> String {
    let Entry { client, method, host, target, version, status, bytes, service, colour, backend, .. } = entry;
    let seconds = entry.took.as_secs_f64();
    match format {
        LogFormat::Common => {
            let request = match method.as_str() {
                "" => "-".to_owned(),
                method => format!("{} {} {version}", escape(method), escape(target)),
            };
            let (service, colour, backend) = (escape(service), escape(colour), escape(backend));
            let at = common_time(entry.at);
            let end = if entry.is_broken { " broken" } else { "" };
            format!(
                "{client} - - [{at}] \"{request}\" {status} {bytes} \"{service}\" \"{colour}\" \"{backend}\" \
                 {seconds:.6}{end}\n"
            )
        }
        LogFormat::Json => {
            let (time, client) = (iso_time(entry.at), *client);
            let (status, bytes, broken) = (*status, *bytes, entry.is_broken);
            let line = JsonLine {
                time,
                client,
                method,
                host,
                target,
                version,
                status,
                bytes,
                seconds,
                service,
                colour,
                backend,
                broken,
            };
            serde_json::to_string(&line).map_or_else(|error| format!("{{\"error\":\"{error}\"}}\n"), |text| text + "\n")
        }
    }
}

/// What would end a field or a line becomes `\xHH`, as other servers write it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            _ if character.is_ascii_graphic() || character == ' ' => escaped.push(character),
            _ => {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    let _infallible = write!(escaped, "\\x{byte:02x}");
                }
            }
        }
    }
    escaped
}

struct Civil {
    year: u64,
    month: u64,
    day: u64,
    seconds: u64,
    millis: u32,
}

/// The calendar (algorithm of Howard Hinnant, "chrono-compatible low-level date algorithms"), in UTC.
fn civil(at: SystemTime) -> Civil {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let days = since.as_secs() / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    Civil { year, month, day, seconds: since.as_secs() % 86_400, millis: since.subsec_millis() }
}

fn common_time(at: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Civil { year, month, day, seconds, .. } = civil(at);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{day:02}/{}/{year}:{hour:02}:{minute:02}:{second:02} +0000", MONTHS[month as usize - 1])
}

fn iso_time(at: SystemTime) -> String {
    let Civil { year, month, day, seconds, millis } = civil(at);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            client: "192.0.2.1".parse().unwrap(),
            at: UNIX_EPOCH + Duration::from_millis(1_795_642_802_004),
            started: Instant::now(),
            method: "GET".into(),
            host: "example.com".into(),
            target: "/a\"b\n".into(),
            version: "HTTP/1.1",
            status: 200,
            bytes: 512,
            took: Duration::from_millis(4),
            service: "web".into(),
            colour: "blue".into(),
            backend: "hostA/web1".into(),
            is_broken: false,
        }
    }

    #[test]
    fn a_request_is_one_line_whatever_the_client_wrote() {
        assert_eq!(
            line(LogFormat::Common, &entry()),
            "192.0.2.1 - - [25/Nov/2026:21:40:02 +0000] \"GET /a\\\"b\\x0a HTTP/1.1\" 200 512 \"web\" \"blue\" \
             \"hostA/web1\" 0.004000\n"
        );
        let json = line(LogFormat::Json, &entry());
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((json.matches('\n').count(), &value["target"]), (1, &"/a\"b\n".into()));
        assert_eq!(value["time"], "2026-11-25T21:40:02.004Z");
    }

    #[test]
    fn a_head_that_is_no_request_is_a_line_as_well() {
        let entry = Entry { at: entry().at, status: 400, ..Entry::new(entry().client, Instant::now()) };
        assert_eq!(
            line(LogFormat::Common, &entry),
            "192.0.2.1 - - [25/Nov/2026:21:40:02 +0000] \"-\" 400 0 \"\" \"\" \"\" 0.000000\n"
        );
        let value: serde_json::Value = serde_json::from_str(&line(LogFormat::Json, &entry)).unwrap();
        assert_eq!((&value["status"], &value["method"], &value["target"]), (&400.into(), &"".into(), &"".into()));
    }

    #[test]
    fn the_calendar_knows_leap_years() {
        for (days, date) in [(0, "01/Jan/1970"), (59, "01/Mar/1970"), (11_016, "29/Feb/2000"), (20_819, "01/Jan/2027")]
        {
            let at = UNIX_EPOCH + Duration::from_secs(days * 86_400);
            assert!(common_time(at).starts_with(date), "{}", common_time(at));
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = LogQueue::start(AccessLog { path: path.clone(), format: LogFormat::Common }).unwrap();
        assert!(log.write(entry()));
        let wait_for_line = || {
            let has_line = || std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'));
            while !has_line() {
                thread::sleep(Duration::from_millis(10));
            }
        };
        wait_for_line();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        while !path.exists() {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(log.write(entry()));
        wait_for_line();
    }
}
