//! The Secret of an API key: reads and writes its labels, annotations and data. Pure.

use jiff::Timestamp;
use sidescale_core::key_value::KeyValue;
use sidescale_core::secret::{MANAGED_BY, StoredSecret};
use sidescale_webhook::keys::{ADOPT, PAUSED};

use super::record::{self, ApiKeyRecord};

/// Default data key of the API key.
pub const DATA_KEY: &str = "api-key";

/// Label for the kind of Secret.
pub const COMPONENT: (&str, &str) = ("app.kubernetes.io/component", "api-key");

/// Annotation with the key's expiration, as RFC 3339.
pub const EXPIRATION: &str = "api-key.headscale.infrado.cloud/expiration";

/// Annotation with the key's creation time, as RFC 3339.
pub const CREATED_AT: &str = "api-key.headscale.infrado.cloud/created-at";

/// Annotation with the time of the last check.
pub const CHECKED_AT: &str = "sidescale.io/api-key-checked-at";

/// Annotation with the process of the last check.
pub const CHECKED_BY: &str = "sidescale.io/api-key-checked-by";

/// Annotation that marks our Secret while it waits for its key.
pub const PLACEHOLDER: &str = "sidescale.io/placeholder";

/// Annotation with the time since when it waits, as RFC 3339.
pub const PLACED_AT: &str = "sidescale.io/created-at";

/// Annotation with the shell command to run next.
pub const NEXT_STEP: &str = "sidescale.io/next-step";

/// Owner of a Secret, and whether it can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenOwnership {
    /// Absent or ours.
    Ours,
    /// Ours, and paused by its annotation.
    Paused,
    /// Foreign: read, never written. Holds the value of its label, if it has any.
    NotOurs(Option<String>),
    /// Another type than Opaque, which cannot be changed.
    WrongType(String),
    /// Its data cannot be changed.
    Immutable,
}

/// A time in an annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stated {
    /// No annotation.
    Absent,
    /// Not an RFC 3339 time.
    Unreadable(String),
    /// It expires then.
    At(Timestamp),
}

/// What a Secret says about its API key.
#[derive(Clone, Debug)]
pub struct SecretContents {
    /// Whose Secret it is.
    pub ownership: TokenOwnership,
    /// The key, without surrounding white space.
    pub value: Option<KeyValue>,
    /// When it expires.
    pub expiration: Stated,
    /// When it was created.
    pub created_at: Stated,
    /// What the Secret remembers.
    pub record: ApiKeyRecord,
    /// Whether its record was present and unreadable.
    pub record_damaged: bool,
    /// Time and process of the last check.
    pub checked: Option<(Timestamp, String)>,
    /// Whether both labels are as Sidescale writes them.
    pub labelled: bool,
}

