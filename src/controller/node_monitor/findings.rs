//! Reports findings to people, with the command that repairs them, and evicts lost pods if configured. I/O.

use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;
use sidescale_core::key_form::may_be_a_key;
use sidescale_core::notice::{About, Notice, Topic};
use sidescale_core::quote::name;
use sidescale_core::time::after;
use sidescale_rotation::nodes::replicas::PodRef;
use sidescale_rotation::nodes::{NodeFinding, NodeState, PodOwner};
use sidescale_rotation::ownership::record;
use sidescale_webhook::forms::is_dns_label;
use sidescale_webhook::identity::POD_SECRET;
use sidescale_webhook::keys::CONTAINER;
use sidescale_webhook::profile::OnLost;
use tracing::{debug, info, warn};

use super::shared::NodeMonitor;
use super::unstarted::{KeyReference, KeySource, notice};
use crate::pods::{Evicted, PodFound};

/// Minimum time between evictions.
const EVICT_GAP: Duration = Duration::from_secs(10);

/// How often the same finding is repeated while it lasts.
const TELL_EVERY: Duration = Duration::from_secs(3_600);

/// Maximum number of pods of one finding that are read and reported.
const MOST_TOLD: usize = 5;

impl NodeMonitor {
    /// Reports a finding, and evicts a lost pod if one is due. Returns the finding's topics, reported before or not.
    pub(super) async fn found(&self, control_plane: &str, finding: &NodeFinding) -> Vec<Topic> {
        let open = self.report(control_plane, finding).await;
        let evict = self.context.policy.rotation.on_lost == OnLost::Evict;
        let sure = finding.state == NodeState::Lost && finding.is_certain() && !finding.expecting;
        let paused = self.context.policy.rotation.paused;
        if let (Some(place), Some(pod)) = (&finding.place, finding.pods.first())
            && evict
            && sure
            && !paused
        {
            let now = self.context.clock.now();
            if let Some(before) = self.take_turn(now)
                && !self.evict(place, pod, now).await
            {
                self.give_back_turn(now, before);
            }
        }
        open
    }

    /// Reserves the next eviction, if it is due; returns the time that was set before.
    fn take_turn(&self, now: Timestamp) -> Option<Timestamp> {
        let mut from = self
            .evict_from
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (now >= *from).then(|| std::mem::replace(&mut *from, after(now, EVICT_GAP)))
    }

    fn give_back_turn(&self, now: Timestamp, before: Timestamp) {
        let mut from = self
            .evict_from
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *from == after(now, EVICT_GAP) {
            *from = before;
        }
    }

    async fn report(&self, control_plane: &str, finding: &NodeFinding) -> Vec<Topic> {
        let Some(place) = &finding.place else {
            self.report_without_owner(control_plane, finding);
            return Vec::new();
        };
        let topics = topics(finding, place);
        let claimed: Vec<bool> = topics
            .iter()
            .map(|topic| self.context.events.claim(TELL_EVERY, topic))
            .collect();
        if !claimed.contains(&true) {
            return topics;
        }
        if finding.state == NodeState::Uninvited {
            let note = uninvited(control_plane, finding, place, &self.context.flags);
            log(control_plane, finding, place, Some(&note));
            self.send(place, About::secret(&place.secret), finding.state, note);
            return topics;
        }
        let is_certain = finding.is_certain();
        let pods = finding.pods.iter().take(MOST_TOLD).enumerate();
        // If the pods are certain, each was claimed for itself.
        let pods = pods.filter(|(index, _)| !is_certain || claimed.get(*index) == Some(&true));
        let pods = pods.map(|(_, pod)| pod);
        let (there, lacking) = self.read(finding, place, pods).await;
        if there.is_empty() && lacking.is_empty() {
            return topics;
        }
        log(control_plane, finding, place, None);
        for notice in &lacking {
            self.context.events.publish(notice);
        }
        if is_certain {
            for (pod, container) in there {
                let note = match finding.state {
                    NodeState::Lost => lost(place, pod),
                    NodeState::Late | NodeState::Joined | NodeState::Uninvited => {
                        late(place, pod, &container, self.context.clock.now())
                    }
                };
                let about = About::pod(&pod.name, pod.uid);
                self.send(place, about, finding.state, note);
            }
        } else if !there.is_empty() {
            let pods: Vec<_> = there.into_iter().map(|(pod, _)| pod).collect();
            let note = one_of(finding, place, &pods);
            self.send(place, About::secret(&place.secret), finding.state, note);
        }
        topics
    }

