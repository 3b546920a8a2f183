//! The Headscale container of a pod, and the user that it runs as. Pure.

use crate::annotations::{DenyReason, Refusal};
use crate::keys::PREFIX;
use crate::pod::{ContainerDetails, Details};

const NAME: &str = "headscale";

/// Maximum number of containers that a message names.
const MOST_NAMES: usize = 16;

/// The Headscale container of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headscale<'a> {
    /// Index among the pod's containers.
    pub(crate) place: usize,
    pub(crate) container: &'a ContainerDetails<'a>,
    pub(crate) user: ContainerUser,
}

/// User that a container runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContainerUser {
    /// `None` if only the image determines it.
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    /// The pod's group, which owns its volumes.
    pub(crate) fs_group: Option<i64>,
    /// Whether root is ruled out.
    pub(crate) non_root: bool,
}

impl<'a> Headscale<'a> {
    /// Finds the container with that name, or the only one.
    pub(crate) fn find(details: &'a Details<'_>, asked: Option<&str>) -> Result<Self, Refusal> {
        let containers = &details.spec.containers;
        let name = asked.unwrap_or(NAME);
        let named = containers
            .iter()
            .position(|container| &*container.name == name);
        let place = match (named, asked) {
            (Some(place), _) => place,
            (None, None) if containers.len() == 1 => 0,
            (None, _) => return Err(not_there(containers, asked)),
        };
        let Some(container) = containers.get(place) else {
            return Err(not_there(containers, asked));
        };
        Ok(Self {
            place,
            container,
            user: user(details, container),
        })
    }
}

fn not_there(containers: &[ContainerDetails<'_>], asked: Option<&str>) -> Refusal {
    let shown = containers.iter().take(MOST_NAMES);
    let names: Vec<&str> = shown.map(|container| &*container.name).collect();
    let mut names = names.join(", ");
    if containers.len() > MOST_NAMES {
        names.push_str(", ...");
    }
    let message = match asked {
        Some(asked) => format!(
            "annotation \"{PREFIX}headscale-container\" is {asked:?}: want one of the pod's containers: {names}"
        ),
        None => format!(
            "no container of the pod is named \"{NAME}\": set annotation \"{PREFIX}headscale-container\" to Headscale's container, one of {names}"
        ),
    };
    Refusal {
        reason: DenyReason::NoHeadscale,
        message,
    }
}

/// Returns the user: the container's settings take precedence over the pod's.
fn user(details: &Details<'_>, container: &ContainerDetails<'_>) -> ContainerUser {
    let pod = details.spec.security_context.unwrap_or_default();
    let own = container.security_context.unwrap_or_default();
    ContainerUser {
        uid: own.run_as_user.or(pod.run_as_user),
        gid: own.run_as_group.or(pod.run_as_group),
        fs_group: pod.fs_group,
        non_root: own.run_as_non_root.or(pod.run_as_non_root) == Some(true),
    }
}

impl ContainerUser {
    /// Returns uid and gid for a container that has to run as the same user: 0:0 if nothing is set, as in Headscale's image.
    pub(crate) fn same(self) -> (Option<i64>, Option<i64>) {
        match self.uid {
            // With root ruled out the image sets a user, and the kubelet would refuse 0.
            None if !self.non_root => (Some(0), self.gid.or(Some(0))),
            uid => (uid, self.gid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(spec: &str) -> Details<'_> {
        serde_json::from_str(spec).unwrap()
    }

    #[test]
    fn finds_headscale_by_its_name_or_as_the_only_container() {
        let one = r#"{"spec": {"containers": [{"name": "app"}]}}"#;
        let two = r#"{"spec": {"containers": [{"name": "app"}, {"name": "headscale"}]}}"#;
        let none = r#"{"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}"#;
        let table = [
            (one, None, Ok(0)),
            (two, None, Ok(1)),
            (two, Some("app"), Ok(0)),
            (
                none,
                None,
                Err(
                    "no container of the pod is named \"headscale\": set annotation \"sidescale.io/headscale-container\" to Headscale's container, one of a, b",
                ),
            ),
            (
                one,
                Some("hs"),
                Err(
                    "annotation \"sidescale.io/headscale-container\" is \"hs\": want one of the pod's containers: app",
                ),
            ),
        ];
        for (pod, asked, want) in table {
            let details = details(pod);
            let found = Headscale::find(&details, asked);
            let place = found
                .as_ref()
                .map(|headscale| headscale.place)
                .map_err(|refusal| refusal.message.as_str());
            assert_eq!(place, want, "{pod} {asked:?}");
        }
    }

    #[test]
    fn knows_whom_headscale_runs_as() {
        let table = [
            ("{}", "{}", (Some(0), Some(0)), false),
            (
                r#"{"runAsUser": 1000, "runAsGroup": 2000}"#,
                "{}",
                (Some(1000), Some(2000)),
                false,
            ),
            (
                r#"{"runAsUser": 1000, "runAsNonRoot": true}"#,
                r#"{"runAsUser": 7, "runAsNonRoot": false}"#,
                (Some(7), None),
                false,
            ),
            ("{}", r#"{"runAsGroup": 5}"#, (Some(0), Some(5)), false),
            (r#"{"runAsNonRoot": true}"#, "{}", (None, None), true),
        ];
        for (pod, own, same, non_root) in table {
            let text = format!(
                r#"{{"spec": {{"securityContext": {pod}, "containers": [{{"name": "headscale", "securityContext": {own}}}]}}}}"#
            );
            let details = details(&text);
            let user = Headscale::find(&details, None).unwrap().user;
            assert_eq!((user.same(), user.non_root), (same, non_root), "{text}");
        }
    }
}
