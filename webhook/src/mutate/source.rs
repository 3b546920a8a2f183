//! Sources for more of a pod than most decisions need: the review of its creation, or the template that it will be created from.
//! Pure.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::bounded::parse;
use crate::pod::{AllLabels, Controller, Details, Labelled, Metadata, Spec, Unread, each_claim};
use crate::review::{Review, read};
use crate::text::Text;

/// Labels that a service is derived from.
const HASHES: [&str; 2] = ["pod-template-hash", "rollouts-pod-template-hash"];

/// Source of the pod.
pub(crate) enum Source<'a> {
    /// In the review of its creation.
    Review(&'a [u8]),
    /// In parts of a workload.
    Template(&'a Template<'a>),
}

/// The template of a workload's pods.
pub(crate) struct Template<'a> {
    pub(crate) metadata: Option<&'a RawValue>,
    pub(crate) spec: Option<&'a RawValue>,
    /// Claims that become volumes.
    pub(crate) claims: Option<&'a RawValue>,
    /// Kind and name of the controller.
    pub(crate) owner: (&'static str, String),
    /// The pod's own name, if it is known.
    pub(crate) name: Option<String>,
    /// Whether the controller labels them with the template's hash.
    pub(crate) hashed: bool,
}

impl<'a> Source<'a> {
    /// Reads the `wanted` labels, and those that a service is derived from.
    ///
    /// # Errors
    /// If the labels are no map of strings.
    pub(super) fn labels<'w>(&self, wanted: &[&'w str]) -> serde_json::Result<AllLabels<'w>>
    where
        'a: 'w,
    {
        let wanted = [wanted, &HASHES[..]].concat();
        match self {
            Self::Review(body) => {
                let review: Review<'w, Labelled<'w>> = read(body)?;
                let labels = review.request.object.and_then(Labelled::labels);
                AllLabels::read(labels, &wanted)
            }
            Self::Template(template) => template.labels(&wanted),
        }
    }

    /// Reads the details needed to change the pod's containers.
    ///
    /// # Errors
    /// If a field is of the wrong kind.
    pub(super) fn details(&self) -> serde_json::Result<Option<Details<'a>>> {
        match self {
            Self::Review(body) => {
                let review: Review<'a, Details<'a>> = read(body)?;
                Ok(review.request.object)
            }
            Self::Template(template) => template.details().map(Some),
        }
    }
}

impl<'a> Template<'a> {
    /// Returns the metadata of a pod, as its controller would write it.
    ///
    /// # Errors
    /// If a field is of the wrong kind.
    pub(crate) fn metadata(&self) -> serde_json::Result<Metadata<'a>> {
        let mut metadata: Metadata<'a> = parts(self.metadata)?;
        let (kind, owner) = &self.owner;
        metadata.owner_references = Some(Controller::of(kind, owner.clone()));
        metadata.generate_name = Some(Cow::<str>::Owned(format!("{owner}-")).into());
        metadata.name = self.name.clone().map(|name| Cow::<str>::Owned(name).into());
        if self.hashed {
            let labels = metadata.labels.get_or_insert_default();
            labels.template_hash = Some(hash());
        }
        Ok(metadata)
    }

    /// Returns the spec of a pod.
    ///
    /// # Errors
    /// If a field is of the wrong kind.
    pub(crate) fn spec(&self) -> serde_json::Result<Spec<'a>> {
        let mut spec: Spec<'a> = parts(self.spec)?;
        each_claim(self.claims, |name| {
            spec.volumes.get_or_insert_default().add(&name);
        });
        Ok(spec)
    }

    fn labels<'w>(&self, wanted: &[&'w str]) -> serde_json::Result<AllLabels<'w>>
    where
        'a: 'w,
    {
        let unread: Unread<'w> = parts(self.metadata)?;
        let mut labels = AllLabels::read(unread.labels, wanted)?;
        if self.hashed {
            labels.set(HASHES[0], hash());
        }
        Ok(labels)
    }

    fn details(&self) -> serde_json::Result<Details<'a>> {
        let mut details = Details {
            spec: parts(self.spec)?,
        };
        // The API server sets it before it calls webhooks.
        details.spec.service_account_name.get_or_insert_default();
        details.spec.claims = self.claims;
        Ok(details)
    }
}

/// Returns a placeholder for the hash that the controller will write.
fn hash<'a>() -> Text<'a> {
    Text(Cow::Borrowed("0"))
}

fn parts<'a, T: serde::Deserialize<'a> + Default>(
    raw: Option<&'a RawValue>,
) -> serde_json::Result<T> {
    raw.map_or_else(|| Ok(T::default()), |raw| parse(raw.get()))
}