    /// Reports nodes of a user without pods: they concern only the operator.
    fn report_without_owner(&self, control_plane: &str, finding: &NodeFinding) {
        let (user, state) = (&finding.user, finding.state.as_str());
        let topic = Topic::other(&format!("user {user} of {control_plane}"), state);
        if !self.context.events.may_log(TELL_EVERY, &topic) {
            return;
        }
        let (count, nodes) = (finding.count, ids(finding));
        warn!(
            control_plane,
            user, state, count, nodes, "Nodes online for a user of Sidescale that has no pods"
        );
    }

    /// Sends the Event of a claimed topic.
    fn send(&self, place: &PodOwner, about: About, state: NodeState, note: String) {
        let topic = topic(place, &about, state);
        let notice = Notice {
            namespace: place.namespace.clone(),
            about,
            warning: true,
            reason: state.as_str(),
            note,
        };
        self.context.events.send(&topic, &notice);
    }

    /// Reads pods of a finding: returns those that exist, and Events about late ones that lack a Secret.
    async fn read<'a>(
        &self,
        finding: &NodeFinding,
        place: &PodOwner,
        pods: impl Iterator<Item = &'a PodRef>,
    ) -> (Vec<(&'a PodRef, String)>, Vec<Notice>) {
        let PodOwner {
            namespace,
            service: _,
            secret,
            data_key,
        } = place;
        let (mut there, mut lacking) = (Vec::new(), Vec::new());
        for pod in pods {
            let api = &self.context.pods;
            match api.read(namespace, &pod.name, pod.uid, CONTAINER).await {
                PodFound::Gone => {}
                PodFound::There {
                    lack: Some(lack), ..
                } if finding.state == NodeState::Late => {
                    // This one is certain, even if the others are not.
                    let status = self.key(namespace, secret, data_key);
                    let source = KeySource::Rotation(status);
                    let reference = KeyReference::new(namespace, pod, (secret, data_key), source);
                    lacking.push(notice(&reference, &lack));
                }
                PodFound::There { container, .. } => there.push((pod, container)),
                PodFound::Unknown(_) => there.push((pod, "unknown".to_owned())),
            }
        }
        (there, lacking)
    }

    /// Evicts a pod if it has a controller and its successor will find a key; returns whether that was tried.
    async fn evict(&self, place: &PodOwner, pod: &PodRef, now: Timestamp) -> bool {
        let (namespace, name) = (&place.namespace, &pod.name);
        let pods = &self.context.pods;
        match pods.read(namespace, name, pod.uid, CONTAINER).await {
            PodFound::There {
                controlled: true, ..
            } => {}
            PodFound::There {
                controlled: false, ..
            }
            | PodFound::Gone => return false,
            PodFound::Unknown(problem) => {
                debug!(namespace, %name, error = problem, "Failed to read lost pod");
                return false;
            }
        }
        if !self.has_key(place, now).await {
            debug!(namespace, %name, "Eviction of lost pod skipped: no valid key for its replacement");
            return false;
        }
        let evicted = pods.evict(namespace, name, pod.uid).await;
        match evicted {
            Evicted::Yes => info!(namespace, %name, "Evicted a pod that lost its node"),
            Evicted::NotNow => {
                debug!(namespace, %name, "Eviction of lost pod blocked by a disruption budget")
            }
            Evicted::No(problem) => {
                let about = About::pod(name, pod.uid);
                let topic = Topic::new(namespace, &about, "evict", NodeState::Lost.as_str());
                if !self.context.events.claim(TELL_EVERY, &topic) {
                    return true;
                }
                let note = format!(
                    "pod {namespace}/{name} lost its node and was not evicted: {problem}; Sidescale's account needs create \
                     on pods/eviction, which the chart grants with rotation.onLost: evict"
                );
                warn!(namespace, %name, error = problem, "Failed to evict lost pod");
                let notice = Notice {
                    namespace: namespace.clone(),
                    about,
                    warning: true,
                    reason: NodeState::Lost.as_str(),
                    note,
                };
                self.context.events.send(&topic, &notice);
            }
        }
        true
    }

    /// Returns whether the Secret contains a valid key.
    async fn has_key(&self, place: &PodOwner, now: Timestamp) -> bool {
        // The next pod gets its own key, and the control plane has just answered.
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
        let record = record(&secret);
        let current = record
            .keys
            .get(&place.data_key)
            .and_then(|key| key.current.as_ref());
        filled && current.is_some_and(|current| now < current.expires)
    }
}

