//! An answer of the API server as a stream of bytes, never in memory as a whole. I/O.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt};
use http::HeaderValue;
use http::header::ACCEPT_ENCODING;
use kube::{Client, Error};
use zeroize::Zeroizing;

/// The body of an answer.
pub(crate) struct Body {
    stream: Pin<Box<dyn AsyncBufRead + Send>>,
    given: usize,
}

impl Body {
    /// Sends a request, and begins to read the answer.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub(crate) async fn of(
        client: &Client,
        mut request: http::Request<Vec<u8>>,
    ) -> Result<Self, Error> {
        // Since 1.37 a watch is one gzip member per event, which our decoders do not read.
        let plain = HeaderValue::from_static("identity");
        request.headers_mut().insert(ACCEPT_ENCODING, plain);
        Ok(Self {
            stream: Box::pin(client.request_stream(request).await?),
            given: 0,
        })
    }

    /// Returns the next bytes, the same ones until they are done; `None` at the end.
    ///
    /// # Errors
    /// The connection was lost, or nothing arrived for so long.
    pub(crate) async fn chunk(&mut self, quiet: Duration) -> io::Result<Option<&[u8]>> {
        let bytes = tokio::time::timeout(quiet, self.stream.fill_buf())
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.given = bytes.len();
        Ok((!bytes.is_empty()).then_some(bytes))
    }

    /// Returns a short answer as a whole.
    ///
    /// # Errors
    /// It is longer, the connection was lost, or nothing arrived for so long.
    pub(crate) async fn whole(
        &mut self,
        longest: usize,
        quiet: Duration,
    ) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut kept = Zeroizing::new(Vec::new());
        while let Some(chunk) = self.chunk(quiet).await? {
            if kept.len() + chunk.len() > longest {
                let limit = format!("an answer of more than {longest} bytes");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, limit));
            }
            if kept.capacity() - kept.len() < chunk.len() {
                let more = chunk.len().max(kept.len() / 4);
                kept.reserve_exact(more);
            }
            kept.extend_from_slice(chunk);
            self.done();
        }
        Ok(kept)
    }

    /// Drops the last returned bytes.
    pub(crate) fn done(&mut self) {
        let given = std::mem::take(&mut self.given);
        self.stream.as_mut().consume(given);
    }
}

/// Whether this is the usual end of a long answer: it was quiet for too long, or a proxy closed it.
pub(crate) fn is_end(error: &io::Error) -> bool {
    let cut = |error: &(dyn std::error::Error + 'static)| {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
    };
    if error.kind() == io::ErrorKind::TimedOut || cut(error) {
        return true;
    }
    let inner = error
        .get_ref()
        .map(|inner| inner as &(dyn std::error::Error + 'static));
    let mut causes = std::iter::successors(inner, |error| error.source());
    causes.any(|error| cut(error) || error.to_string().contains("unexpected EOF during chunk"))
}
