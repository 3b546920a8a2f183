//! Parses the messages of Headscale's gRPC, and checks each field. Pure.

use jiff::Timestamp;
use sidescale_core::id::ApiKeyId;
use sidescale_core::key_prefix::listed_prefix;
use sidescale_core::objects::ApiKey;
use sidescale_proto::{Time, v1};

use crate::headscale::wire::LONGEST_NAME;
use crate::text::shown;

pub(super) fn api_key(key: v1::ApiKey) -> Result<ApiKey, String> {
    let v1::ApiKey {
        id: key_id,
        prefix,
        expiration,
        created_at,
        last_seen,
    } = key;
    Ok(ApiKey {
        id: match key_id {
            0 => return Err(r#"a message without "api_key.id""#.to_owned()),
            id => ApiKeyId::from(id),
        },
        // As by REST: a row of another form is foreign.
        prefix: listed_prefix(&prefix).map_or_else(|| shown(&prefix, LONGEST_NAME), str::to_owned),
        expiration: time(expiration)?,
        created_at: time(created_at)?,
        last_seen: time(last_seen)?,
    })
}

/// Converts a time for the server.
pub(super) fn to_proto(time: Timestamp) -> Time {
    // A timestamp before 1970 counts its fraction backward, the server's forward.
    let nanos = time.subsec_nanosecond();
    let (seconds, nanos) = match nanos {
        ..0 => (time.as_second() - 1, nanos + 1_000_000_000),
        0.. => (time.as_second(), nanos),
    };
    Time { seconds, nanos }
}

fn time(time: Option<Time>) -> Result<Option<Timestamp>, String> {
    time.map(|Time { seconds, nanos }| {
        Timestamp::new(seconds, nanos).map_err(|_| format!("a time of {seconds} s and {nanos} ns"))
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use sidescale_proto::{Time, v1};

    use super::{api_key, time, to_proto};

    #[test]
    fn times_come_back_as_they_went() {
        for text in [
            "2026-11-21T16:12:11.268221728Z",
            "1969-12-31T23:59:59.25Z",
            "0001-01-01T00:00:00Z",
            "2099-01-01T00:00:00Z",
        ] {
            let want: Timestamp = text.parse().unwrap();
            let proto = to_proto(want);
            assert!((0..1_000_000_000).contains(&proto.nanos), "{proto:?}");
            assert_eq!(time(Some(proto)), Ok(Some(want)));
        }
        let beyond = Time {
            seconds: i64::MAX,
            nanos: 0,
        };
        assert!(time(Some(beyond)).is_err());
    }

    #[test]
    fn no_api_key_is_without_an_id() {
        let problem = api_key(v1::ApiKey::default()).unwrap_err();
        assert_eq!(problem, r#"a message without "api_key.id""#);
    }
}
