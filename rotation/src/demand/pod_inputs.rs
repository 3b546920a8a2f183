//! All parts of a pod that decide its key, and how the webhook's decision is repeated from them. Pure.

use std::collections::BTreeSet;
use std::fmt;

use sidescale_webhook::annotations::{Lookup, deciding};
use sidescale_webhook::identity::{self, POD_SECRET, WorkloadOwner};
use sidescale_webhook::keys::{CONTROL_PLANE, KEY_MODE, PREFIX, SERVICE, STATUS};
use sidescale_webhook::sidecar::{Done, Injected, Receipt};

use crate::workload::Workload;

/// Labels that the identity is read from.
const IDENTITY_LABELS: [&str; 2] = ["pod-template-hash", "rollouts-pod-template-hash"];

/// Longer than any owner name that a service is read from: the API server accepts one of a megabyte.
const LONGEST_OWNER: usize = 320;

/// Everything that decides a pod's key. The pods of one ReplicaSet share one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodInputs {
    annotations: Vec<(Box<str>, Box<str>)>,
    pub(super) labels: Vec<(Box<str>, Box<str>)>,
    pub(super) owner: Option<(Box<str>, Box<str>)>,
    owner_uid: Option<u128>,
    // Empty if the pod has an owner.
    pub(super) name: Box<str>,
}

impl PodInputs {
    /// Extracts what decides from a pod's metadata, including the labels in `selecting`, which may select a profile.
    ///
    /// All other labels are dropped, since some of them differ on every pod.
    #[must_use]
    pub fn new<'a>(
        name: &str,
        annotations: impl Iterator<Item = (&'a str, &'a str)>,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        owner: Option<WorkloadOwner<'_>>,
        selecting: &BTreeSet<&str>,
    ) -> Self {
        let owner = owner.map(|WorkloadOwner { kind, name }| WorkloadOwner {
            kind: cut(kind),
            name: cut(name),
        });
        let mut shape = Self {
            annotations: annotations
                .filter_map(|(key, value)| Some((key, deciding(key, value)?)))
                .map(boxed)
                .collect(),
            labels: labels
                .filter(|(key, _)| IDENTITY_LABELS.contains(key) || selecting.contains(key))
                .map(boxed)
                .collect(),
            owner: owner.map(|owner| boxed((owner.kind, owner.name))),
            owner_uid: None,
            name: if owner.is_none() {
                name.into()
            } else {
                Box::default()
            },
        };
        shape.annotations.sort();
        shape.labels.sort();
        shape
    }

    /// Adds the uid of the owner.
    #[must_use]
    pub fn with_owner_uid(mut self, uid: Option<u128>) -> Self {
        self.owner_uid = uid;
        self
    }

    /// Returns how much memory it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        let of_pair = |(key, value): &(Box<str>, Box<str>)| {
            size_of::<(Box<str>, Box<str>)>() + key.len() + value.len()
        };
        let pairs = self
            .annotations
            .iter()
            .chain(&self.labels)
            .chain(&self.owner);
        size_of::<Self>() + pairs.map(of_pair).sum::<usize>() + self.name.len()
    }

    /// Returns the workload of these pods, if known.
    pub(super) fn workload(&self) -> Option<Workload> {
        let Some((kind, name)) = &self.owner else {
            return Some(Workload::pod(&self.name));
        };
        let hashes = IDENTITY_LABELS.map(|label| find(&self.labels, label));
        Workload::of_owner(kind, name, self.owner_uid, hashes)
    }

    /// Returns the key that the pod refers to, as the webhook recorded it.
    pub(super) fn receipt(&self) -> Option<Injected<'_>> {
        self.injected().filter(|injected| !injected.own_key)
    }

    /// Returns the Secret and data key that the pod refers to, and whether the pod's author supplies the key.
    pub(super) fn reference(&self) -> Option<(String, String, bool)> {
        let injected = self.injected()?;
        let Injected {
            secret,
            data_key,
            own_key,
            ..
        } = injected;
        Some((secret.into_owned(), data_key.into_owned(), own_key))
    }

    /// Returns what the webhook injected by its receipt; none if it skipped the pod.
    fn injected(&self) -> Option<Injected<'_>> {
        let receipt = self.whole_receipt()?;
        match receipt.decision {
            Done::Inject => receipt.injected,
            Done::Skip => None,
        }
    }

    /// Returns whether the webhook injected something other than a Tailscale sidecar.
    pub(super) fn needs_no_key(&self) -> bool {
        self.whole_receipt()
            .is_some_and(|receipt| receipt.decision == Done::Inject && receipt.injected.is_none())
    }

    /// Returns the webhook's receipt.
    pub(super) fn whole_receipt(&self) -> Option<Receipt<'_>> {
        let (_, text) = self.annotations.iter().find(|(key, _)| &**key == STATUS)?;
        Receipt::parse(text).ok()
    }
}

/// Returns the digits in the data key of a single pod's key; none for a shared key.
pub(super) fn own_digits<'r>(receipt: &'r Injected<'_>) -> Option<&'r str> {
    let Injected {
        service,
        control_plane,
        secret,
        data_key,
        own_key: _,
    } = receipt;
    let own = secret == POD_SECRET;
    identity::digits_of(data_key, service, control_plane).filter(|_| own)
}

/// A pod's annotations, with service, control plane and kind of key replaced by those of the receipt.
#[derive(Clone, Copy)]
pub(super) struct ReceiptOverlay<'a> {
    pub(super) shape: &'a PodInputs,
    pub(super) receipt: &'a Injected<'a>,
}

impl fmt::Debug for ReceiptOverlay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shape.annotations.fmt(f)
    }
}

impl ReceiptOverlay<'_> {
    fn key_mode(&self) -> &'static str {
        if self.receipt.secret == POD_SECRET {
            "per-pod"
        } else {
            "shared"
        }
    }
}

impl Lookup for ReceiptOverlay<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        match key {
            KEY_MODE => Some(self.key_mode()),
            SERVICE => Some(&self.receipt.service),
            CONTROL_PLANE => Some(&self.receipt.control_plane),
            STATUS => None,
            other => find(&self.shape.annotations, other),
        }
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        let replaced = [SERVICE, CONTROL_PLANE, KEY_MODE, STATUS];
        let rest = self
            .shape
            .annotations
            .iter()
            .map(|(key, value)| (&**key, &**value));
        let receipt = [
            (SERVICE, &*self.receipt.service),
            (CONTROL_PLANE, &*self.receipt.control_plane),
            (KEY_MODE, self.key_mode()),
        ];
        Box::new(
            receipt
                .into_iter()
                .chain(rest.filter(move |(key, _)| !replaced.contains(key))),
        )
    }
}

#[derive(Debug)]
pub(super) struct PodLabels<'a>(pub(super) &'a [(Box<str>, Box<str>)]);

impl Lookup for PodLabels<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        find(self.0, key)
    }

    fn ours(&self) -> Box<dyn Iterator<Item = (&str, &str)> + '_> {
        Box::new(
            self.0
                .iter()
                .map(|(key, value)| (&**key, &**value))
                .filter(|(key, _)| key.starts_with(PREFIX)),
        )
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_OWNER)]
}

fn boxed((key, value): (&str, &str)) -> (Box<str>, Box<str>) {
    (key.into(), value.into())
}

fn find<'a>(entries: &'a [(Box<str>, Box<str>)], key: &str) -> Option<&'a str> {
    entries
        .iter()
        .find(|(name, _)| &**name == key)
        .map(|(_, value)| &**value)
}
