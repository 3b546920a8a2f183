//! Closes connections that trickle a request's head or never read their answer. I/O wrapper.
//!
//! hyper has one timer for both an idle connection and a slow head. The API server keeps connections idle for 90 s, so
//! that timer has to be long; this wrapper starts a short one at a request's first byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::Activity;

/// A connection with the two limits.
pub(super) struct Deadlined<IO> {
    io: IO,
    activity: Arc<Activity>,
    /// Time limit of a head from its first byte.
    head_limit: Duration,
    write_limit: Duration,
    requests_seen: usize,
    read: Timer,
    write: Timer,
}

/// Measures one kind of wait; the sleep is created only when the task really waits.
#[derive(Default)]
struct Timer {
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Resolves once `limit` has passed since the wait began; otherwise wakes the task at that time.
    fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let Some(since) = self.since else {
            return Poll::Pending;
        };
        let deadline = since + limit;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}

impl<IO> Deadlined<IO> {
    /// Wraps `io`.
    pub(super) fn new(
        io: IO,
        activity: Arc<Activity>,
        head_limit: Duration,
        write_limit: Duration,
    ) -> Self {
        Self {
            io,
            activity,
            head_limit,
            write_limit,
            requests_seen: 0,
            read: Timer::default(),
            write: Timer::default(),
        }
    }

    /// Called when the peer has sent nothing more.
    fn poll_read_limit(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let begun = self.activity.begun();
        if begun != self.requests_seen {
            self.requests_seen = begun;
            self.read.since = None;
        }
        ready!(self.read.poll(cx, self.head_limit));
        if self.activity.is_busy() {
            return Poll::Pending;
        }
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "no complete request in time",
        ))
    }

    fn poll_write_limit(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.write.since.get_or_insert_with(Instant::now);
        ready!(self.write.poll(cx, self.write_limit));
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer does not read its answer",
        ))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Deadlined<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut self.io).poll_read(cx, buf) {
            if buf.filled().len() > before {
                let begun = self.activity.begun();
                let new_head = begun != self.requests_seen || self.read.since.is_none();
                if !self.activity.is_busy() && new_head {
                    self.requests_seen = begun;
                    self.read.since = Some(Instant::now());
                }
            }
            return Poll::Ready(result);
        }
        self.poll_read_limit(cx).map(Err)
    }
}

impl<IO: AsyncWrite + Unpin> Deadlined<IO> {
    fn limit_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.write.since = None;
            return polled;
        }
        self.poll_write_limit(cx).map(Err)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Deadlined<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.limit_write(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.limit_write(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.limit_write(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.limit_write(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::evict::Phase;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    // Real time: a paused clock would need another build of tokio and of everything that depends on it.
    const HEAD: Duration = Duration::from_millis(60);
    const WRITE: Duration = Duration::from_millis(60);

    fn activity() -> Arc<Activity> {
        Arc::new(Activity::new(Ipv4Addr::LOCALHOST.into(), Phase::Fresh))
    }

    #[tokio::test]
    async fn ends_a_head_that_trickles() {
        let (mut peer, ours) = duplex(64);
        let mut io = Deadlined::new(ours, activity(), HEAD, WRITE);
        let start = Instant::now();
        let trickle = async {
            while peer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(HEAD / 4).await;
            }
        };
        let read = async {
            loop {
                if let Err(error) = io.read_u8().await {
                    return error;
                }
            }
        };
        tokio::select! {
            () = trickle => unreachable!("the wrapper ends first"),
            error = read => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
        }
        assert!(start.elapsed() >= HEAD);
    }

    #[tokio::test]
    async fn leaves_an_idle_connection_alone() {
        let (mut peer, ours) = duplex(64);
        let activity = activity();
        let mut io = Deadlined::new(ours, Arc::clone(&activity), HEAD, WRITE);
        for _ in 0..2 {
            peer.write_all(b"x").await.unwrap();
            io.read_u8().await.unwrap();
            drop(activity.begin());
            let idle = tokio::time::timeout(HEAD * 3, io.read_u8()).await;
            assert!(idle.is_err(), "an idle connection ended: {idle:?}");
        }
    }

    #[tokio::test]
    async fn gives_a_body_more_time_than_a_head() {
        let (mut peer, ours) = duplex(64);
        let activity = activity();
        let mut io = Deadlined::new(ours, Arc::clone(&activity), HEAD, WRITE);
        peer.write_all(b"x").await.unwrap();
        io.read_u8().await.unwrap();
        let request = activity.begin();
        assert!(tokio::time::timeout(HEAD * 3, io.read_u8()).await.is_err());
        drop(request);
    }

    #[tokio::test]
    async fn ends_a_peer_that_does_not_read() {
        let (_peer, ours) = duplex(4);
        let mut io = Deadlined::new(ours, activity(), HEAD, WRITE);
        let start = Instant::now();
        assert_eq!(
            io.write_all(b"longer than four").await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        assert!(start.elapsed() >= WRITE);
    }
}
