//! REST v1 of Headscale as bytes: request bodies, and the required fields of answers. Pure.

use std::fmt;

use jiff::Timestamp;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use sidescale_core::id::{ApiKeyId, Id, KeyId, NodeId, UserId};
use sidescale_core::key_prefix::{KeyPrefix, listed_prefix};
use sidescale_core::key_value::KeyValue;
use sidescale_core::objects::{
    ApiKey, MintedApiKey, MintedKey, NewPreAuthKey, Node, PreAuthKey, User,
};

use crate::checks;
use crate::text::BoundedText;

mod rows;

pub(crate) use rows::{ListProblem, Rows, WireRow};

/// Request for a user. Has only fields that every version knows: 0.30 refuses others.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateUser<'a> {
    pub(crate) name: &'a str,
    pub(crate) display_name: &'a str,
}

/// Request for a pre-auth key. Ids are strings: 0.30 refuses numbers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreatePreAuthKey<'a> {
    user: String,
    reusable: bool,
    ephemeral: bool,
    expiration: Timestamp,
    acl_tags: &'a [String],
}

/// Returns the body that requests `new`.
pub(crate) fn create_pre_auth_key(new: &NewPreAuthKey) -> impl Serialize + '_ {
    let NewPreAuthKey {
        user,
        reusable,
        ephemeral,
        expiration,
        tags,
    } = new;
    CreatePreAuthKey {
        user: user.0.to_string(),
        reusable: *reusable,
        ephemeral: *ephemeral,
        expiration: *expiration,
        acl_tags: tags,
    }
}

/// The object of a call.
#[derive(Serialize)]
pub(crate) struct ById {
    id: String,
}

impl ById {
    pub(crate) fn new(id: Id) -> Self {
        Self { id: id.to_string() }
    }
}

/// Request for an API key.
#[derive(Serialize)]
pub(crate) struct CreateApiKey {
    pub(crate) expiration: Timestamp,
}

/// More than any name of a node or user.
pub(crate) const LONGEST_NAME: usize = 256;

/// More than any owner tag.
const LONGEST_DISPLAY_NAME: usize = 1024;

/// More than any tag that a pod may request: a cut tag is still a different one.
const LONGEST_TAG: usize = 4097;

/// More than all tags that a pod may request.
const MOST_TAGS: usize = 1024;

#[derive(Deserialize)]
struct UserBody {
    id: Option<BoundedText<LONGEST_NAME>>,
    name: Option<BoundedText<LONGEST_NAME>>,
    #[serde(rename = "displayName")]
    display_name: Option<BoundedText<LONGEST_DISPLAY_NAME>>,
    provider: Option<BoundedText<LONGEST_NAME>>,
    #[serde(rename = "providerId")]
    provider_id: Option<BoundedText<LONGEST_NAME>>,
    #[serde(rename = "createdAt")]
    created_at: Option<Timestamp>,
}