/// What is written about a key.
#[derive(Clone, Debug)]
pub struct IssuedApiKey {
    /// The API key itself.
    pub value: KeyValue,
    /// When it expires, as Headscale reports it.
    pub expires: Timestamp,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Reads a Secret; `managed_by` is the value of the label that makes it ours, and `data_key` holds the key.
#[must_use]
pub fn read(secret: &StoredSecret, managed_by: &str, data_key: &str) -> SecretContents {
    let note = |key: &str| secret.annotations.get(key).map(String::as_str);
    let (record, record_damaged) = ApiKeyRecord::parse(note(record::ANNOTATION));
    let value = secret.data.get(data_key);
    let value = value
        .map(|value| std::str::from_utf8(value).unwrap_or("not text").trim())
        .filter(|value| !value.is_empty());
    let checked = match stated(note(CHECKED_AT)) {
        Stated::At(at) => Some((at, note(CHECKED_BY).unwrap_or_default().to_owned())),
        Stated::Absent | Stated::Unreadable(_) => None,
    };
    SecretContents {
        ownership: ownership(secret, managed_by),
        value: value.map(|value| KeyValue::new(value.to_owned())),
        expiration: stated(note(EXPIRATION)),
        created_at: stated(note(CREATED_AT)),
        record,
        record_damaged,
        checked,
        labelled: label(secret, MANAGED_BY.0) == Some(managed_by)
            && label(secret, COMPONENT.0) == Some(COMPONENT.1),
    }
}

/// Writes the labels and the record; everything else in the Secret stays.
pub fn write(secret: &mut StoredSecret, managed_by: &str, record: &ApiKeyRecord) {
    let labels = &mut secret.labels;
    labels.insert(MANAGED_BY.0.to_owned(), managed_by.to_owned());
    labels.insert(COMPONENT.0.to_owned(), COMPONENT.1.to_owned());
    match record.text() {
        Some(text) => secret
            .annotations
            .insert(record::ANNOTATION.to_owned(), text),
        None => secret.annotations.remove(record::ANNOTATION),
    };
}

/// Writes a new key to its data key, with its times.
pub fn write_key(secret: &mut StoredSecret, data_key: &str, issued: &IssuedApiKey) {
    let IssuedApiKey {
        value,
        expires,
        created_at,
    } = issued;
    let bytes = value.expose().as_bytes().to_vec();
    secret.data.insert(data_key.to_owned(), bytes.into());
    unmark_placeholder(secret);
    write_times(secret, *expires, *created_at);
}

/// Marks a Secret without a key; `command` is the shell command that puts one there.
pub fn mark_placeholder(secret: &mut StoredSecret, now: Timestamp, command: &str) {
    let label = (COMPONENT.0.to_owned(), COMPONENT.1.to_owned());
    secret.labels.extend([label]);
    for (key, value) in [
        (PLACEHOLDER, "true".to_owned()),
        (PLACED_AT, seconds(now)),
        (NEXT_STEP, command.to_owned()),
    ] {
        secret.annotations.insert(key.to_owned(), value);
    }
}

/// Removes the marks of a placeholder; returns whether there were any.
pub fn unmark_placeholder(secret: &mut StoredSecret) -> bool {
    let marks = [PLACEHOLDER, PLACED_AT, NEXT_STEP];
    let taken = marks.map(|mark| secret.annotations.remove(mark).is_some());
    taken.contains(&true)
}

/// Whether it is marked as waiting for its key.
#[must_use]
pub fn is_placeholder(secret: &StoredSecret) -> bool {
    let mark = secret.annotations.get(PLACEHOLDER);
    label(secret, MANAGED_BY.0) == Some(MANAGED_BY.1) && mark.is_some_and(|mark| mark == "true")
}

/// Writes the key's expiration and creation time.
pub fn write_times(secret: &mut StoredSecret, expires: Timestamp, created_at: Timestamp) {
    for (key, time) in [(EXPIRATION, expires), (CREATED_AT, created_at)] {
        secret.annotations.insert(key.to_owned(), seconds(time));
    }
}

/// Writes the process and the time of this check.
pub fn check_in(secret: &mut StoredSecret, writer: &str, now: Timestamp) {
    for (key, value) in [(CHECKED_AT, seconds(now)), (CHECKED_BY, writer.to_owned())] {
        secret.annotations.insert(key.to_owned(), value);
    }
}

/// Formats as RFC 3339 to the second, which is what people and shells compare.
fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}

fn ownership(secret: &StoredSecret, managed_by: &str) -> TokenOwnership {
    let is_true = |key: &str| {
        secret
            .annotations
            .get(key)
            .is_some_and(|value| value == "true")
    };
    if secret.revision.is_none() {
        return TokenOwnership::Ours;
    }
    let managed = label(secret, MANAGED_BY.0);
    if managed != Some(managed_by) && !is_true(ADOPT) {
        return TokenOwnership::NotOurs(managed.map(str::to_owned));
    }
    if secret.kept.kind != "Opaque" {
        return TokenOwnership::WrongType(secret.kept.kind.clone());
    }
    if secret.kept.immutable {
        return TokenOwnership::Immutable;
    }
    if is_true(PAUSED) {
        return TokenOwnership::Paused;
    }
    TokenOwnership::Ours
}

fn label<'a>(secret: &'a StoredSecret, key: &str) -> Option<&'a str> {
    secret.labels.get(key).map(String::as_str)
}

fn stated(text: Option<&str>) -> Stated {
    match text.map(|text| (text, text.trim().parse())) {
        None => Stated::Absent,
        Some((_, Ok(time))) => Stated::At(time),
        Some((text, Err(_))) => Stated::Unreadable(text.to_owned()),
    }
}

#[cfg(test)]
mod tests;
