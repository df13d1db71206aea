//! The connection to `weaved dataplane`, kept up for ever.
//!
//! On each new connection the newest desired state goes out first, so that a data plane that was restarted is back in
//! one round trip. Control bytes for peers are passed on while there is a connection and dropped while there is none:
//! gossip repairs what is lost.
//!
//! INVARIANT: nothing here waits for a slow data plane but this task itself.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
};
use weaved_api::{API_VERSION, DesiredState, Event, Request, framing};
use zeroize::Zeroizing;

/// The first attempt after a loss; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Events that wait for the daemon; then the data plane's own queue fills.
const EVENT_QUEUE_LEN: usize = 1024;
/// Requests that wait for the socket; further ones are dropped.
const REQUEST_QUEUE_LEN: usize = 4096;

/// What the daemon hears.
#[derive(Debug)]
pub enum DataplaneEvent {
    /// A connection is up, and the newest desired state is on its way.
    Connected,
    /// It is lost; all that was known of sessions is void.
    Lost(String),
    /// The data plane says something.
    Heard(Event),
}

/// The daemon's end.
#[derive(Debug)]
pub struct DataplaneClient {
    desired: watch::Sender<Option<Arc<DesiredState>>>,
    requests: mpsc::Sender<Request>,
}

struct Connection {
    path: PathBuf,
    desired: watch::Receiver<Option<Arc<DesiredState>>>,
    requests: mpsc::Receiver<Request>,
    events: mpsc::Sender<DataplaneEvent>,
    pause: Duration,
}

impl DataplaneClient {
    /// Begins to connect.
    pub fn start(path: &Path) -> (Self, mpsc::Receiver<DataplaneEvent>) {
        let (desired, desired_receiver) = watch::channel(None);
        let (requests, request_receiver) = mpsc::channel(REQUEST_QUEUE_LEN);
        let (events, event_receiver) = mpsc::channel(EVENT_QUEUE_LEN);
        let connection = Connection {
            path: path.to_owned(),
            desired: desired_receiver,
            requests: request_receiver,
            events,
            pause: FIRST_PAUSE,
        };
        tokio::spawn(connection.run());
        (Self { desired, requests }, event_receiver)
    }

    /// Makes this the desired state, now and after each loss of the connection.
    pub fn apply(&self, desired: DesiredState) {
        self.desired.send_replace(Some(Arc::new(desired)));
    }

    /// Passes a request on; false when it was dropped because too many wait.
    #[must_use = "a dropped request is counted"]
    pub fn send(&self, request: Request) -> bool {
        self.requests.try_send(request).is_ok()
    }
}

impl Connection {
    /// Ends when the daemon does.
    async fn run(mut self) {
        while !self.events.is_closed() {
            let reason = match UnixStream::connect(&self.path).await {
                Ok(stream) => self.converse(stream).await,
                Err(error) => Err(error),
            };
            let reason = reason.map_or_else(|error| error.to_string(), |()| "it has closed the connection".into());
            if self.events.send(DataplaneEvent::Lost(reason)).await.is_err() {
                return;
            }
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(MAX_PAUSE);
            // What was meant for sessions that are gone would only delay what comes next.
            while self.requests.try_recv().is_ok() {}
        }
    }

