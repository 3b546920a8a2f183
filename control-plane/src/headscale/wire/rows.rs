//! A list of Headscale as it arrives: one row at a time, of which a few fields are kept. Pure.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use sidescale_core::objects::{ApiKey, Node, PreAuthKey, User};

use super::{ApiKeyBody, NodeBody, PreAuthKeyBody, UserBody, json, json_of};
use super::{one_api_key, one_key, one_node, one_user};
use sidescale_core::items::{Items, ListItem};

/// Maximum rows of a list, ten times the number up to which rotation creates keys.
const MOST_ROWS: usize = 200_000;

/// Maximum memory of a list's rows: about 150,000 keys, or as many nodes.
const MOST_BYTES: usize = 24 << 20;

/// If there are too many rows, the first of this many parts is dropped.
const DROPPED: usize = 8;

/// Maximum size of a row: a node may announce any number of routes.
const LONGEST_ROW: usize = 4 << 20;

/// A row of a list.
pub(crate) trait WireRow: Sized {
    /// The field with the list.
    const LIST: &'static str;

    /// Its plural, for messages.
    const EXPECTED: &'static str;

    /// Whether a list stays valid without a row that is too long: yes for nodes, whose owners control their length.
    const LEFT_OUT: bool;

    /// Whether the last rows of a list that is too long are useful: yes for keys, as the newest are listed last.
    const KEEPS_LAST: bool;

    /// Parses a row.
    fn read(row: &[u8]) -> Result<Self, String>;

    /// Returns its memory on the heap.
    fn heap(&self) -> usize;
}

/// Why there is no list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ListProblem {
    /// The answer is not a list: what it is instead.
    Other(String),
    /// It has more rows than are kept.
    TooManyRows,
    /// It has more bytes besides its rows than a list has.
    TooLarge,
}

/// A list that is arriving.
pub(crate) struct Rows<T> {
    items: Items,
    rows: Vec<T>,
    heap: usize,
    truncated: bool,
}

impl<T: WireRow> Rows<T> {
    /// Returns an empty list.
    pub(crate) fn new() -> Self {
        Self {
            items: Items::new(T::LIST, LONGEST_ROW),
            rows: Vec::new(),
            heap: 0,
            truncated: false,
        }
    }

    /// Reads the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), ListProblem> {
        let Self {
            items,
            rows,
            heap,
            truncated,
        } = self;
        items.push(bytes, |item| {
            let row = match item {
                ListItem::Whole(bytes) => T::read(bytes).map_err(ListProblem::Other)?,
                ListItem::TooLong(_) if T::LEFT_OUT => return Ok(()),
                ListItem::TooLong(length) => {
                    return Err(ListProblem::Other(format!("a row of {length} bytes")));
                }
            };
            *heap += row.heap();
            if rows.len() >= MOST_ROWS || *heap + (rows.len() + 1) * size_of::<T>() > MOST_BYTES {
                if !T::KEEPS_LAST {
                    return Err(ListProblem::TooManyRows);
                }
                *truncated = true;
                let dropped = rows.drain(..rows.len().div_ceil(DROPPED));
                *heap -= dropped.map(|row| row.heap()).sum::<usize>();
            }
            // Doubling would take as much memory again as all rows.
            if rows.len() == rows.capacity() {
                rows.reserve_exact(rows.len() / 4 + 16);
            }
            rows.push(row);
            Ok(())
        })?;
        match items.is_no_list() {
            true => Err(ListProblem::TooLarge),
            false => Ok(()),
        }
    }

    /// Returns the number of bytes that arrived.
    pub(crate) fn length(&self) -> usize {
        self.items.length()
    }

    /// Returns the rows, if the list is complete, and whether they are only the last of them.
    pub(crate) fn finish(self) -> Result<(Vec<T>, bool), ListProblem> {
        let length = self.items.length();
        frame(&self.items.frame(), T::LIST, length)
            .map(|()| (self.rows, self.truncated))
            .map_err(ListProblem::Other)
    }
}

/// Checks what is around the rows: an object with an empty array in their place.
fn frame(frame: &[u8], list: &str, length: usize) -> Result<(), String> {
    let fields: BTreeMap<String, Box<RawValue>> = json_of(frame, length)?;
    match fields.get(list).map(|value| value.get()) {
        None | Some("null") => Err(format!("JSON without {list:?}")),
        Some("[]") => Ok(()),
        Some(_) => Err(format!("JSON with {list:?} of another type")),
    }
}

impl WireRow for User {
    const LIST: &'static str = "users";
    const EXPECTED: &'static str = "a list of users";
    const LEFT_OUT: bool = false;
    const KEEPS_LAST: bool = false;

    fn read(row: &[u8]) -> Result<Self, String> {
        one_user(json::<UserBody>(row)?)
    }

    fn heap(&self) -> usize {
        self.name.capacity() + self.display_name.capacity()
    }
}

impl WireRow for PreAuthKey {
    const LIST: &'static str = "preAuthKeys";
    const EXPECTED: &'static str = "a list of pre-auth keys";
    const LEFT_OUT: bool = false;
    const KEEPS_LAST: bool = true;

    fn read(row: &[u8]) -> Result<Self, String> {
        one_key(json::<PreAuthKeyBody>(row)?).map(|(key, _)| key)
    }

    fn heap(&self) -> usize {
        // A prefix has twelve characters.
        heap_of(&self.tags) + 12
    }
}

impl WireRow for Node {
    const LIST: &'static str = "nodes";
    const EXPECTED: &'static str = "a list of nodes";
    const LEFT_OUT: bool = true;
    const KEEPS_LAST: bool = false;

    fn read(row: &[u8]) -> Result<Self, String> {
        one_node(json::<NodeBody>(row)?)
    }

    fn heap(&self) -> usize {
        heap_of(&self.tags) + self.name.capacity() + self.given_name.capacity()
    }
}

impl WireRow for ApiKey {
    const LIST: &'static str = "apiKeys";
    const EXPECTED: &'static str = "a list of API keys";
    const LEFT_OUT: bool = false;
    const KEEPS_LAST: bool = false;

    fn read(row: &[u8]) -> Result<Self, String> {
        one_api_key(json::<ApiKeyBody>(row)?)
    }

    fn heap(&self) -> usize {
        self.prefix.capacity()
    }
}

fn heap_of(tags: &Vec<String>) -> usize {
    let texts: usize = tags.iter().map(String::capacity).sum();
    texts + tags.capacity() * size_of::<String>()
}
