//! A watch that reads one object at a time: a watch list if the server has it, else pages, each as a stream. I/O.
//!
//! The client's own watcher reads a page as a whole, and decodes all of it, including managedFields, before any of it
//! can be dropped.

use std::borrow::Cow;
use std::time::Duration;

use futures::{Stream, stream};
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, Status};
use kube::runtime::watcher::{Error, Event};
use kube::{Client, Error as ClientError};
use tracing::{debug, warn};

use crate::cluster::{self, Body};
use crate::metadata::{Bookmark, Frame, Line, ObjectMetadata};
use sidescale_core::items::{Items, ListItem, ObjectLines};

/// Maximum size of an object: etcd takes 1.5 MiB, and JSON escapes make up to three of them.
const LONGEST: usize = 4 << 20;

/// Objects per page. The server holds a page in memory; here it is a stream.
const PAGE: u32 = 50;

/// How long a list may be quiet.
const LIST_QUIET: Duration = Duration::from_secs(65);

/// How long a watch list may be quiet before its initial events end: then the server is asked for pages.
const INITIAL_QUIET: Duration = Duration::from_secs(30);

/// How long a watch may be quiet: the server closes it after 290 s, as requested.
const WATCH_QUIET: Duration = Duration::from_secs(295);

/// Objects to watch.
pub(super) struct WatchTarget {
    /// Their plural, for the log.
    pub(super) what: &'static str,
    /// Path of the resource, in all namespaces or in one.
    pub(super) path: Cow<'static, str>,
    /// Label selector.
    pub(super) labels: Option<&'static str>,
    /// Field selector.
    pub(super) fields: Option<String>,
}

/// Watches one kind of object; `read` extracts what is stored about one.
pub(super) struct Feed<R> {
    client: Client,
    subject: WatchTarget,
    read: R,
    state: FeedState,
    /// Whether the server supports watch lists, as far as known.
    streams: bool,
    /// An error after the events that preceded it.
    failed: Option<Error>,
    warned: bool,
}

enum FeedState {
    /// Nothing is known yet.
    Begin,
    /// The next page is to be requested.
    Pages { next: Option<String> },
    /// A page is being read.
    Page { body: Body, items: Items },
    /// Everything was seen up to this version.
    Resume { version: String },
    /// Events arrive; until there is a version, those of an incomplete watch list.
    Watching {
        body: Body,
        lines: ObjectLines,
        version: Option<String>,
    },
}

