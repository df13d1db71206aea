//! A connection whose client has to take what it is sent.
//!
//! An answer lies in memory until its client has taken it. One that stops reading, or reads a byte now and then, would keep
//! it there for ever; its connection ends instead, and the room is free for others.
//!
//! It also notes how far its client is, so that what ends a connection can be told apart.
//!
//! INVARIANT: a connection on which nothing is to be written has no timer: ten thousand queries that wait cost none.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A client takes at least [`LEAST_TAKEN_BYTES`] in this time, or all that there is for it.
pub(super) const TAKE_PATIENCE: Duration = Duration::from_secs(30);
/// See [`TAKE_PATIENCE`].
pub(super) const LEAST_TAKEN_BYTES: usize = 64 << 10;

/// How far a client is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    has_begun: AtomicBool,
    is_cut: AtomicBool,
}

impl Progress {
    /// It has said something that was not answered yet.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// It has not taken its answer.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Patient<'a, T> {
    inner: T,
    progress: &'a Progress,
    /// Runs while the client has to take something.
    timer: Option<Pin<Box<Sleep>>>,
    /// Since the timer runs.
    taken_bytes: usize,
}

impl<'a, T> Patient<'a, T> {
    pub(super) fn new(inner: T, progress: &'a Progress) -> Self {
        Self { inner, progress, timer: None, taken_bytes: 0 }
    }

    fn on_written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(len_bytes)) => {
                self.progress.has_begun.store(false, Ordering::Relaxed);
                self.taken_bytes += len_bytes;
                if self.taken_bytes >= LEAST_TAKEN_BYTES {
                    self.rest();
                }
                Poll::Ready(Ok(len_bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let timer = self.timer.get_or_insert_with(|| {
                    self.taken_bytes = 0;
                    Box::pin(sleep(TAKE_PATIENCE))
                });
                ready!(timer.as_mut().poll(cx));
                self.progress.is_cut.store(true, Ordering::Relaxed);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    fn rest(&mut self) {
        self.timer = None;
        self.taken_bytes = 0;
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<'_, T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.progress.has_begun.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.on_written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.on_written(cx, written)
    }

    /// Without it the library would copy each answer into a buffer of its own, beside the one that is counted.
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.rest();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::Instant,
    };

    use super::*;

    const ANSWER_BYTES: usize = 1 << 20;

    /// Sends an answer to a client that does this. How it ended, and after how long.
    async fn send(client: impl AsyncFnOnce(DuplexStream)) -> (io::Result<()>, Duration) {
        let (far, near) = duplex(1024);
        let progress = Progress::default();
        let mut near = Patient::new(near, &progress);
        let began = Instant::now();
        let sending = async {
            let sent = near.write_all(&vec![0; ANSWER_BYTES]).await;
            let took = began.elapsed();
            assert_eq!(progress.is_cut(), sent.is_err());
            drop(near);
            (sent, took)
        };
        tokio::join!(sending, client(far)).0
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_or_too_little_is_cut() {
        let (sent, took) = send(async |far| {
            tokio::time::sleep(10 * TAKE_PATIENCE).await;
            drop(far);
        })
        .await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(took < TAKE_PATIENCE + Duration::from_secs(1), "{took:?}");
        let (sent, took) = send(async |mut far| {
            while far.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(took < TAKE_PATIENCE + Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_slow_gets_all_of_it() {
        let (sent, took) = send(async |mut far| {
            let mut piece = vec![0; LEAST_TAKEN_BYTES];
            for _ in 0..ANSWER_BYTES / LEAST_TAKEN_BYTES {
                tokio::time::sleep(TAKE_PATIENCE * 5 / 6).await;
                far.read_exact(&mut piece).await.unwrap();
            }
        })
        .await;
        sent.unwrap();
        assert!(took > 10 * TAKE_PATIENCE, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_is_written_is_left_alone() {
        let (mut far, near) = duplex(1024);
        let progress = Progress::default();
        let mut near = Patient::new(near, &progress);
        near.write_all(&[0; 100]).await.unwrap();
        near.flush().await.unwrap();
        assert!(near.timer.is_none());
        tokio::time::sleep(10 * TAKE_PATIENCE).await;
        near.write_all(&[0; 100]).await.unwrap();
        far.read_exact(&mut [0; 200]).await.unwrap();
    }
}
