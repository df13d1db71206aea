//! A Docker engine that only says what runs: the part of its API that control looks at, on a real Unix socket.
//!
//! It loses events, ends event streams and goes away as a test wants it to. What it holds is the truth that the catalogue
//! is compared with.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
    sync::broadcast,
    task::JoinSet,
};

/// Events that a slow listener may be behind; it misses older ones, as with the real one.
const EVENT_ROOM: usize = 1024;

/// One container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FakeContainer {
    pub(crate) name: String,
    started_at: u64,
    comes_back: bool,
}

#[derive(Debug)]
struct Engine {
    host: usize,
    running: BTreeMap<String, FakeContainer>,
    clock: u64,
    events: broadcast::Sender<String>,
}

/// The engine of one host.
pub(crate) struct FakeDocker {
    engine: Arc<Mutex<Engine>>,
    socket: PathBuf,
    serving: Option<tokio::task::JoinHandle<()>>,
}

impl FakeDocker {
    /// Answers at `socket` from now on.
    pub(crate) fn start(host: usize, dir: &Path) -> Self {
        let engine = Engine { host, running: BTreeMap::new(), clock: 0, events: broadcast::Sender::new(EVENT_ROOM) };
        let socket = dir.join(format!("docker-{host}.sock"));
        let mut docker = Self { engine: Arc::new(Mutex::new(engine)), socket, serving: None };
        docker.come_back();
        docker
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Names by Docker's id.
    pub(crate) fn truth(&self) -> BTreeMap<String, String> {
        let engine = lock(&self.engine);
        engine.running.iter().map(|(id, container)| (id.clone(), container.name.clone())).collect()
    }

    pub(crate) fn run(&self, number: usize, name: &str, comes_back: bool, is_told: bool) {
        let mut engine = lock(&self.engine);
        engine.clock += 1;
        let id = format!("{:032x}{number:032x}", engine.host);
        let container = FakeContainer { name: name.to_owned(), started_at: engine.clock, comes_back };
        engine.running.insert(id.clone(), container);
        engine.tell("start", &id, is_told);
    }

    pub(crate) fn kill(&self, id: &str, is_told: bool) {
        let mut engine = lock(&self.engine);
        engine.running.remove(id);
        engine.tell("kill", id, is_told);
        engine.tell("die", id, is_told);
    }

    /// The same container ends and runs again, perhaps by another name.
    pub(crate) fn restart(&self, id: &str, name: &str, is_told: bool) {
        let mut engine = lock(&self.engine);
        engine.clock += 1;
        let now = engine.clock;
        let Some(container) = engine.running.get_mut(id) else { return };
        (container.name, container.started_at) = (name.to_owned(), now);
        engine.tell("die", id, is_told);
        engine.tell("start", id, is_told);
    }

    /// Every listener's stream ends; the engine goes on.
    pub(crate) fn end_streams(&self) {
        lock(&self.engine).events = broadcast::Sender::new(EVENT_ROOM);
    }

    /// The engine ends, with all connections; containers without a restart policy end with it.
    pub(crate) fn go_away(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
        // Already gone after an earlier call.
        let _ = std::fs::remove_file(&self.socket);
        self.end_streams();
        lock(&self.engine).running.retain(|_, container| container.comes_back);
    }

    /// The engine is started again, and its containers with it.
    pub(crate) fn come_back(&mut self) {
        let mut engine = lock(&self.engine);
        engine.clock += 1;
        let now = engine.clock;
        engine.running.values_mut().for_each(|container| container.started_at = now);
        drop(engine);
        let listener = UnixListener::bind(&self.socket).expect("nobody has the socket");
        self.serving = Some(tokio::spawn(serve(listener, Arc::clone(&self.engine))));
    }
}

impl Engine {
    fn tell(&self, action: &str, id: &str, is_told: bool) {
        if is_told {
            let event =
                json!({"Type": "container", "Action": action, "Actor": {"ID": id, "Attributes": {"signal": "9"}}});
            // Nobody may listen.
            let _ = self.events.send(event.to_string());
        }
    }

    fn address(&self, id: &str) -> String {
        let number = u64::from_str_radix(&id[48..], 16).expect("ids are made here");
        format!("10.32.{}.{}", self.host * 16 + number as usize / 250, number % 250 + 2)
    }

    fn networks(&self, id: &str) -> Value {
        json!({"bridge": {"IPAddress": self.address(id), "MacAddress": "02:42:0a:20:00:02"}})
    }

    fn answer(&self, path: &str) -> Option<Value> {
        let path = path.split('?').next().unwrap_or(path);
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && !part.starts_with("v1.")).collect();
        match parts[..] {
            ["version"] => Some(json!({"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"})),
            ["networks"] => Some(json!([{"Name": "bridge", "Options": {"com.docker.network.bridge.name": "weave"}}])),
            ["containers", "json"] => Some(self.running.iter().map(|(id, each)| self.summary(id, each)).collect()),
            ["containers", id, "json"] => self.running.get(id).map(|container| self.inspection(id, container)),
            _ => None,
        }
    }

    fn summary(&self, id: &str, container: &FakeContainer) -> Value {
        let networks = json!({"Networks": self.networks(id)});
        json!({"Id": id, "Names": [format!("/{}", container.name)], "State": "running", "Status": "Up", "NetworkSettings": networks})
    }

    fn inspection(&self, id: &str, container: &FakeContainer) -> Value {
        json!({
            "Id": id, "Name": format!("/{}", container.name), "Created": "2026-01-01T00:00:00Z",
            "State": {"Running": true, "StartedAt": container.started_at.to_string()},
            "Config": {"Image": "web", "Env": ["SERVICE_NAME=web"], "ExposedPorts": {"80/tcp": {}}},
            "HostConfig": {"NetworkMode": "bridge"},
            "NetworkSettings": {"Networks": self.networks(id)},
        })
    }
}

fn lock(engine: &Mutex<Engine>) -> std::sync::MutexGuard<'_, Engine> {
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections end with this task.
async fn serve(listener: UnixListener, engine: Arc<Mutex<Engine>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                connections.spawn(converse(stream, Arc::clone(&engine)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: UnixStream, engine: Arc<Mutex<Engine>>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(path) = next_request(&mut reader).await? {
        if path.contains("/events") {
            let mut events = lock(&engine).events.subscribe();
            writer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
            loop {
                match events.recv().await {
                    Ok(event) => writer.write_all(format!("{:x}\r\n{event}\n\r\n", event.len() + 1).as_bytes()).await?,
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return writer.write_all(b"0\r\n\r\n").await,
                }
            }
        }
        let answer = lock(&engine).answer(&path);
        let (status, body) = match answer {
            Some(body) => ("200 OK", body.to_string()),
            None => ("404 Not Found", r#"{"message":"No such container"}"#.to_owned()),
        };
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        writer.write_all((head + &body).as_bytes()).await?;
    }
    Ok(())
}

/// The path of the next request, which has no body. None at the end.
async fn next_request(reader: &mut BufReader<OwnedReadHalf>) -> std::io::Result<Option<String>> {
    let mut first = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        if first.is_empty() {
            first = line;
        } else if line.trim().is_empty() {
            return Ok(first.split(' ').nth(1).map(str::to_owned));
        }
    }
}
