//! Data key of a per-pod key, derived before the pod has a name. Pure.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::data_key;

/// Name of the Secret with the per-pod keys, in the namespace of the pods.
pub const POD_SECRET: &str = "headscale-pod-auth-keys";

/// Number of hex digits that distinguish the keys of a service's pods.
const DIGITS: usize = 12;

/// Returns the data key of a per-pod key, `<service>-<12 digits>-authkey`, from the uid of the request that creates the pod.
///
/// The digits come before the control plane's name, as if they were the end of the service's: in a Secret with only
/// such keys, no two are equal.
#[must_use]
pub fn pod_data_key(service: &str, request: &str, control_plane: &str) -> String {
    let mut owner = String::with_capacity(service.len() + 1 + DIGITS);
    owner.push_str(service);
    owner.push('-');
    let digits = request.chars().filter(|c| *c != '-');
    owner.extend(digits.clone().take(DIGITS));
    // The API server sends a UUID; for anything else the digits come from a hash.
    let fits = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if digits.clone().count() < DIGITS || !digits.take(DIGITS).all(fits) {
        owner.truncate(service.len() + 1);
        for byte in &Sha256::digest(request.as_bytes())[..DIGITS / 2] {
            let _ = write!(owner, "{byte:02x}");
        }
    }
    data_key(&owner, control_plane)
}

/// Returns the digits in a data key that [`pod_data_key`] returned for this service; with them it returns the same again.
#[must_use]
pub fn digits_of<'k>(data_key: &'k str, service: &str, control_plane: &str) -> Option<&'k str> {
    let digits = data_key.strip_prefix(service)?.strip_prefix('-')?;
    let digits = digits.get(..DIGITS)?;
    (pod_data_key(service, digits, control_plane) == data_key).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_key_of_one_pod_by_its_request() {
        let uid = "705ab4f5-6393-11e8-b7cc-42010a800002";
        let table = [
            ("api", uid, "default", "api-705ab4f56393-authkey"),
            ("api", "705ab4f56393", "default", "api-705ab4f56393-authkey"),
            ("api.v2", uid, "other", "api.v2-705ab4f56393_other-authkey"),
            // None of these is a UUID.
            ("api", "", "default", "api-e3b0c44298fc-authkey"),
            (
                "api",
                "705AB4F5-6393",
                "default",
                "api-811d51006894-authkey",
            ),
        ];
        for (service, request, plane, want) in table {
            let data_key = pod_data_key(service, request, plane);
            assert_eq!(data_key, want, "{request:?}");
            let digits = digits_of(&data_key, service, plane).unwrap();
            assert_eq!(pod_data_key(service, digits, plane), data_key);
            assert!(data_key.contains(digits));
        }
    }

    #[test]
    fn finds_digits_in_keys_of_single_pods_alone() {
        for (data_key, service, plane) in [
            ("api-authkey", "api", "default"),
            ("api-705ab4f56393-authkey", "ap", "default"),
            ("api-705ab4f56393-authkey", "api", "other"),
            ("api-705ab4f56393_other-authkey", "api", "default"),
            ("api-705AB4F56393-authkey", "api", "default"),
            ("api-705ab4f5639-authkey", "api", "default"),
            ("api-705ab4f563930-authkey", "api", "default"),
            ("api-blau\u{df}en-authkey", "api", "default"),
            ("", "", "default"),
        ] {
            assert_eq!(digits_of(data_key, service, plane), None, "{data_key:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn two_pods_never_share_a_data_key(
            s in "[a-c]([a-c0-9-]{0,14}[a-c0-9])?", t in "[a-c]([a-c0-9-]{0,14}[a-c0-9])?",
            a in "[0-9a-f]{12}", b in "[0-9a-f]{12}",
            p in "(default|x|[a-c0-9]{12})", q in "(default|x|[a-c0-9]{12})",
        ) {
            let same = (&s, &a, &p) == (&t, &b, &q);
            proptest::prop_assert_eq!(pod_data_key(&s, &a, &p) == pod_data_key(&t, &b, &q), same);
        }
    }
}
