//! What is not as it should be: told to people, with the command that mends it, and evicted if they want that. I/O.

use jiff::Timestamp;
use sidescale_webhook::identity::POD_SECRET;
use sidescale_webhook::profile::OnLost;
use tracing::{debug, info, warn};

use super::Keeper;
use super::unstarted::{Reference, Source, notice};
use crate::clock::after;
use crate::events::{About, Notice};
use crate::pods::{Evicted, PodFound};
use crate::rotation::fleet::Member;
use crate::rotation::may_be_a_key;
use crate::rotation::nodes::{Finding, NodeState, Place};
use crate::rotation::record::Record;

/// The container that is a node.
pub(super) const CONTAINER: &str = "tailscale";

/// Evictions are at least this far apart.
const EVICT_GAP: std::time::Duration = std::time::Duration::from_secs(10);

/// So many pods of one finding are read and told of.
const MOST_TOLD: usize = 5;

impl Keeper {
    /// Tells of a finding, and evicts a lost pod if its time has come.
    pub(super) async fn found(&mut self, control_plane: &str, finding: &Finding) {
        if finding.tell {
            self.tell(control_plane, finding).await;
        }
        let evict = self.context.policy.rotation.on_lost == OnLost::Evict;
        let sure = finding.state == NodeState::Lost && finding.is_certain() && !finding.expecting;
        let now = self.context.clock.now();
        let paused = self.context.policy.rotation.paused;
        if let (Some(place), Some(pod)) = (&finding.place, finding.pods.first())
            && evict
            && sure
            && !paused
            && now >= self.evict_from
        {
            self.evict(place, pod, now).await;
        }
    }

    async fn tell(&self, control_plane: &str, finding: &Finding) {
        let Finding {
            state,
            user,
            place,
            count,
            of,
            ..
        } = finding;
        let state_name = state.as_str();
        let Some(place) = place else {
            let nodes = ids(finding);
            warn!(
                control_plane,
                user,
                state = state_name,
                count,
                nodes,
                "Nodes are online with keys of a user of ours that has no pod"
            );
            return;
        };
        let (namespace, service) = (&place.namespace, &place.service);
        if *state == NodeState::Uninvited {
            let note = uninvited(control_plane, finding, place, &self.context.flags);
            warn!(
                control_plane,
                namespace,
                service,
                state = state_name,
                count,
                of,
                note,
                "Nodes"
            );
            self.publish(place, About::secret(&place.secret), *state, note)
                .await;
            return;
        }
        let (there, lacking) = self.read(finding, place).await;
        if there.is_empty() && lacking.is_empty() {
            return;
        }
        warn!(
            control_plane,
            namespace,
            service,
            state = state_name,
            count,
            of,
            "Pods"
        );
        for notice in &lacking {
            self.context.events.publish(notice).await;
        }
        if there.is_empty() {
            return;
        }
        if finding.is_certain() {
            for (pod, container) in there {
                let note = match state {
                    NodeState::Lost => lost(place, pod),
                    NodeState::Late | NodeState::Joined | NodeState::Uninvited => {
                        late(place, pod, &container, self.context.clock.now())
                    }
                };
                let about = About::pod(&pod.name, pod.uid);
                self.publish(place, about, *state, note).await;
            }
        } else {
            let pods: Vec<_> = there.into_iter().map(|(pod, _)| pod).collect();
            let note = one_of(finding, place, &pods);
            self.publish(place, About::secret(&place.secret), *state, note)
                .await;
        }
    }