/// Returns the topics of a finding: each of its first pods if they are certain, otherwise their Secret.
fn topics(finding: &NodeFinding, place: &PodOwner) -> Vec<Topic> {
    let state = finding.state;
    if state == NodeState::Uninvited || !finding.is_certain() {
        let about = About::secret(&place.secret);
        return vec![topic(place, &about, state)];
    }
    let pods = finding.pods.iter().take(MOST_TOLD);
    let abouts = pods.map(|pod| About::pod(&pod.name, pod.uid));
    abouts.map(|about| topic(place, &about, state)).collect()
}

fn topic(place: &PodOwner, about: &About, state: NodeState) -> Topic {
    let part = match about {
        // One Secret holds the keys of many services.
        About::Secret(_) => place.data_key.as_str(),
        About::ConfigMap(_) | About::Pod { .. } | About::Workload { .. } => "",
    };
    Topic::new(&place.namespace, about, part, state.as_str())
}

fn log(control_plane: &str, finding: &NodeFinding, place: &PodOwner, note: Option<&str>) {
    let (namespace, service) = (&place.namespace, &place.service);
    let (state, count, of) = (finding.state.as_str(), finding.count, finding.of);
    if let Some(note) = note {
        warn!(
            control_plane,
            namespace, service, state, count, of, note, "Unexpected nodes online"
        );
    } else {
        warn!(
            control_plane,
            namespace, service, state, count, of, "Pods without a node"
        );
    }
}

/// Returns the command that repairs a lost pod. It kills by name: in a shared process namespace, PID 1 is another process.
fn restart(place: &PodOwner, pod: &str) -> String {
    let namespace = &place.namespace;
    if place.secret == POD_SECRET {
        return format!("kubectl delete pod -n {namespace} {pod}");
    }
    format!("kubectl exec -n {namespace} {pod} -c {CONTAINER} -- killall containerboot")
}

fn lost(place: &PodOwner, pod: &PodRef) -> String {
    let command = restart(place, &pod.name);
    let mends = if place.secret == POD_SECRET {
        "its key works only once, so replace the pod"
    } else {
        "restart the container to bring the node back"
    };
    format!(
        "the node of this pod is gone from the tailnet, although the pod is Ready and its container reports that it is \
         healthy; {mends}: {command}"
    )
}

fn late(place: &PodOwner, pod: &PodRef, container: &str, now: Timestamp) -> String {
    let namespace = &place.namespace;
    let seconds = now.duration_since(pod.created).as_secs();
    let name = &pod.name;
    let mut note = format!(
        "this pod has no node in the tailnet {seconds} s after its creation; its container {CONTAINER} is {container}"
    );
    if container.starts_with("running") {
        let command = restart(place, name);
        note.push_str(&format!(
            ". kubectl logs -n {namespace} {name} -c {CONTAINER} shows why; if its node was removed: {command}"
        ));
    } else {
        note.push_str(&format!(
            ". kubectl describe pod -n {namespace} {name} shows why"
        ));
    }
    note
}

fn one_of(finding: &NodeFinding, place: &PodOwner, pods: &[&PodRef]) -> String {
    let service = &place.service;
    let what = match finding.state {
        NodeState::Lost => "lost their node",
        NodeState::Late | NodeState::Joined | NodeState::Uninvited => "have no node yet",
    };
    let (count, of) = (finding.count, finding.of);
    let commands: Vec<_> = pods.iter().map(|pod| restart(place, &pod.name)).collect();
    format!(
        "{count} of {of} pods of service {service} {what}; they share a hostname, so it is unknown which. Run one by one, \
         until {of} nodes are online: {}",
        commands.join("; ")
    )
}

fn uninvited(control_plane: &str, finding: &NodeFinding, place: &PodOwner, flags: &str) -> String {
    let PodOwner {
        namespace,
        service,
        secret,
        data_key: _,
    } = place;
    let (count, of, user) = (finding.count, finding.of, name(&finding.user));
    let nodes = ids(finding);
    let end = if secret == POD_SECRET {
        "Each of its keys works only once, so one of its pods has no key now".to_owned()
    } else if is_dns_label(service) {
        format!("Expire that key: sidescale rotate --now --revoke {namespace}/{service}{flags}")
    } else {
        "Expire that key: sidescale rotate --now --revoke".to_owned()
    };
    format!(
        "{of} nodes of user {user} of control plane {control_plane} are online, {count} more than service {service} has \
         pods: someone else joined with its key. {end}; then find the unexpected node among nodes {nodes}, and delete it: \
         headscale nodes delete --identifier ID"
    )
}

fn ids(finding: &NodeFinding) -> String {
    let nodes = finding.nodes.iter().rev().take(2 * MOST_TOLD);
    let nodes: Vec<_> = nodes.map(|node| node.0.to_string()).collect();
    nodes.join(", ")
}

#[cfg(test)]
mod tests;
