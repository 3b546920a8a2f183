//! Parses the messages of Headscale's gRPC, and checks each field. Pure.

use jiff::Timestamp;
use sidescale_core::id::{ApiKeyId, Id, KeyId, NodeId, UserId};
use sidescale_core::key_prefix::{KeyPrefix, listed_prefix};
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::{ApiKey, Node, PreAuthKey, User};
use sidescale_proto::{Time, v1};

use crate::control_plane::text::shown;
use crate::control_plane::wire::{LONGEST_DISPLAY_NAME, LONGEST_NAME};

/// Returns a required message.
pub(super) fn required<T>(field: Option<T>, name: &str) -> Result<T, String> {
    field.ok_or_else(|| format!("a message without {name:?}"))
}

pub(super) fn user(user: v1::User) -> Result<User, String> {
    let v1::User {
        id: user_id,
        name,
        created_at,
        display_name,
        email: _,
        provider_id,
        provider,
    } = user;
    Ok(User {
        id: UserId(id(user_id, "user.id")?),
        name: shown(&name, LONGEST_NAME),
        display_name: shown(&display_name, LONGEST_DISPLAY_NAME),
        created_at: time(created_at)?,
        from_provider: !provider.is_empty() || !provider_id.is_empty(),
    })
}

/// Returns a key and its value, which is complete only in the answer to its creation.
pub(super) fn pre_auth_key(key: v1::PreAuthKey) -> Result<(PreAuthKey, Option<KeyValue>), String> {
    let v1::PreAuthKey {
        user: owner,
        id: key_id,
        key: value,
        reusable,
        ephemeral,
        used,
        expiration,
        created_at,
        acl_tags,
    } = key;
    let prefix = KeyPrefix::shown(&value);
    let value = KeyValue::new(value);
    let key = PreAuthKey {
        prefix,
        id: KeyId(id(key_id, "pre_auth_key.id")?),
        user: owner.map(user).transpose()?.map(|user| user.id),
        reusable,
        ephemeral,
        used,
        expiration: time(expiration)?,
        created_at: time(created_at)?,
        tags: acl_tags,
    };
    Ok((key, Some(value)))
}

pub(super) fn api_key(key: v1::ApiKey) -> Result<ApiKey, String> {
    let v1::ApiKey {
        id: key_id,
        prefix,
        expiration,
        created_at,
        last_seen,
    } = key;
    Ok(ApiKey {
        id: ApiKeyId(id(key_id, "api_key.id")?),
        // As by REST: a row of another form is foreign.
        prefix: listed_prefix(&prefix).map_or_else(|| shown(&prefix, LONGEST_NAME), str::to_owned),
        expiration: time(expiration)?,
        created_at: time(created_at)?,
        last_seen: time(last_seen)?,
    })
}

pub(super) fn node(node: v1::Node) -> Result<Node, String> {
    let v1::Node {
        id: node_id,
        name,
        user: owner,
        last_seen,
        expiry,
        pre_auth_key,
        created_at,
        given_name,
        online,
        tags,
    } = node;
    Ok(Node {
        id: NodeId(id(node_id, "node.id")?),
        name: shown(&name, LONGEST_NAME),
        given_name: shown(&given_name, LONGEST_NAME),
        user: owner.map(user).transpose()?.map(|user| user.id),
        online,
        pre_auth_key: pre_auth_key
            .map(|key| id(key.id, "node.pre_auth_key.id"))
            .transpose()?
            .map(KeyId),
        tags,
        created_at: time(created_at)?,
        last_seen: time(last_seen)?,
        expiry: time(expiry)?.filter(|&end| end > Timestamp::UNIX_EPOCH),
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

fn id(id: u64, name: &str) -> Result<Id, String> {
    match id {
        0 => Err(format!("a message without {name:?}")),
        id => Ok(id.into()),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use sidescale_proto::{Time, v1};

    use super::{api_key, node, pre_auth_key, time, to_proto, user};

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
    fn nothing_is_without_an_id() {
        assert!(user(v1::User::default()).is_err());
        assert!(api_key(v1::ApiKey::default()).is_err());
        assert!(node(v1::Node::default()).is_err());
        let Err(problem) = pre_auth_key(v1::PreAuthKey::default()) else {
            panic!("taken");
        };
        assert_eq!(problem, r#"a message without "pre_auth_key.id""#);
    }
}
