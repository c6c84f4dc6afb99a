//! A socket that gives up when its peer takes nothing for too long.
//!
//! A connection to a machine that vanished is closed gracefully by libp2p, that is, after everything has been sent: with a full send buffer that
//! would take until the system gives up, some 15 minutes. This is what `TCP_USER_TIMEOUT` does, which libp2p does not let us set.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

/// See the module.
pub(super) struct StallGuard<S> {
    socket: S,
    limit: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> StallGuard<S> {
    pub(super) fn new(socket: S, limit: Duration) -> Self {
        Self { socket, limit, waiting: None }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let limit = self.limit;
        let timer = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        timer
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, format!("the peer took nothing for {limit:?}"))))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.watch(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_flush(cx);
        self.watch(cx, polled)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_close(cx);
        self.watch(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use futures::AsyncWriteExt;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_fails_in_time_and_one_that_is_taken_does_not() {
        let (here, mut there) = tokio::io::duplex(8);
        let mut guarded = StallGuard::new(here.compat(), Duration::from_secs(8));
        guarded.write_all(b"12345678").await.unwrap();
        let error = guarded.write_all(b"9").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        tokio::io::AsyncReadExt::read_exact(&mut there, &mut [0; 8]).await.unwrap();
        guarded.write_all(b"9").await.unwrap();
    }
}
