//! The socket on which control tells names, and verbs ask questions.
//!
//! Each connection begins with hello both ways. What keeps the gateway from doing as desired, and what the balancer does, is told on
//! each connection when it changes; everything else is an answer.
//!
//! INVARIANT: at most [`MAX_LINKS`] connections; a message that does not parse ends its connection and changes nothing.

use std::{io, path::Path, sync::Arc};

use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};
use weaved_api::{
    Generation, Problem,
    balancer::BalancerReport,
    framing,
    gateway::{GATEWAY_API_VERSION, GatewayEvent, GatewayRequest},
};

use crate::{limits::MAX_LINKS, private_socket};

/// Name of the socket in the run directory.
const SOCKET: &str = "gateway.sock";

/// A request and where its answer goes.
pub(crate) type Call = (GatewayRequest, oneshot::Sender<GatewayEvent>);

/// What connections share.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// The state that is answered from.
    pub(crate) generation: watch::Receiver<Option<Generation>>,
    /// What stands in the way.
    pub(crate) problems: watch::Receiver<Vec<Problem>>,
    /// What the balancer does.
    pub(crate) balancer: watch::Receiver<BalancerReport>,
}

/// Opens the socket.
pub(crate) fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    private_socket::bind(&run_dir.join(SOCKET))
}

/// Serves until it is dropped, which ends its connections too.
pub(crate) async fn serve(listener: UnixListener, told: Told, calls: mpsc::Sender<Call>) {
    let places = Arc::new(Semaphore::new(MAX_LINKS));
    let mut open = JoinSet::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (told, calls) = (told.clone(), calls.clone());
                while open.try_join_next().is_some() {}
                open.spawn(async move {
                    if let Err(error) = converse(stream, told, calls).await {
                        tracing::debug!(%error, "a connection has ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, mut told: Told, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let generation = *told.generation.borrow();
    write(&mut writer, &GatewayEvent::Hello { version: GATEWAY_API_VERSION, generation }).await?;
    match framing::receive_message(&mut reader).await? {
        Some(GatewayRequest::Hello(GATEWAY_API_VERSION)) => {}
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "no hello of our version")),
    }
    // Reading has a task of its own: a read that was begun must not be dropped for a write.
    let (sender, mut requests) = mpsc::channel(1);
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        while let Some(request) = framing::receive_message(&mut reader).await? {
            if sender.send(request).await.is_err() {
                break;
            }
        }
        io::Result::Ok(())
    });
    told.problems.mark_changed();
    told.balancer.mark_changed();
    loop {
        tokio::select! {
            changed = told.problems.changed() => {
                if changed.is_err() {
                    break;
                }
                let problems = told.problems.borrow_and_update().clone();
                write(&mut writer, &GatewayEvent::Problems(problems)).await?;
            }
            changed = told.balancer.changed() => {
                if changed.is_err() {
                    break;
                }
                let report = told.balancer.borrow_and_update().clone();
                write(&mut writer, &GatewayEvent::Balancer(Box::new(report))).await?;
            }
            request = requests.recv() => {
                let Some(request) = request else { break };
                let ending = || io::Error::other("the gateway is ending");
                let (reply_to, reply) = oneshot::channel();
                calls.send((request, reply_to)).await.map_err(|_| ending())?;
                write(&mut writer, &reply.await.map_err(|_| ending())?).await?;
            }
        }
    }
    Ok(())
}

async fn write(writer: &mut OwnedWriteHalf, event: &GatewayEvent) -> io::Result<()> {
    writer.write_all(&framing::encode(event)?).await
}
