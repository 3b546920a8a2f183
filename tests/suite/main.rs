//! Tests against our own fakes and the embedded servers; no real server is needed.
