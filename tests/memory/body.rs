//! Bodies generated while they are sent: only what their reader stores is counted.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// Size of one piece from a connection: a TLS record.
const FRAME: usize = 16 << 10;

/// Text with a repeated part.
#[derive(Clone)]
pub(crate) struct Text {
    pub(crate) before: String,
    /// `#` in it is the number of the repetition, if `numbered`.
    pub(crate) unit: String,
    pub(crate) numbered: bool,
    pub(crate) times: usize,
    pub(crate) after: String,
}

impl Text {
    /// Returns `before`, `times` of `unit`, `after`.
    pub(crate) fn new(before: &str, unit: &str, times: usize, after: &str) -> Self {
        Self {
            before: before.to_owned(),
            unit: unit.to_owned(),
            numbered: unit.contains('#'),
            times,
            after: after.to_owned(),
        }
    }

    /// Returns the same with more around it.
    pub(crate) fn within(mut self, before: &str, after: &str) -> Self {
        self.before.insert_str(0, before);
        self.after.push_str(after);
        self
    }

    fn length(&self) -> usize {
        let units: usize = if self.numbered {
            (0..self.times)
                .map(|n| self.unit.len() - 1 + n.to_string().len())
                .sum()
        } else {
            self.times * self.unit.len()
        };
        self.before.len() + units + self.after.len()
    }

    /// Returns the text as a request's body, with or without Content-Length, and its length.
    pub(crate) fn body(self, declared: bool) -> (Body, usize) {
        let length = self.length();
        let sent = Sent {
            text: self,
            place: 0,
            length: declared.then_some(length as u64),
        };
        (Body::new(sent), length)
    }

    /// Writes a piece: 0 is before the repetitions, the last is after them. Returns false after that.
    fn write(&self, place: usize, frame: &mut Vec<u8>) -> bool {
        match place.checked_sub(1) {
            None => frame.extend_from_slice(self.before.as_bytes()),
            Some(n) if n < self.times && self.numbered => {
                frame.extend_from_slice(self.unit.replace('#', &n.to_string()).as_bytes());
            }
            Some(n) if n < self.times => frame.extend_from_slice(self.unit.as_bytes()),
            Some(n) if n == self.times => frame.extend_from_slice(self.after.as_bytes()),
            Some(_) => return false,
        }
        true
    }
}

struct Sent {
    text: Text,
    /// Index of the next piece.
    place: usize,
    length: Option<u64>,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut frame = Vec::with_capacity(FRAME);
        while frame.len() < FRAME {
            if !self.text.write(self.place, &mut frame) {
                break;
            }
            self.place += 1;
        }
        Poll::Ready((!frame.is_empty()).then(|| Ok(Frame::data(frame.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
