//! Lifetime and renewal interval of a key: who may set which.

use sidescale_webhook::profile::{Config, Rotation};

use super::*;

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

struct Asks<'a> {
    life: Option<&'a str>,
    buffer: Option<&'a str>,
    per_pod: bool,
}

fn of(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns the lifetime and buffer that a pod gets, or its error; `again` is for a running pod.
fn life(asks: &Asks<'_>, policy: &Policy, again: bool) -> Result<(Duration, Duration), String> {
    let mut pairs = vec![("inject", "tailscale")];
    pairs.extend(asks.life.map(|life| ("auth-key-expiration", life)));
    pairs.extend(
        asks.buffer
            .map(|buffer| ("auth-key-rotation-buffer", buffer)),
    );
    pairs.extend(asks.per_pod.then_some(("key-mode", "per-pod")));
    let (annotations, labels) = (ours(&pairs), Pairs(Vec::new()));
    let subject = Subject {
        namespace: "shop",
        name: "api-0",
        annotations: &annotations,
        labels: &labels,
        owner: None,
        namespace_metadata: None,
        namespace_opted_in: false,
        profile: again.then_some("default"),
        caller: Caller::Verified,
        request: "705ab4f5-6393-11e8-b7cc-42010a800002",
    };
    match decide(&subject, policy) {
        Decision::Inject(injection) => {
            let key = managed(injection.tailscale.as_ref().unwrap());
            Ok((key.expiration, key.buffer))
        }
        Decision::Deny(refusal) => Err(refusal.message),
        other => panic!("{other:?}"),
    }
}

fn bounded(most: Option<u64>, rotation: Rotation) -> Policy {
    let mut policy = policy();
    let profile = policy.profiles.get_mut("default").unwrap();
    profile.max_auth_key_expiration = most.map_or(profile.max_auth_key_expiration, of);
    policy.rotation = rotation;
    policy
}

#[test]
fn a_key_lives_and_is_renewed_within_the_bounds() {
    let usual = || bounded(None, Rotation::default());
    let capped = |most| bounded(Some(most), Rotation::default());
    let lowered = || {
        let rotation = Rotation {
            min_auth_key_expiration: of(30),
            min_pod_auth_key_expiration: of(40),
            min_auth_key_renewal_gap: of(5),
            ..Rotation::default()
        };
        bounded(None, rotation)
    };
    let life_is = "annotation \"sidescale.io/auth-key-expiration\" is";
    let buffer_is = "annotation \"sidescale.io/auth-key-rotation-buffer\" is";
    // The request, its bounds, the result, and the result for a pod that already runs.
    let table = [
        (
            usual(),
            None,
            None,
            false,
            Ok((2160 * HOUR, 240 * HOUR)),
            None,
        ),
        (
            usual(),
            Some("1h"),
            Some("40m"),
            false,
            Ok((HOUR, 40 * MINUTE)),
            None,
        ),
        (
            usual(),
            Some("3h"),
            Some("2h"),
            false,
            Ok((3 * HOUR, 2 * HOUR)),
            None,
        ),
        (
            usual(),
            Some("1h"),
            Some("41m"),
            false,
            Err(format!(
                "{buffer_is} \"41m\": want at most 40m: a key with an expiration of 1h is renewed no sooner than 20m after its creation"
            )),
            Some((HOUR, 30 * MINUTE)),
        ),
        (
            usual(),
            Some("30s"),
            Some("29s"),
            false,
            Err(format!("{life_is} \"30s\": want at least 1h")),
            Some((HOUR, 29)),
        ),
        (
            usual(),
            Some("365d1s"),
            None,
            false,
            Err(format!(
                "{life_is} \"365d1s\": want at most 8760h, or ask the operator to raise profiles.default.maxAuthKeyExpiration"
            )),
            Some((8760 * HOUR, 240 * HOUR)),
        ),
        (
            usual(),
            Some("365d"),
            None,
            false,
            Ok((8760 * HOUR, 240 * HOUR)),
            None,
        ),
        (
            usual(),
            Some("240h30m"),
            None,
            false,
            Err(format!(
                "{life_is} \"240h30m\": too short for the rotation buffer of 240h: set \"sidescale.io/auth-key-rotation-buffer\" to at most 239h30m"
            )),
            Some((240 * HOUR + 30 * MINUTE, 120 * HOUR + 15 * MINUTE)),
        ),
        // An operator's bound below the usual lifetime shortens a default.
        (
            capped(720 * HOUR),
            None,
            None,
            false,
            Ok((720 * HOUR, 240 * HOUR)),
            None,
        ),
        (
            capped(24 * HOUR),
            None,
            None,
            false,
            Ok((24 * HOUR, 8 * HOUR)),
            None,
        ),
        (
            capped(24 * HOUR),
            Some("25h"),
            Some("1h"),
            false,
            Err(format!(
                "{life_is} \"25h\": want at most 24h, or ask the operator to raise profiles.default.maxAuthKeyExpiration"
            )),
            Some((24 * HOUR, HOUR)),
        ),
        (
            lowered(),
            Some("30s"),
            Some("20s"),
            false,
            Ok((30, 20)),
            None,
        ),
        (
            lowered(),
            Some("30s"),
            Some("25s"),
            false,
            Ok((30, 25)),
            None,
        ),
        (
            lowered(),
            Some("30s"),
            Some("26s"),
            false,
            Err(format!(
                "{buffer_is} \"26s\": want at most 25s: a key with an expiration of 30s is renewed no sooner than 5s after its creation"
            )),
            Some((30, 15)),
        ),
        // A per-pod key is renewed in its last third, and never lives longer than an hour.
        (usual(), None, None, true, Ok((HOUR, 20 * MINUTE)), None),
        (usual(), Some("5m"), None, true, Ok((5 * MINUTE, 100)), None),
        (
            usual(),
            Some("4m59s"),
            None,
            true,
            Err(format!("{life_is} \"4m59s\": want at least 5m")),
            Some((5 * MINUTE, 100)),
        ),
        (
            capped(HOUR),
            Some("30d"),
            None,
            true,
            Ok((HOUR, 20 * MINUTE)),
            None,
        ),
        (lowered(), Some("45s"), None, true, Ok((45, 15)), None),
    ];
    for (policy, life_asked, buffer, per_pod, want, running) in table {
        let asks = Asks {
            life: life_asked,
            buffer,
            per_pod,
        };
        let about = format!("{life_asked:?} {buffer:?} {per_pod}");
        let in_seconds = |(life, buffer): (Duration, Duration)| (life.as_secs(), buffer.as_secs());
        let found = life(&asks, &policy, false).map(in_seconds);
        assert_eq!(found, want, "{about}");
        // A bound that was changed later takes no key from a pod that has one.
        let again = life(&asks, &policy, true).map(in_seconds);
        let running = running.map_or_else(|| want.clone(), Ok);
        assert_eq!(again, running, "{about}, of a pod that runs");
    }
}

#[test]
fn no_configuration_asks_for_a_life_that_it_forbids() {
    let read = |rest: &str| {
        let text = format!("controlPlanes: {{default: {{loginServer: hs.example.com}}}}\n{rest}");
        let config: Config = serde_saphyr::from_str(&text).unwrap();
        Policy::from_config(config)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let table = [
        ("profiles: {default: {maxAuthKeyExpiration: 1h}}", None),
        (
            "profiles: {default: {maxAuthKeyExpiration: 30m}}",
            Some(
                "profiles.default.maxAuthKeyExpiration is \"30m\": want at least rotation.minAuthKeyExpiration, which is 1h",
            ),
        ),
        (
            "profiles: {default: {maxAuthKeyExpiration: 30m}}\nrotation: {minAuthKeyExpiration: 20m}",
            None,
        ),
        (
            "profiles: {default: {maxAuthKeyExpiration: 24h, annotations: {auth-key-expiration: 48h, auth-key-rotation-buffer: 1h}}}",
            Some(
                "profiles.default.annotations.auth-key-expiration is \"48h\": want at most 24h, or ask the operator to raise profiles.default.maxAuthKeyExpiration",
            ),
        ),
        (
            "profiles: {default: {annotations: {auth-key-expiration: 40s, auth-key-rotation-buffer: 20s}}}",
            Some("profiles.default.annotations.auth-key-expiration is \"40s\": want at least 1h"),
        ),
        (
            "profiles: {default: {annotations: {auth-key-expiration: 40s, auth-key-rotation-buffer: 20s}}}\nrotation: {minAuthKeyExpiration: 30s}",
            None,
        ),
    ];
    for (text, want) in table {
        assert_eq!(read(text).err().as_deref(), want, "{text}");
    }
}
