//! Splits arriving bytes into JSON objects: those of an array, or the lines of a watch. Pure.
//!
//! ```text
//! {"metadata":{…},"items":[{…},{…}]}  →  {…}  {…}  and, at the end, the frame {"metadata":{…},"items":[]}
//! ```
//!
//! Nothing is decoded here: the receiver of an object decodes it, so that a damaged one costs only itself.

use zeroize::Zeroizing;

/// Maximum bytes besides the objects: metadata of a list, or a page that is not a list at all.
const FRAME_LIMIT: usize = 64 << 10;

/// The buffer grows by this or by a quarter, whichever is more: doubling would cost as much as the decoded object.
const GROWTH: usize = 16 << 10;

/// Maximum buffer that is kept between two objects.
const KEPT: usize = 64 << 10;

/// An object, or the fact that there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListItem<'a> {
    /// Its bytes.
    Whole(&'a [u8]),
    /// It exceeds the maximum size: its bytes.
    TooLong(usize),
}

/// Finds the objects in an array that is a field of the outermost object.
#[derive(Debug)]
pub struct Items {
    name: &'static str,
    frame: Zeroizing<Vec<u8>>,
    /// Number of all bytes.
    length: usize,
    place: ArrayPosition,
    /// Open brackets: of the frame, or of the current object.
    depth: usize,
    text: StringPosition,
    /// Start and end of the last string in the frame.
    last: (usize, usize),
    /// Whether the value of the field is next.
    named: bool,
    piece: PartialObject,
}

/// Finds the lines, one object each.
#[derive(Debug)]
pub struct ObjectLines {
    piece: PartialObject,
}

/// Whether the next byte is in the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ArrayPosition {
    Around,
    Between,
    Within,
}

/// Whether the next byte is of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StringPosition {
    Outside,
    Inside,
    Escaped,
}

/// The part of an object that arrived in earlier chunks.
#[derive(Debug)]
struct PartialObject {
    kept: Zeroizing<Vec<u8>>,
    length: usize,
    longest: usize,
}

impl Items {
    /// Looks for the array of this name, and keeps at most `longest` bytes of one object.
    #[must_use]
    pub fn new(name: &'static str, longest: usize) -> Self {
        Self {
            name,
            frame: Zeroizing::default(),
            length: 0,
            place: ArrayPosition::Around,
            depth: 0,
            text: StringPosition::Outside,
            last: (0, 0),
            named: false,
            piece: PartialObject::new(longest),
        }
    }

    /// Reads the next bytes, and passes each object that ends in them.
    ///
    /// # Errors
    /// The error of `each`; no more objects are passed then.
    pub fn push<E>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(ListItem<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.length += bytes.len();
        let mut at = 0;
        let mut begin = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.place != ArrayPosition::Within {
                if self.around(byte) {
                    begin = at;
                }
                at += 1;
            } else if self.text == StringPosition::Outside {
                at += 1;
                match byte {
                    b'"' => self.text = StringPosition::Inside,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth -= 1,
                    _ => {}
                }
                if self.depth == 0 {
                    self.place = ArrayPosition::Between;
                    let given = self.piece.end(&bytes[begin..at], &mut each);
                    begin = at;
                    given?;
                }
            } else {
                at += self.text.skip(&bytes[at..]);
            }
        }
        if self.place == ArrayPosition::Within {
            self.piece.keep(&bytes[begin..]);
        }
        Ok(())
    }

    /// Returns the number of all bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether the bytes besides the objects exceed their limit: then this is not a list.
    #[must_use]
    pub fn is_no_list(&self) -> bool {
        self.frame.len() >= FRAME_LIMIT
    }

    /// Returns what is around the objects, with an empty array in their place; not valid JSON if the input is cut or
    /// not JSON.
    #[must_use]
    pub fn frame(self) -> Zeroizing<Vec<u8>> {
        self.frame
    }

    /// Reads a byte outside of any object, and returns whether an object begins with it.
    fn around(&mut self, byte: u8) -> bool {
        if self.place == ArrayPosition::Between && self.text == StringPosition::Outside {
            match byte {
                b'{' => {
                    (self.place, self.depth) = (ArrayPosition::Within, 1);
                    return true;
                }
                b',' | b' ' | b'\t' | b'\r' | b'\n' => return false,
                b']' => (self.place, self.depth) = (ArrayPosition::Around, 1),
                b'"' => self.text = StringPosition::Inside,
                // Anything but an object stays in the frame, and makes it invalid.
                _ => {}
            }
        } else if self.text == StringPosition::Outside {
            match byte {
                b'"' => {
                    self.text = StringPosition::Inside;
                    self.last.0 = self.frame.len() + 1;
                }
                b':' => {
                    let last = self.frame.get(self.last.0..self.last.1);
                    self.named = self.depth == 1 && last == Some(self.name.as_bytes());
                }
                b'[' if self.named => {
                    self.named = false;
                    self.place = ArrayPosition::Between;
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            self.named &= matches!(byte, b':' | b' ' | b'\t' | b'\r' | b'\n');
        } else {
            self.text.skip(&[byte]);
            if self.text == StringPosition::Outside {
                self.last.1 = self.frame.len();
            }
        }
        if self.frame.len() < FRAME_LIMIT {
            self.frame.push(byte);
        }
        false
    }
}

impl ObjectLines {
    /// Keeps at most `longest` bytes of one line.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        Self {
            piece: PartialObject::new(longest),
        }
    }

    /// Reads the next bytes, and passes each line that ends in them; a cut line is never passed.
    ///
    /// # Errors
    /// The error of `each`; no more lines are passed then.
    pub fn push<E>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(ListItem<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let line = &bytes[..end];
            bytes = &bytes[end + 1..];
            if !line.trim_ascii().is_empty() || self.piece.length > 0 {
                self.piece.end(line, &mut each)?;
            }
        }
        self.piece.keep(bytes);
        Ok(())
    }
}

impl StringPosition {
    /// Skips to the end of a string or to the next relevant byte; returns how many bytes that are.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        if *self == Self::Escaped {
            *self = Self::Inside;
            return 1;
        }
        let marks = |&byte: &u8| matches!(byte, b'"' | b'\\');
        let Some(at) = bytes.iter().position(marks) else {
            return bytes.len();
        };
        *self = match bytes[at] {
            b'"' => Self::Outside,
            _ => Self::Escaped,
        };
        at + 1
    }
}

impl PartialObject {
    fn new(longest: usize) -> Self {
        Self {
            kept: Zeroizing::default(),
            length: 0,
            longest,
        }
    }

    /// Keeps the part of an object that continues in the next chunk.
    fn keep(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        if self.length > self.longest {
            self.kept = Zeroizing::default();
            return;
        }
        let free = self.kept.capacity() - self.kept.len();
        if free < bytes.len() {
            let more = bytes.len().max(GROWTH).max(self.kept.capacity() / 4);
            self.kept.reserve_exact(more);
        }
        self.kept.extend_from_slice(bytes);
    }

    /// Passes the object that ends here.
    fn end<E>(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(ListItem<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let length = self.length + bytes.len();
        if length > self.longest {
            self.clear();
            return each(ListItem::TooLong(length));
        }
        if self.length == 0 {
            return each(ListItem::Whole(bytes));
        }
        self.keep(bytes);
        let given = each(ListItem::Whole(&self.kept));
        self.clear();
        given
    }

    fn clear(&mut self) {
        self.length = 0;
        if self.kept.capacity() > KEPT {
            self.kept = Zeroizing::default();
        }
        self.kept.clear();
    }
}

#[cfg(test)]
mod tests;