    /// Reads the first pods of a finding: those that are there, and what to tell of late ones that lack a Secret.
    async fn read<'a>(
        &self,
        finding: &'a Finding,
        place: &Place,
    ) -> (Vec<(&'a Member, String)>, Vec<Notice>) {
        let Place {
            namespace,
            service: _,
            secret,
            data_key,
        } = place;
        let (mut there, mut lacking) = (Vec::new(), Vec::new());
        for pod in finding.pods.iter().take(MOST_TOLD) {
            let pods = &self.context.pods;
            match pods.read(namespace, &pod.name, pod.uid, CONTAINER).await {
                PodFound::Gone => {}
                PodFound::There {
                    lack: Some(lack), ..
                } if finding.state == NodeState::Late => {
                    // Of this one it is certain, whatever can be said of the others.
                    let standing = self.standings.of(namespace, secret, data_key);
                    let source = Source::Rotation(standing);
                    let reference = Reference::new(namespace, pod, (secret, data_key), source);
                    lacking.push(notice(&reference, &lack));
                }
                PodFound::There { container, .. } => there.push((pod, container)),
                PodFound::Unknown(_) => there.push((pod, "unknown".to_owned())),
            }
        }
        (there, lacking)
    }

    async fn publish(&self, place: &Place, about: About, state: NodeState, note: String) {
        let notice = Notice {
            namespace: place.namespace.clone(),
            about,
            warning: true,
            reason: state.as_str(),
            note,
        };
        self.context.events.publish(&notice).await;
    }

    /// Evicts a pod whose controller makes another, if that one will find a key.
    async fn evict(&mut self, place: &Place, pod: &Member, now: Timestamp) {
        let (namespace, name) = (&place.namespace, &pod.name);
        let pods = &self.context.pods;
        match pods.read(namespace, name, pod.uid, CONTAINER).await {
            PodFound::There {
                controlled: true, ..
            } => {}
            PodFound::There {
                controlled: false, ..
            }
            | PodFound::Gone => return,
            PodFound::Unknown(trouble) => {
                debug!(namespace, %name, trouble, "Lost pod cannot be read");
                return;
            }
        }
        if !self.has_key(place, now).await {
            debug!(namespace, %name, "Lost pod stays: there is no valid key for the next one");
            return;
        }
        self.evict_from = after(now, EVICT_GAP);
        let evicted = pods.evict(namespace, name, pod.uid).await;
        match evicted {
            Evicted::Yes => info!(namespace, %name, "Evicted a pod that lost its node"),
            Evicted::NotNow => debug!(namespace, %name, "A disruption budget keeps a lost pod"),
            Evicted::No(trouble) => {
                let note = format!(
                    "pod {namespace}/{name} lost its node and was not evicted: {trouble}; the account needs create \
                     on pods/eviction, which the chart gives with rotation.onLost: evict"
                );
                warn!(namespace, %name, trouble, "Lost pod was not evicted");
                let about = About::pod(name, pod.uid);
                self.publish(place, about, NodeState::Lost, note).await;
            }
        }
    }

    /// Whether the Secret holds a key that is good for a while.
    async fn has_key(&self, place: &Place, now: Timestamp) -> bool {
        // The next pod gets its own, and its control plane has just answered.
        if place.secret == POD_SECRET {
            return true;
        }
        let read = self.context.store.read(&place.namespace, &place.secret);
        let Ok(Some(secret)) = read.await else {
            return false;
        };
        let filled = secret
            .data
            .get(&place.data_key)
            .is_some_and(|value| may_be_a_key(value));
        let record = Record::of(&secret).unwrap_or_default();
        let current = record
            .keys
            .get(&place.data_key)
            .and_then(|key| key.current.as_ref());
        filled && current.is_some_and(|current| now < current.expires)
    }
}

/// The command that mends a lost pod, for pasting. By name: with a shared process namespace 1 is another's.
fn restart(place: &Place, pod: &str) -> String {
    let namespace = &place.namespace;
    if place.secret == POD_SECRET {
        return format!("kubectl delete pod -n {namespace} {pod}");
    }
    format!("kubectl exec -n {namespace} {pod} -c {CONTAINER} -- killall containerboot")
}

fn lost(place: &Place, pod: &Member) -> String {
    let command = restart(place, &pod.name);
    let mends = if place.secret == POD_SECRET {
        "its key worked once, so that nothing but another pod joins again"
    } else {
        "nothing but a restart of the container brings the node back"
    };
    format!(
        "the node of this pod is gone from the tailnet. The pod stays Ready and its container says it is healthy: \
         {mends}: {command}"
    )
}

fn late(place: &Place, pod: &Member, container: &str, now: Timestamp) -> String {
    let namespace = &place.namespace;
    let seconds = now.duration_since(pod.created).as_secs();
    let name = &pod.name;
    let mut note = format!(
        "this pod has no node in the tailnet {seconds} s after it was made; its container {CONTAINER} is {container}"
    );
    if container.starts_with("running") {
        let command = restart(place, name);
        note.push_str(&format!(
            ". kubectl logs -n {namespace} {name} -c {CONTAINER} says why; if its node was removed: {command}"
        ));
    } else {
        note.push_str(&format!(
            ". kubectl describe pod -n {namespace} {name} says why"
        ));
    }
    note
}

