//! The connection to `weaved gateway`, kept up for ever; and a verb's short one.
//!
//! On each new connection the newest state goes out first, so that a gateway that was restarted knows it in one round trip.
//! A gateway that is slow or gone costs nobody else anything.

use std::{
    fmt, io,
    os::unix::net,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{mpsc, watch},
};
use weaved_api::{
    Generation, framing,
    gateway::{GATEWAY_API_VERSION, GatewayEvent, GatewayRequest, GatewayState},
};

use crate::{failure::Failure, paths::Paths};

/// The first attempt after a loss; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_secs(1);
const EVENT_QUEUE_LEN: usize = 64;
/// Longer than the gateway waits for other resolvers.
const REPLY_PATIENCE: Duration = Duration::from_secs(10);

/// What the daemon hears.
#[derive(Debug)]
pub enum GatewayNews {
    /// A connection is up; the gateway answers from this, perhaps of an earlier control.
    Connected(Option<Generation>),
    /// It is lost.
    Lost(String),
    /// The gateway says something.
    Heard(GatewayEvent),
}

/// The daemon's end.
#[derive(Debug)]
pub struct GatewayClient {
    path: PathBuf,
    state: watch::Sender<Option<Arc<GatewayState>>>,
}

struct Connection {
    path: PathBuf,
    state: watch::Receiver<Option<Arc<GatewayState>>>,
    news: mpsc::Sender<GatewayNews>,
    pause: Duration,
}

impl GatewayClient {
    /// Begins to connect.
    pub fn start(path: &Path) -> (Self, mpsc::Receiver<GatewayNews>) {
        let (state, state_receiver) = watch::channel(None);
        let (news, news_receiver) = mpsc::channel(EVENT_QUEUE_LEN);
        let connection = Connection { path: path.to_owned(), state: state_receiver, news, pause: FIRST_PAUSE };
        tokio::spawn(connection.run());
        (Self { path: path.to_owned(), state }, news_receiver)
    }

    /// What the gateway was told last, perhaps by an earlier control.
    pub fn last_state(&self) -> Option<GatewayState> {
        weaved_gateway::last_state(self.path.parent()?)
    }

    /// Makes this the state, now and after each loss of the connection.
    pub fn apply(&self, state: GatewayState) {
        self.state.send_replace(Some(Arc::new(state)));
    }
}

impl Connection {
    /// Ends when the daemon does.
    async fn run(mut self) {
        while !self.news.is_closed() {
            let outcome = match UnixStream::connect(&self.path).await {
                Ok(stream) => self.converse(stream).await,
                Err(error) => Err(error),
            };
            let reason = outcome.map_or_else(|error| error.to_string(), |()| "it has closed the connection".into());
            if self.news.send(GatewayNews::Lost(reason)).await.is_err() {
                return;
            }
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(MAX_PAUSE);
        }
    }

    async fn converse(&mut self, stream: UnixStream) -> io::Result<()> {
        let (mut reader, mut writer) = stream.into_split();
        write(&mut writer, &GatewayRequest::Hello(GATEWAY_API_VERSION)).await?;
        let generation = match framing::receive_message(&mut reader).await? {
            Some(GatewayEvent::Hello { version, generation }) => {
                check_version(version)?;
                generation
            }
            _ => return Err(no_hello()),
        };
        self.pause = FIRST_PAUSE;
        self.state.mark_changed();
        if self.news.send(GatewayNews::Connected(generation)).await.is_err() {
            return Ok(());
        }
        // Reading has a task of its own: a read that was begun must not be dropped for a write.
        let news = self.news.clone();
        let mut reading = tokio::spawn(async move {
            while let Some(event) = framing::receive_message(&mut reader).await? {
                if news.send(GatewayNews::Heard(event)).await.is_err() {
                    break;
                }
            }
            io::Result::Ok(())
        });
        let outcome = tokio::select! {
            outcome = &mut reading => outcome.unwrap_or_else(|error| Err(io::Error::other(error))),
            outcome = write_states(&mut writer, &mut self.state) => outcome,
        };
        reading.abort();
        outcome
    }
}

async fn write_states(
    writer: &mut OwnedWriteHalf,
    states: &mut watch::Receiver<Option<Arc<GatewayState>>>,
) -> io::Result<()> {
    while states.changed().await.is_ok() {
        let newest = states.borrow_and_update().clone();
        if let Some(newest) = newest {
            write(writer, &GatewayRequest::Apply(Box::new(newest.as_ref().clone()))).await?;
        }
    }
    Ok(())
}

async fn write(writer: &mut OwnedWriteHalf, request: &GatewayRequest) -> io::Result<()> {
    writer.write_all(&framing::encode(request)?).await
}

/// A verb's question; it works also while control is away.
pub fn ask(paths: &Paths, request: &GatewayRequest) -> Result<GatewayEvent, Failure> {
    let socket = paths.gateway_socket();
    let converse = || -> io::Result<GatewayEvent> {
        let mut stream = net::UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(REPLY_PATIENCE))?;
        framing::write_message(&mut stream, &GatewayRequest::Hello(GATEWAY_API_VERSION))?;
        match framing::read_message(&mut stream)? {
            Some(GatewayEvent::Hello { version, .. }) => check_version(version)?,
            _ => return Err(no_hello()),
        }
        framing::write_message(&mut stream, request)?;
        loop {
            match framing::read_message(&mut stream)? {
                // Told to everybody, unasked.
                Some(GatewayEvent::Problems(_) | GatewayEvent::Balancer(_)) => {}
                Some(event) => return Ok(event),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    };
    let silent = |reason: &dyn fmt::Display| {
        Failure::unreachable(format!("the gateway does not answer ({reason}); its log is {}", paths.log().display()))
    };
    converse().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::unreachable(format!(
            "the gateway is not running here (nobody answers at {}); start weaved with `weaved launch`",
            socket.display()
        )),
        io::ErrorKind::PermissionDenied => Failure::unreachable(format!(
            "this user may not talk to weaved at {}; try again with sudo",
            socket.display()
        )),
        io::ErrorKind::WouldBlock => silent(&format!("no answer for {} s", REPLY_PATIENCE.as_secs())),
        _ => silent(&error),
    })
}

fn check_version(version: u32) -> io::Result<()> {
    if version == GATEWAY_API_VERSION {
        return Ok(());
    }
    Err(io::Error::other(format!("it speaks version {version}, not {GATEWAY_API_VERSION}")))
}

fn no_hello() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it does not say hello")
}
