//! Ends connections that trickle a request's head, sit idle on HTTP/2, or never read their answer. I/O wrapper.
//!
//! hyper has one timer for both an idle connection and a slow head. The API server keeps connections idle for 90 s, so
//! that timer has to be long; this wrapper starts a short one at a request's first byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Says which requests of one connection have reached the router; shared by its socket and its service.
#[derive(Debug, Default)]
pub(super) struct Progress {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl Progress {
    /// Marks a request whose head is complete; dropping the guard marks its answer.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.begun.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    fn busy(&self) -> bool {
        self.begun() != self.ended.load(Ordering::Relaxed)
    }
}

/// Is held while a request is being answered.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Progress>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Says what a read is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) enum ReadLimit {
    /// HTTP/1: a head has to be complete this long after its first byte.
    Head(Duration),
    /// HTTP/2: some byte has to come within this time while no request is being answered.
    Idle(Duration),
}

/// Wraps a connection with the two limits.
pub(super) struct Deadlined<IO> {
    io: IO,
    progress: Arc<Progress>,
    read_limit: ReadLimit,
    write_limit: Duration,
    requests_seen: usize,
    read: Timer,
    write: Timer,
}

/// Measures one kind of waiting; the sleep is made when somebody really waits.
#[derive(Default)]
struct Timer {
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Is ready once `limit` has passed since the waiting began; otherwise wakes the task then.
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
        progress: Arc<Progress>,
        read_limit: ReadLimit,
        write_limit: Duration,
    ) -> Self {
        Self {
            io,
            progress,
            read_limit,
            write_limit,
            requests_seen: 0,
            read: Timer::default(),
            write: Timer::default(),
        }
    }

    /// Is called when the peer has sent nothing more.
    fn poll_read_limit(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let begun = self.progress.begun();
        if begun != self.requests_seen {
            self.requests_seen = begun;
            self.read.since = None;
        }
        let limit = match self.read_limit {
            ReadLimit::Head(limit) => limit,
            ReadLimit::Idle(limit) => {
                if self.progress.busy() {
                    self.read.since = None;
                }
                self.read.since.get_or_insert_with(Instant::now);
                limit
            }
        };
        ready!(self.read.poll(cx, limit));
        if self.progress.busy() {
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
                match self.read_limit {
                    ReadLimit::Head(_) => {
                        let begun = self.progress.begun();
                        let new_head = begun != self.requests_seen || self.read.since.is_none();
                        if !self.progress.busy() && new_head {
                            self.requests_seen = begun;
                            self.read.since = Some(Instant::now());
                        }
                    }
                    ReadLimit::Idle(_) => self.read.since = None,
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    // Real time: a paused clock would need another build of tokio and of all that stands on it.
    const HEAD: Duration = Duration::from_millis(60);
    const WRITE: Duration = Duration::from_millis(60);

    #[tokio::test]
    async fn ends_a_head_that_trickles() {
        let (mut peer, ours) = duplex(64);
        let mut io = Deadlined::new(ours, Arc::default(), ReadLimit::Head(HEAD), WRITE);
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
        let progress = Arc::<Progress>::default();
        let mut io = Deadlined::new(ours, Arc::clone(&progress), ReadLimit::Head(HEAD), WRITE);
        for _ in 0..2 {
            peer.write_all(b"x").await.unwrap();
            io.read_u8().await.unwrap();
            drop(progress.begin());
            let idle = tokio::time::timeout(HEAD * 3, io.read_u8()).await;
            assert!(idle.is_err(), "an idle connection ended: {idle:?}");
        }
    }

    #[tokio::test]
    async fn gives_a_body_more_time_than_a_head() {
        let (mut peer, ours) = duplex(64);
        let progress = Arc::<Progress>::default();
        let mut io = Deadlined::new(ours, Arc::clone(&progress), ReadLimit::Head(HEAD), WRITE);
        peer.write_all(b"x").await.unwrap();
        io.read_u8().await.unwrap();
        let request = progress.begin();
        assert!(tokio::time::timeout(HEAD * 3, io.read_u8()).await.is_err());
        drop(request);
    }

    #[tokio::test]
    async fn ends_an_idle_http2_connection() {
        let (_peer, ours) = duplex(64);
        let progress = Arc::<Progress>::default();
        let idle = HEAD;
        let mut io = Deadlined::new(ours, Arc::clone(&progress), ReadLimit::Idle(idle), WRITE);
        let start = Instant::now();
        assert_eq!(
            io.read_u8().await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        assert!(start.elapsed() >= idle);
    }

    #[tokio::test]
    async fn ends_a_peer_that_does_not_read() {
        let (_peer, ours) = duplex(4);
        let mut io = Deadlined::new(ours, Arc::default(), ReadLimit::Head(HEAD), WRITE);
        let start = Instant::now();
        assert_eq!(
            io.write_all(b"longer than four").await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        assert!(start.elapsed() >= WRITE);
    }
}