fn one_of(finding: &Finding, place: &Place, pods: &[&Member]) -> String {
    let service = &place.service;
    let what = match finding.state {
        NodeState::Lost => "lost their node",
        NodeState::Late | NodeState::Joined | NodeState::Uninvited => "have no node yet",
    };
    let (count, of) = (finding.count, finding.of);
    let commands: Vec<_> = pods.iter().map(|pod| restart(place, &pod.name)).collect();
    format!(
        "{count} of {of} pods of service {service} {what}; they share a hostname, so nobody can tell which. \
         One by one, until {of} nodes are online: {}",
        commands.join("; ")
    )
}

fn uninvited(control_plane: &str, finding: &Finding, place: &Place, flags: &str) -> String {
    let Place {
        namespace,
        service,
        secret,
        data_key: _,
    } = place;
    let (count, of, user) = (finding.count, finding.of, &finding.user);
    let nodes = ids(finding);
    let end = if secret == POD_SECRET {
        "Each of its keys works once, so that a pod has none left".to_owned()
    } else {
        format!("End that key: sidescale rotate --now --revoke {namespace}/{service}{flags}")
    };
    format!(
        "{of} nodes of user {user} of control plane {control_plane} are online, {count} more than service {service} has \
         pods: somebody joined with its key. {end}; then find the stranger among nodes {nodes}, and remove it: headscale nodes delete --identifier ID"
    )
}

fn ids(finding: &Finding) -> String {
    let nodes = finding.nodes.iter().rev().take(2 * MOST_TOLD);
    let nodes: Vec<_> = nodes.map(|node| node.0.to_string()).collect();
    nodes.join(", ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};
    use crate::cluster;
    use crate::control_plane::NodeId;

    #[test]
    fn a_stranger_is_told_with_the_command_that_ends_its_key() {
        let place = Place {
            namespace: "shop".into(),
            service: "api".into(),
            secret: "headscale-auth-keys".into(),
            data_key: "api-authkey".into(),
        };
        let finding = Finding {
            state: NodeState::Uninvited,
            user: "shop.api".into(),
            place: Some(place.clone()),
            count: 1,
            of: 3,
            pods: Vec::new(),
            nodes: vec![NodeId(4), NodeId(7), NodeId(9)],
            expecting: false,
            tell: true,
        };
        for (namespace, release) in [("sidescale", "sidescale"), ("tailnet", "prod")] {
            let flags = cluster::flags(namespace, release);
            let note = uninvited("default", &finding, &place, &flags);
            assert!(
                note.contains("9, 7, 4") && note.contains("--identifier ID"),
                "{note}"
            );
            let (_, rest) = note.split_once("End that key: ").unwrap();
            let (command, _) = rest.split_once(';').unwrap();
            let Command::Rotate(args) = Args::try_parse_from(command.split(' ')).unwrap().command
            else {
                panic!("{command}");
            };
            assert_eq!(args.targets, ["shop/api".parse().unwrap()]);
            assert!(args.revoke && args.now);
            assert_eq!(args.release.namespace, namespace);
            assert_eq!(args.release.access.release_name, release);
        }
    }

    #[test]
    fn a_pod_whose_key_worked_once_is_mended_by_another_pod() {
        let pod = Member {
            created: Timestamp::UNIX_EPOCH,
            uid: 1,
            name: "api-x".into(),
        };
        for (secret, command) in [
            (
                "headscale-auth-keys",
                "kubectl exec -n shop api-x -c tailscale -- killall containerboot",
            ),
            (POD_SECRET, "kubectl delete pod -n shop api-x"),
        ] {
            let place = Place {
                namespace: "shop".into(),
                service: "api".into(),
                secret: secret.into(),
                data_key: "api-0123456789ab-authkey".into(),
            };
            let now = Timestamp::UNIX_EPOCH;
            for note in [lost(&place, &pod), late(&place, &pod, "running", now)] {
                assert!(note.ends_with(command), "{note}");
            }
        }
    }
}