    async fn converse(&mut self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        write(&mut writer, &Request::Hello(API_VERSION)).await?;
        let mut reader = BufReader::new(reader);
        match framing::receive_message(&mut reader).await? {
            Some(Event::Hello(API_VERSION)) => {}
            Some(Event::Hello(version)) => {
                return Err(io::Error::other(format!("it speaks version {version}, not {API_VERSION}")));
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not say hello")),
        }
        self.pause = FIRST_PAUSE;
        self.desired.mark_changed();
        if self.events.send(DataplaneEvent::Connected).await.is_err() {
            return Ok(());
        }
        // Reading has a task of its own: a read that was begun must not be dropped for a write.
        let mut reading = tokio::spawn(read_events(reader, self.events.clone()));
        let outcome = tokio::select! {
            outcome = &mut reading => outcome.unwrap_or_else(|error| Err(io::Error::other(error))),
            outcome = write_requests(&mut writer, &mut self.desired, &mut self.requests) => outcome,
        };
        reading.abort();
        outcome
    }
}

async fn read_events(mut reader: BufReader<OwnedReadHalf>, events: mpsc::Sender<DataplaneEvent>) -> io::Result<()> {
    while let Some(event) = framing::receive_message(&mut reader).await? {
        if events.send(DataplaneEvent::Heard(event)).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn write_requests(
    writer: &mut OwnedWriteHalf,
    desired: &mut watch::Receiver<Option<Arc<DesiredState>>>,
    requests: &mut mpsc::Receiver<Request>,
) -> io::Result<()> {
    loop {
        tokio::select! {
            biased;
            changed = desired.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let newest = desired.borrow_and_update().clone();
                if let Some(newest) = newest {
                    write(writer, &Request::Apply(Box::new(newest.as_ref().clone()))).await?;
                }
            }
            request = requests.recv() => match request {
                Some(request) => write(writer, &request).await?,
                None => return Ok(()),
            },
        }
    }
}

/// Writes one message, and wipes its bytes: a desired state holds keys.
async fn write(writer: &mut OwnedWriteHalf, request: &Request) -> io::Result<()> {
    let bytes = Zeroizing::new(framing::encode(request)?);
    writer.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::net};

    use weaved_api::{
        CipherChoice, ClusterSecret, Generation, OffloadSwitches, Overlay, SecretKey, SourcePorts, WorkerCount,
    };

    use super::*;

    fn desired(generation: u64) -> DesiredState {
        DesiredState {
            generation: Generation(generation),
            identity: SecretKey([1; 32]),
            cluster_secret: ClusterSecret([2; 32]),
            listen_port: 6783,
            overlay: Overlay { bridge: "weave".into(), tap: "weave-tap".into(), mtu: 1500, gateway: None },
            peers: vec![],
            targets: vec![],
            neighbours: vec![],
            quarantined: vec![],
            offload: OffloadSwitches::default(),
            cipher: CipherChoice::Auto,
            workers: WorkerCount::Auto,
            source_ports: SourcePorts::default(),
            bridge_rules: None,
        }
    }

    /// Plays a data plane: says hello, then returns the generation of the first Apply.
    fn serve_one(listener: &net::UnixListener) -> (net::UnixStream, u64) {
        let (mut stream, _) = listener.accept().unwrap();
        assert_eq!(framing::read_message(&mut stream).unwrap(), Some(Request::Hello(API_VERSION)));
        framing::write_message(&mut stream, &Event::Hello(API_VERSION)).unwrap();
        match framing::read_message(&mut stream).unwrap() {
            Some(Request::Apply(state)) => (stream, state.generation.0),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn each_new_connection_begins_with_the_newest_desired_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dataplane.sock");
        let (client, mut events) = DataplaneClient::start(&path);
        assert!(matches!(events.recv().await, Some(DataplaneEvent::Lost(_))));
        client.apply(desired(1));
        client.apply(desired(2));
        let listener = net::UnixListener::bind(&path).unwrap();
        let dataplane = tokio::task::spawn_blocking(move || {
            let (stream, first) = serve_one(&listener);
            drop(stream);
            let (stream, second) = serve_one(&listener);
            (first, second, stream)
        });
        let (first, second, _stream) = dataplane.await.unwrap();
        assert_eq!((first, second), (2, 2));
    }

    #[tokio::test]
    async fn garbage_from_the_data_plane_ends_the_connection_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dataplane.sock");
        let listener = net::UnixListener::bind(&path).unwrap();
        let (client, mut events) = DataplaneClient::start(&path);
        client.apply(desired(5));
        let dataplane = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = serve_one(&listener);
            stream.write_all(&[0xff; 16]).unwrap();
            serve_one(&listener).1
        });
        assert!(matches!(events.recv().await, Some(DataplaneEvent::Connected)));
        assert!(matches!(events.recv().await, Some(DataplaneEvent::Lost(_))));
        assert_eq!(dataplane.await.unwrap(), 5);
    }
}
