//! Settings of the rotation module. Pure.

use std::time::Duration;

use super::value::value;
use crate::forms;
use crate::profile::{OnLost, PolicyError, Rotation, RotationConfig, SHORTEST_LIFE, UserPolicy};

/// Longer than any creation takes: earlier, a key that no Secret contains may still be on its way there.
const SHORTEST_ORPHAN: Duration = Duration::from_secs(300);

/// Longer than a service is usually away.
const SHORTEST_UNUSED: Duration = Duration::from_secs(3600);

/// Checks the settings, and fills their gaps.
pub(super) fn rotation(config: RotationConfig) -> Result<Rotation, PolicyError> {
    let RotationConfig {
        overlap,
        paused,
        max_services_per_namespace,
        min_auth_key_expiration,
        min_pod_auth_key_expiration,
        min_auth_key_renewal_gap,
        keys_per_service,
        keys_per_service_per_hour,
        new_keys_per_namespace,
        new_keys_per_namespace_per_hour,
        pod_keys_per_namespace,
        pod_keys_per_namespace_per_hour,
        max_control_plane_rows,
        unused_keys_after,
        orphaned_keys_after,
        unused_users_after,
        on_lost,
        wake_pods,
        users,
    } = config;
    let mut rotation = Rotation {
        paused,
        on_lost: one_of(
            "onLost",
            on_lost,
            [("report", OnLost::Report), ("evict", OnLost::Evict)],
        )?,
        wake_pods: wake_pods.unwrap_or(true),
        users: one_of(
            "users",
            users,
            [("manage", UserPolicy::Manage), ("never", UserPolicy::Never)],
        )?,
        ..Rotation::default()
    };
    let r = &mut rotation;
    if let Some(services) = max_services_per_namespace {
        // A namespace that loses all its keys gets them again at once, and twice more.
        let each = u32::try_from(services).unwrap_or(u32::MAX);
        r.max_services_per_namespace = positive("maxServicesPerNamespace", services)?;
        r.new_keys_per_namespace = each.saturating_mul(3);
        r.new_keys_per_namespace_per_hour = each;
    }
    let second = Duration::from_secs(1);
    #[rustfmt::skip]
    let durations = [
        ("overlap", overlap, Duration::ZERO, &mut r.overlap),
        ("minAuthKeyExpiration", min_auth_key_expiration, SHORTEST_LIFE, &mut r.min_auth_key_expiration),
        ("minPodAuthKeyExpiration", min_pod_auth_key_expiration, SHORTEST_LIFE, &mut r.min_pod_auth_key_expiration),
        ("minAuthKeyRenewalGap", min_auth_key_renewal_gap, second, &mut r.min_auth_key_renewal_gap),
        ("unusedKeysAfter", unused_keys_after, SHORTEST_UNUSED, &mut r.unused_keys_after),
        ("orphanedKeysAfter", orphaned_keys_after, SHORTEST_ORPHAN, &mut r.orphaned_keys_after),
        ("unusedUsersAfter", unused_users_after, SHORTEST_UNUSED, &mut r.unused_users_after),
    ];
    for (name, text, least, field) in durations {
        *field = at_least(name, text, least, *field)?;
    }
    #[rustfmt::skip]
    let numbers = [
        ("keysPerService", keys_per_service, &mut r.keys_per_service),
        ("keysPerServicePerHour", keys_per_service_per_hour, &mut r.keys_per_service_per_hour),
        ("newKeysPerNamespace", new_keys_per_namespace, &mut r.new_keys_per_namespace),
        ("newKeysPerNamespacePerHour", new_keys_per_namespace_per_hour, &mut r.new_keys_per_namespace_per_hour),
        ("podKeysPerNamespace", pod_keys_per_namespace, &mut r.pod_keys_per_namespace),
        ("podKeysPerNamespacePerHour", pod_keys_per_namespace_per_hour, &mut r.pod_keys_per_namespace_per_hour),
        ("maxControlPlaneRows", max_control_plane_rows, &mut r.max_control_plane_rows),
    ];
    for (name, number, field) in numbers {
        if let Some(number) = number {
            *field = positive(name, number)?;
        }
    }
    Ok(rotation)
}

/// Returns a number that must not be 0.
fn positive<N: Default + PartialEq>(name: &str, number: N) -> Result<N, PolicyError> {
    if number == N::default() {
        let want = "want at least 1; to stop rotation, set rotation.paused";
        return Err(value(format!("rotation.{name}"), "0", want));
    }
    Ok(number)
}

/// Returns a duration that must not be too short.
fn at_least(
    name: &str,
    text: Option<String>,
    least: Duration,
    default: Duration,
) -> Result<Duration, PolicyError> {
    let Some(text) = text else {
        return Ok(default);
    };
    let bad = |want: &str| value(format!("rotation.{name}"), &text, want);
    let given = forms::duration(&text).ok_or_else(|| bad(forms::DURATION))?;
    if given < least {
        return Err(bad(&format!("want at least {}", forms::show(least))));
    }
    Ok(given)
}

/// Returns one of two words; the first is the default.
fn one_of<T>(
    key: &str,
    text: Option<String>,
    [(first, default), (second, other)]: [(&str, T); 2],
) -> Result<T, PolicyError> {
    match text.as_deref() {
        None => Ok(default),
        Some(text) if text == first => Ok(default),
        Some(text) if text == second => Ok(other),
        Some(text) => {
            let want = format!("want {first}, or {second}");
            Err(value(format!("rotation.{key}"), text, &want))
        }
    }
}
