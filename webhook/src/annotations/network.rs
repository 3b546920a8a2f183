//! Network settings of the node: DNS, routes, arguments, a proxy for the app. Pure.

use super::asked::{Allowed, Annotation, Asked};
use super::{DenyReason, Refusal};
use crate::profile::Profile;
use crate::quote;

const PROXY: &str = "want a port from 1024 to 65535, such as 1055, or false";

/// Arguments of `tailscale up` that other annotations, or Sidescale itself, set.
const OURS: [(&str, &str); 16] = [
    ("accept-dns", "set sidescale.io/accept-dns"),
    ("accept-routes", "set sidescale.io/accept-routes"),
    ("advertise-exit-node", ROUTES),
    ("advertise-routes", ROUTES),
    ("advertise-tags", "set sidescale.io/tags"),
    ("audience", KEY),
    ("auth-key", KEY),
    ("authkey", KEY),
    ("client-id", KEY),
    ("client-secret", KEY),
    ("exit-node", ROUTES),
    ("exit-node-allow-lan-access", ROUTES),
    ("hostname", "set sidescale.io/hostname"),
    ("id-token", KEY),
    ("login-server", "set sidescale.io/control-plane"),
    ("reset", "remove it"),
];
const KEY: &str = "the key comes from a Secret, so remove it";
const ROUTES: &str = "routes and exit nodes are not supported yet, so remove it";

/// Boolean arguments of `tailscale up`: Go's `flag` takes no following word as their value.
const SWITCHES: [&str; 9] = [
    "force-reauth",
    "json",
    "qr",
    "report-posture",
    "shields-up",
    "snat-subnet-routes",
    "ssh",
    "stateful-filtering",
    "unattended",
];

/// Returns what to do instead, if `name` is an argument of `tailscale up` that Sidescale sets.
pub(crate) fn of_ours(name: &str) -> Option<&'static str> {
    let found = OURS.iter().find(|(ours, _)| *ours == name);
    found.map(|(_, instead)| *instead)
}

/// Returns whether `name` has the form of an argument's name, without leading dashes.
pub(crate) fn is_argument(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(fits)
}

/// Returns the arguments for `tailscale up`, each allowed by the profile.
///
/// They are read as Go's `flag` reads them: `-x` is `--x`, a value follows `=` or is the next word, and there is no quoting.
pub(super) fn extra_args<'a>(asked: &Asked<'a>, profile: &Profile) -> Result<&'a str, Refusal> {
    let Some(value) = asked.get(Annotation::ExtraArgs) else {
        return Ok("");
    };
    // The kubelet would expand `$(X)`, to the key itself if X is TS_AUTHKEY.
    let fits = |b: u8| b == b' ' || (b.is_ascii_graphic() && !b"$\"'\\`".contains(&b));
    if !value.text.bytes().all(fits) {
        let want = "want arguments of tailscale up, separated by spaces, without quotes, backslashes or $, such as --shields-up";
        return Err(asked.bad(Annotation::ExtraArgs, want));
    }
    let mut takes_a_value = None;
    for word in value.text.split_ascii_whitespace() {
        let Some(name) = word.strip_prefix('-') else {
            let want = match std::mem::take(&mut takes_a_value) {
                Some(name) if SWITCHES.contains(&name) => {
                    format!("--{name} takes no separate value: want --{name} or --{name}=false")
                }
                Some(_) => continue,
                None => {
                    format!(
                        "{} belongs to no argument: want arguments such as --shields-up",
                        quote::shown(word)
                    )
                }
            };
            return Err(asked.bad(Annotation::ExtraArgs, &want));
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        let (name, whole) = name
            .split_once('=')
            .map_or((name, false), |(name, _)| (name, true));
        takes_a_value = Some(name).filter(|_| !whole);
        if !is_argument(name) {
            let want = format!(
                "{} is not an argument: want arguments such as --shields-up",
                quote::shown(word)
            );
            return Err(asked.bad(Annotation::ExtraArgs, &want));
        }
        if let Some(instead) = of_ours(name) {
            let want = format!("--{name} would override what Sidescale sets: {instead}");
            return Err(asked.refuse(DenyReason::NotAllowed, Annotation::ExtraArgs, &want));
        }
        let allowed = &profile.allowed_extra_args;
        if !allowed.iter().any(|allowed| allowed == name) {
            let allowed: Vec<String> = allowed.iter().map(|name| format!("--{name}")).collect();
            let allowed = match asked.allowed(allowed.iter().map(String::as_str)) {
                Allowed::Nothing => "none: remove the annotation".to_owned(),
                Allowed::These(list) => list,
                Allowed::Withheld => "others".to_owned(),
            };
            let name = quote::redacted(name);
            let want = format!(
                "--{name} is not allowed; the profile allows {allowed}, or ask the operator to add it to profiles.{}.allowedExtraArgs",
                asked.profile()
            );
            return Err(asked.refuse(DenyReason::NotAllowed, Annotation::ExtraArgs, &want));
        }
    }
    Ok(value.text)
}

/// Returns the port of the proxy, and whether the app's containers get its environment variables.
pub(super) fn proxy(asked: &Asked<'_>) -> Result<(Option<u16>, bool), Refusal> {
    let port = match asked.get(Annotation::Proxy) {
        None => None,
        Some(value) if value.text == "false" => None,
        Some(value) => {
            let digits = value.text.bytes().all(|b| b.is_ascii_digit());
            let port: Option<u16> = value.text.parse().ok();
            let port = port.filter(|port| digits && *port >= 1024);
            Some(port.ok_or_else(|| asked.bad(Annotation::Proxy, PROXY))?)
        }
    };
    let told = asked.switch(Annotation::ProxyEnv)?.unwrap_or(false);
    // If the pod turns the proxy off, its namespace's `proxy-env` has no effect.
    if told && asked.get(Annotation::Proxy).is_none() {
        let want =
            "there is no proxy: want false, or set sidescale.io/proxy to a port such as 1055";
        return Err(asked.bad(Annotation::ProxyEnv, want));
    }
    Ok((port, told && port.is_some()))
}
