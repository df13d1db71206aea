//! A stand-in for the Consul API on loopback: answers by path, parks queries by their index.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};

/// What is not set answers as an empty Consul does.
#[derive(Default)]
struct State {
    index: u64,
    answers: BTreeMap<String, String>,
    status: Option<u16>,
    requests: Vec<String>,
}

/// The server; its threads end with the test.
#[derive(Clone)]
pub(crate) struct Stub {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Stub {
    /// Starts to listen.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stub = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        stub.change(|state| state.index = 10);
        let server = stub.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                thread::spawn(move || server.serve(&stream));
            }
        });
        stub
    }

    /// For `--http-addr`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets a key.
    pub(crate) fn set_key(&self, key: &str, value: &str) {
        let row = serde_json::json!([{"Key": key, "Value": STANDARD.encode(value)}]);
        self.answer(&format!("/v1/kv/{key}"), &row.to_string());
    }

    /// Sets the instances of a service: node, ID, address, tags.
    pub(crate) fn set_service(&self, name: &str, instances: &[(&str, &str, &str, &[&str])]) {
        let row = |(node, id, address, tags): &(&str, &str, &str, &[&str])| {
            serde_json::json!({
                "Node": {"Node": node, "Address": "192.0.2.1"},
                "Service": {"ID": id, "Service": name, "Address": address, "Port": 80, "Tags": tags},
                "Checks": [],
            })
        };
        let rows: Vec<_> = instances.iter().map(row).collect();
        self.answer(&format!("/v1/health/service/{name}"), &serde_json::Value::from(rows).to_string());
    }

    /// From now on every question gets this status; none for answers.
    pub(crate) fn fail_with(&self, status: Option<u16>) {
        self.change(|state| {
            state.status = status;
            state.index += 1;
        });
    }

    /// Moves the index, though nothing has changed.
    pub(crate) fn touch(&self) {
        self.change(|state| state.index += 1);
    }

    /// The questions so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.0.lock().unwrap().requests.clone()
    }

    fn answer(&self, path: &str, body: &str) {
        self.change(|state| {
            state.answers.insert(path.to_owned(), body.to_owned());
            state.index += 1;
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.0.lock().unwrap());
        self.state.1.notify_all();
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let mut header = String::from("-");
            while !header.trim().is_empty() {
                header.clear();
                if reader.read_line(&mut header).unwrap_or(0) == 0 {
                    return;
                }
            }
            let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer = self.decide(&target);
            if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn decide(&self, target: &str) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let asked =
            query.split('&').find_map(|part| part.strip_prefix("index=")).map_or(0, |text| text.parse().unwrap());
        let (lock, condition) = &*self.state;
        let mut state = lock.lock().unwrap();
        state.requests.push(target.to_owned());
        condition.notify_all();
        let parked = condition.wait_timeout_while(state, Duration::from_secs(50), |state| state.index == asked);
        let state = parked.unwrap().0;
        let found = state.answers.get(path);
        let absent = if path.starts_with("/v1/kv/") { 404 } else { 200 };
        let status = state.status.unwrap_or(if found.is_some() { 200 } else { absent });
        let body = match status {
            200 => found.cloned().unwrap_or_else(|| "[]".into()),
            404 => String::new(),
            _ => "the cluster has no leader".into(),
        };
        let length = body.len();
        format!("HTTP/1.1 {status} X\r\nX-Consul-Index: {}\r\nContent-Length: {length}\r\n\r\n{body}", state.index)
    }
}