impl<R> Feed<R>
where
    R: Fn(&[u8]) -> serde_json::Result<ObjectMetadata>,
{
    /// Watches with this client's account; sends no request yet.
    pub(super) fn new(client: Client, subject: WatchTarget, read: R) -> Self {
        Self {
            client,
            subject,
            read,
            state: FeedState::Begin,
            streams: true,
            failed: None,
            warned: false,
        }
    }

    /// Returns the events, in the batches of their arrival. After an error it retries: the caller waits in between.
    pub(super) fn events(self) -> impl Stream<Item = Result<Vec<Event<ObjectMetadata>>, Error>> {
        stream::unfold(self, async |mut feed| {
            let events = feed.step().await;
            Some((events, feed))
        })
    }

    async fn step(&mut self) -> Result<Vec<Event<ObjectMetadata>>, Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        match std::mem::replace(&mut self.state, FeedState::Begin) {
            FeedState::Begin => self.begin().await,
            FeedState::Pages { next } => self.ask_for_page(next).await,
            FeedState::Page { body, items } => self.read_page(body, items).await,
            FeedState::Resume { version } => self.resume(version).await,
            FeedState::Watching {
                body,
                lines,
                version,
            } => self.read_events(body, lines, version).await,
        }
    }

    async fn begin(&mut self) -> Result<Vec<Event<ObjectMetadata>>, Error> {
        if !self.streams {
            self.state = FeedState::Pages { next: None };
            return Ok(vec![Event::Init]);
        }
        match self.watch(true, "").await {
            Ok(body) => {
                self.watching(body, None);
                Ok(vec![Event::Init])
            }
            // The answer of a server without watch lists, or with watch lists disabled.
            Err(ClientError::Api(status)) if matches!(status.code, 400 | 422) => {
                self.no_streams(&status.message);
                Ok(Vec::new())
            }
            Err(error) => Err(Error::WatchStartFailed(error)),
        }
    }

    async fn ask_for_page(
        &mut self,
        next: Option<String>,
    ) -> Result<Vec<Event<ObjectMetadata>>, Error> {
        let params = ListParams {
            label_selector: self.subject.labels.map(str::to_owned),
            field_selector: self.subject.fields.clone(),
            limit: Some(PAGE),
            continue_token: next,
            ..ListParams::default()
        };
        let request = Request::new(&*self.subject.path).list_metadata(&params);
        let request =
            request.map_err(|error| Error::InitialListFailed(ClientError::BuildRequest(error)))?;
        let body = Body::of(&self.client, request).await;
        let body = body.map_err(Error::InitialListFailed)?;
        let items = Items::new("items", LONGEST);
        self.state = FeedState::Page { body, items };
        Ok(Vec::new())
    }

    async fn read_page(
        &mut self,
        mut body: Body,
        mut items: Items,
    ) -> Result<Vec<Event<ObjectMetadata>>, Error> {
        let chunk = body.chunk(LIST_QUIET).await;
        let chunk =
            chunk.map_err(|error| Error::InitialListFailed(ClientError::ReadEvents(error)))?;
        let mut events = Vec::new();
        if let Some(chunk) = chunk {
            let Ok(()) = items.push(chunk, |item| {
                events.extend(self.kept(item).map(Event::InitApply));
                Ok::<_, std::convert::Infallible>(())
            });
            body.done();
            self.state = FeedState::Page { body, items };
            return Ok(events);
        }
        let frame: Frame = serde_json::from_slice(&items.frame())
            .map_err(|error| Error::InitialListFailed(ClientError::SerdeError(error)))?;
        let (next, version) = (frame.metadata.next, frame.metadata.resource_version);
        let some = |text: &String| !text.is_empty();
        if let Some(next) = next.filter(some) {
            self.state = FeedState::Pages { next: Some(next) };
            return Ok(events);
        }
        let version = version.filter(some).ok_or(Error::NoResourceVersion)?;
        self.state = FeedState::Resume { version };
        Ok(vec![Event::InitDone])
    }

    async fn resume(&mut self, version: String) -> Result<Vec<Event<ObjectMetadata>>, Error> {
        match self.watch(false, &version).await {
            Ok(body) => {
                self.watching(body, Some(version));
                Ok(Vec::new())
            }
            Err(error) => {
                if !matches!(&error, ClientError::Api(status) if status.code == 410) {
                    self.state = FeedState::Resume { version };
                }
                Err(Error::WatchStartFailed(error))
            }
        }
    }

    async fn read_events(
        &mut self,
        mut body: Body,
        mut lines: ObjectLines,
        mut version: Option<String>,
    ) -> Result<Vec<Event<ObjectMetadata>>, Error> {
        let quiet = match &version {
            Some(_) => WATCH_QUIET,
            None => INITIAL_QUIET,
        };
        let chunk = match body.chunk(quiet).await {
            Ok(Some(chunk)) => chunk,
            // The server closed it, or the connection was lost.
            Ok(None) => return self.ended(version, None),
            Err(error) if cluster::is_end(&error) => return self.ended(version, None),
            Err(error) => return self.ended(version, Some(error)),
        };
        let mut events = Vec::new();
        let whole = lines.push(chunk, |line| self.event(line, &mut version, &mut events));
        body.done();
        match whole {
            Ok(()) => {
                self.state = FeedState::Watching {
                    body,
                    lines,
                    version,
                };
            }
            // The server may have forgotten the last seen version.
            Err(status) => {
                if status.code != 410
                    && let Some(version) = version
                {
                    self.state = FeedState::Resume { version };
                }
                self.failed = Some(Error::WatchError(status));
            }
        }
        Ok(events)
    }

    /// Handles a line; an error from the server ends the watch.
    fn event(
        &mut self,
        line: ListItem<'_>,
        version: &mut Option<String>,
        events: &mut Vec<Event<ObjectMetadata>>,
    ) -> Result<(), Box<Status>> {
        let ListItem::Whole(bytes) = line else {
            self.kept(line);
            return Ok(());
        };
        let Ok(Line { kind, object }) = serde_json::from_slice::<Line<'_>>(bytes) else {
            self.skipped("an event that is not readable", bytes.len());
            return Ok(());
        };
        let object = object.get().as_bytes();
        match &*kind {
            "BOOKMARK" => {
                let Ok(Bookmark { metadata }) = serde_json::from_slice(object) else {
                    self.skipped("a bookmark that is not readable", bytes.len());
                    return Ok(());
                };
                let ends = metadata.annotations.initial_events_end.is_some();
                if ends && version.is_none() {
                    events.push(Event::InitDone);
                }
                if ends || version.is_some() {
                    *version = Some(metadata.resource_version);
                }
            }
            "ERROR" => {
                return Err(serde_json::from_slice::<Status>(object)
                    .unwrap_or_else(|_| Status::failure("an error that is not readable", ""))
                    .boxed());
            }
            kind => {
                let Some(kept) = self.kept(ListItem::Whole(object)) else {
                    return Ok(());
                };
                if version.is_some() && !kept.version.is_empty() {
                    *version = Some(kept.version.to_string());
                }
                events.push(match (kind, &version) {
                    ("DELETED", _) => Event::Delete(kept),
                    (_, None) => Event::InitApply(kept),
                    (_, Some(_)) => Event::Apply(kept),
                });
            }
        }
        Ok(())
    }

    /// Returns what is stored about an object; `None` if it is too long or unreadable, which costs that object only.
    fn kept(&mut self, item: ListItem<'_>) -> Option<ObjectMetadata> {
        match item {
            ListItem::Whole(bytes) => {
                let read = (self.read)(bytes);
                if read.is_err() {
                    self.skipped("an object that is not readable", bytes.len());
                }
                read.ok()
            }
            ListItem::TooLong(length) => {
                self.skipped("an object that is too long", length);
                None
            }
        }
    }

    /// Logs the first skipped object as a warning, the others quietly. Quotes nothing of it.
    fn skipped(&mut self, why: &'static str, bytes: usize) {
        let what = self.subject.what;
        if std::mem::replace(&mut self.warned, true) {
            debug!(what, why, bytes, "Skipped a watched object");
        } else {
            warn!(
                what,
                why, bytes, "Skipped a watched object: its last known state is kept"
            );
        }
    }

    async fn watch(&mut self, initial: bool, version: &str) -> Result<Body, ClientError> {
        let params = WatchParams {
            label_selector: self.subject.labels.map(str::to_owned),
            field_selector: self.subject.fields.clone(),
            send_initial_events: initial,
            ..WatchParams::default()
        };
        let request = Request::new(&*self.subject.path).watch_metadata(&params, version);
        let request = request.map_err(ClientError::BuildRequest)?;
        Body::of(&self.client, request).await
    }

    fn watching(&mut self, body: Body, version: Option<String>) {
        let lines = ObjectLines::new(LONGEST);
        self.state = FeedState::Watching {
            body,
            lines,
            version,
        };
    }

    /// Continues after the end of a watch; a watch list that ended before it was complete is not used on this server
    /// again.
    fn ended(
        &mut self,
        version: Option<String>,
        error: Option<std::io::Error>,
    ) -> Result<Vec<Event<ObjectMetadata>>, Error> {
        match (version, error.is_some()) {
            (Some(version), _) => self.state = FeedState::Resume { version },
            (None, true) => {}
            (None, false) => self.no_streams("it ended, or was quiet for too long"),
        }
        match error {
            Some(error) => Err(Error::WatchFailed(ClientError::ReadEvents(error))),
            None => Ok(Vec::new()),
        }
    }

    fn no_streams(&mut self, why: &str) {
        let what = self.subject.what;
        debug!(
            what,
            why, "API server does not support streaming lists: reading pages"
        );
        self.streams = false;
    }
}

#[cfg(test)]
mod tests;
