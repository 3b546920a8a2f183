//! Parts that are equal in every pod, rendered once: writing them is a third of the cost of a review. Pure.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// Our own JSON, as it is sent.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Rendered(Box<RawValue>);

impl Rendered {
    /// Renders `value`, one of our own types.
    pub(crate) fn of<V: Serialize>(value: &V) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "our own types have only text as keys, and nothing of a pod is rendered here"
        )]
        Self(to_raw_value(value).expect("our own types are JSON"))
    }
}

/// A volume that is an empty directory, always with the same name and size.
#[derive(Debug)]
pub(crate) struct EmptyDirectory {
    pub(crate) name: &'static str,
    pub(crate) rendered: Rendered,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RenderedVolume {
    name: &'static str,
    empty_dir: EmptyDir,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EmptyDir {
    size_limit: &'static str,
}

impl EmptyDirectory {
    /// Returns one that may take `size_limit`, a quantity of bytes.
    pub(crate) fn new(name: &'static str, size_limit: &'static str) -> Self {
        let empty_dir = EmptyDir { size_limit };
        let rendered = Rendered::of(&RenderedVolume { name, empty_dir });
        Self { name, rendered }
    }
}