/// An object with only its id.
#[derive(Deserialize)]
struct IdBody {
    id: Option<BoundedText<LONGEST_NAME>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PreAuthKeyBody {
    user: Option<IdBody>,
    id: Option<BoundedText<LONGEST_NAME>>,
    key: Option<String>,
    reusable: Option<bool>,
    ephemeral: Option<bool>,
    used: Option<bool>,
    expiration: Option<Timestamp>,
    created_at: Option<Timestamp>,
    acl_tags: Option<Tags>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeBody {
    id: Option<BoundedText<LONGEST_NAME>>,
    name: Option<BoundedText<LONGEST_NAME>>,
    given_name: Option<BoundedText<LONGEST_NAME>>,
    user: Option<IdBody>,
    online: Option<bool>,
    pre_auth_key: Option<IdBody>,
    tags: Option<Tags>,
    created_at: Option<Timestamp>,
    last_seen: Option<Timestamp>,
    expiry: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiKeyBody {
    id: Option<BoundedText<LONGEST_NAME>>,
    prefix: Option<BoundedText<LONGEST_NAME>>,
    expiration: Option<Timestamp>,
    created_at: Option<Timestamp>,
    last_seen: Option<Timestamp>,
}

#[derive(Deserialize)]
struct VersionBody {
    version: Option<String>,
}

#[derive(Deserialize)]
struct HealthBody {
    status: String,
}

#[derive(Deserialize)]
struct OneUser {
    user: Option<UserBody>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnePreAuthKey {
    pre_auth_key: Option<PreAuthKeyBody>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OneApiKey {
    api_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConnectivityBody {
    database_connectivity: Option<bool>,
}

#[derive(Deserialize)]
struct OneNode {
    node: Option<NodeBody>,
}

/// Parses the answer of `GET /version`.
pub(crate) fn version(body: &[u8]) -> Result<String, String> {
    required(json::<VersionBody>(body)?.version, "version")
}

/// Whether this is the answer of `GET /health`.
pub(crate) fn is_health(body: &[u8]) -> bool {
    json::<HealthBody>(body).is_ok_and(|health| matches!(health.status.as_str(), "pass" | "fail"))
}

/// Parses the answer of `GET /api/v1/health`.
pub(crate) fn connectivity(body: &[u8]) -> Result<(), String> {
    required(
        json::<ConnectivityBody>(body)?.database_connectivity,
        "databaseConnectivity",
    )
    .map(|_| ())
}

/// Parses the answer to a user's creation and compares it with the requested name.
pub(crate) fn created_user(body: &[u8], name: &str) -> Result<User, String> {
    let user = one_user(required(json::<OneUser>(body)?.user, "user")?)?;
    checks::created_user(user, name)
}

/// Parses the answer to a node's renaming and compares it with the request.
pub(crate) fn renamed_node(body: &[u8], id: NodeId, name: &str) -> Result<Node, String> {
    let node = one_node(required(json::<OneNode>(body)?.node, "node")?)?;
    checks::renamed_node(node, id, name)
}

/// Parses the answer to an API key's creation, which is only its value.
pub(crate) fn minted_api_key(body: &[u8]) -> Result<MintedApiKey, String> {
    let value = required(json::<OneApiKey>(body)?.api_key, "apiKey")?;
    checks::minted_api_key(KeyValue::new(value))
}

/// Parses an empty answer.
pub(crate) fn nothing(body: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct AnyValue {}
    json::<AnyValue>(body).map(|AnyValue {}| ())
}

/// Parses the answer to a key's creation and compares it with the request.
pub(crate) fn minted(body: &[u8], asked: &NewPreAuthKey) -> Result<MintedKey, String> {
    let key = required(json::<OnePreAuthKey>(body)?.pre_auth_key, "preAuthKey")?;
    let (key, value) = one_key(key)?;
    checks::minted(key, value, asked)
}

/// Returns the message in an error's body: a gateway's `message`, or a problem's `detail` or `title`.
pub(crate) fn message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct ServerRefusal {
        message: Option<String>,
        detail: Option<String>,
        title: Option<String>,
        #[serde(default)]
        errors: Option<Vec<Detail>>,
    }
    #[derive(Deserialize)]
    struct Detail {
        message: Option<String>,
        location: Option<String>,
    }
    let ServerRefusal {
        message,
        detail,
        title,
        errors,
    } = serde_json::from_slice(body).ok()?;
    let mut text = message.or(detail).or(title)?;
    for Detail { message, location } in errors.into_iter().flatten() {
        if let Some(message) = message {
            text.push_str(": ");
            text.push_str(&message);
        }
        if let Some(location) = location {
            text.push_str(" at ");
            text.push_str(&location);
        }
    }
    Some(text)
}

/// Describes an undecodable body without quoting it: it may contain a key.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    json_of(body, body.len())
}

/// The same for a body of `length` bytes that is no longer complete.
fn json_of<T: DeserializeOwned>(body: &[u8], length: usize) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| {
        let start = body.trim_ascii_start();
        if start.is_empty() {
            "an empty body".to_owned()
        } else if start.starts_with(b"<") {
            "a web page".to_owned()
        } else if error.is_eof() {
            format!("JSON that ends early, after {length} bytes")
        } else if error.is_data() {
            // serde_json's own text may quote the value, and the value may be the key.
            format!(
                "JSON with a field of another type, at byte {}",
                error.column()
            )
        } else {
            format!("{length} bytes that are not JSON")
        }
    })
}

fn required<T>(field: Option<T>, name: &str) -> Result<T, String> {
    field.ok_or_else(|| format!("JSON without {name:?}"))
}

fn id(field: Option<BoundedText<LONGEST_NAME>>, name: &str) -> Result<Id, String> {
    let BoundedText(text) = required(field, name)?;
    match text.parse::<u64>() {
        Ok(0) | Err(_) => Err(format!("a {name:?} that is not a positive number")),
        Ok(id) => Ok(id.into()),
    }
}

fn one_user(body: UserBody) -> Result<User, String> {
    let UserBody {
        id: user_id,
        name,
        display_name,
        provider,
        provider_id,
        created_at,
    } = body;
    Ok(User {
        created_at,
        id: UserId(id(user_id, "user.id")?),
        name: required(name, "user.name")?.0,
        display_name: display_name
            .map(|BoundedText(text)| text)
            .unwrap_or_default(),
        from_provider: [provider, provider_id]
            .into_iter()
            .flatten()
            .any(|BoundedText(text)| !text.is_empty()),
    })
}

fn one_key(body: PreAuthKeyBody) -> Result<(PreAuthKey, Option<KeyValue>), String> {
    let PreAuthKeyBody {
        user,
        id: key_id,
        key,
        reusable,
        ephemeral,
        used,
        expiration,
        created_at,
        acl_tags,
    } = body;
    let prefix = key.as_deref().and_then(KeyPrefix::shown);
    let value = key.map(KeyValue::new);
    let key = PreAuthKey {
        prefix,
        id: KeyId(id(key_id, "preAuthKey.id")?),
        user: user
            .map(|user| id(user.id, "user.id"))
            .transpose()?
            .map(UserId),
        reusable: required(reusable, "preAuthKey.reusable")?,
        ephemeral: required(ephemeral, "preAuthKey.ephemeral")?,
        used: required(used, "preAuthKey.used")?,
        expiration,
        created_at,
        tags: acl_tags.unwrap_or_default().0,
    };
    Ok((key, value))
}

fn one_node(body: NodeBody) -> Result<Node, String> {
    let NodeBody {
        id: node_id,
        name,
        given_name,
        user,
        online,
        pre_auth_key,
        tags,
        created_at,
        last_seen,
        expiry,
    } = body;
    Ok(Node {
        id: NodeId(id(node_id, "node.id")?),
        name: required(name, "node.name")?.0,
        given_name: given_name.map(|BoundedText(text)| text).unwrap_or_default(),
        user: user
            .map(|user| id(user.id, "user.id"))
            .transpose()?
            .map(UserId),
        online: required(online, "node.online")?,
        pre_auth_key: pre_auth_key
            .map(|key| id(key.id, "node.preAuthKey.id"))
            .transpose()?
            .map(KeyId),
        tags: tags.unwrap_or_default().0,
        created_at,
        last_seen,
        expiry: expiry.filter(|&end| end > Timestamp::UNIX_EPOCH),
    })
}

fn one_api_key(body: ApiKeyBody) -> Result<ApiKey, String> {
    let ApiKeyBody {
        id: key_id,
        prefix,
        expiration,
        created_at,
        last_seen,
    } = body;
    let BoundedText(shown) = required(prefix, "apiKey.prefix")?;
    // A row of another form is foreign, and no reason to refuse the whole list.
    let prefix = listed_prefix(&shown).unwrap_or(&shown).to_owned();
    Ok(ApiKey {
        id: ApiKeyId(id(key_id, "apiKey.id")?),
        prefix,
        expiration,
        created_at,
        last_seen,
    })
}

/// Tags, up to a maximum.
#[derive(Default)]
struct Tags(Vec<String>);

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Tags;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Tags, A::Error> {
                let mut tags = Vec::new();
                while tags.len() < MOST_TAGS {
                    let Some(BoundedText(tag)) =
                        array.next_element::<BoundedText<LONGEST_TAG>>()?
                    else {
                        return Ok(Tags(tags));
                    };
                    tags.push(tag);
                }
                while array.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Tags(tags))
            }
        }

        deserializer.deserialize_seq(Each)
    }
}

#[cfg(test)]
mod tests;
