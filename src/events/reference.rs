//! The object of a notice, in the form of the Events API. Pure.

use k8s_openapi::api::core::v1::ObjectReference;
use sidescale_core::notice::About;

/// Returns the action during which it was noticed.
pub(super) fn action(about: &About) -> &'static str {
    match about {
        About::ConfigMap(_) => "Reload",
        About::Secret(_) | About::Workload { .. } => "Rotate",
        About::Pod { .. } => "Join",
    }
}

/// Returns the reference by which `kubectl describe` finds the Event.
pub(super) fn reference(about: &About, namespace: &str) -> ObjectReference {
    let (api_version, kind, uid) = match about {
        About::ConfigMap(_) => ("v1", "ConfigMap", None),
        About::Secret(_) => ("v1", "Secret", None),
        About::Pod { name: _, uid } => ("v1", "Pod", Some(*uid)),
        About::Workload {
            api_version,
            kind,
            name: _,
            uid,
        } => (*api_version, *kind, *uid),
    };
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(about.name().to_owned()),
        uid: uid.map(|uid| uuid::Uuid::from_u128(uid).to_string()),
        ..ObjectReference::default()
    }
}
