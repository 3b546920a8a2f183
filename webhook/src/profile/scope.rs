//! Namespaces that may name a profile or a control plane, and pods that a profile selects. Pure.

use std::collections::BTreeMap;

use crate::lookup::{Lookup, NamespaceMetadata};

/// Namespaces that something is open to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceScope {
    /// Those with such labels.
    Labels(Selector),
    /// Those with these names.
    Names(Vec<String>),
}

/// Selector by labels, as in Kubernetes: every condition has to be true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels and their values.
    pub labels: BTreeMap<String, String>,
    /// Further conditions on labels.
    pub requirements: Vec<Requirement>,
}

/// Condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What is required of the label.
    pub operator: Operator,
    /// Values to compare with.
    pub values: Vec<String>,
}

/// Operator of a condition on a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label is absent.
    DoesNotExist,
    /// The label is present.
    Exists,
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is absent.
    NotIn,
}

impl NamespaceScope {
    /// Returns whether this namespace is included; one not known yet has no labels.
    pub(crate) fn hold(&self, name: &str, metadata: Option<&NamespaceMetadata>) -> bool {
        match self {
            Self::Names(names) => names.iter().any(|known| known == name),
            Self::Labels(selector) => metadata.is_some_and(|metadata| {
                selector.matches(&|key| metadata.labels.get(key).map(String::as_str))
            }),
        }
    }
}

impl Selector {
    /// Returns whether a pod with these labels is selected.
    pub(crate) fn selects(&self, labels: &dyn Lookup) -> bool {
        self.matches(&|key| labels.value(key))
    }

    /// Returns the labels that it examines.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let required = self.requirements.iter().map(|requirement| &requirement.key);
        self.labels.keys().chain(required).map(String::as_str)
    }

    fn matches<'a>(&self, value: &dyn Fn(&str) -> Option<&'a str>) -> bool {
        let labels = self.labels.iter();
        let mut requirements = self.requirements.iter();
        labels
            .into_iter()
            .all(|(key, wanted)| value(key) == Some(wanted))
            && requirements.all(|requirement| {
                let value = value(&requirement.key);
                let among =
                    || value.is_some_and(|value| requirement.values.iter().any(|one| one == value));
                match requirement.operator {
                    Operator::DoesNotExist => value.is_none(),
                    Operator::Exists => value.is_some(),
                    Operator::In => among(),
                    Operator::NotIn => !among(),
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(labels: &[(&str, &str)]) -> NamespaceMetadata {
        NamespaceMetadata {
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..NamespaceMetadata::default()
        }
    }

    #[test]
    fn selects_as_kubernetes_does() {
        use Operator::{DoesNotExist, Exists, In, NotIn};
        let asks = |key: &str, operator, values: &[&str]| Selector {
            labels: BTreeMap::new(),
            requirements: vec![Requirement {
                key: key.to_owned(),
                operator,
                values: values.iter().map(|value| (*value).to_owned()).collect(),
            }],
        };
        let equal = Selector {
            labels: [("team".to_owned(), "db".to_owned())].into(),
            requirements: Vec::new(),
        };
        let (db, web, none) = (
            metadata(&[("team", "db")]),
            metadata(&[("team", "web"), ("tier", "1")]),
            metadata(&[]),
        );
        let table = [
            (Selector::default(), [true, true, true]),
            (equal, [true, false, false]),
            (asks("team", In, &["db", "x"]), [true, false, false]),
            (asks("team", NotIn, &["db"]), [false, true, true]),
            (asks("team", Exists, &[]), [true, true, false]),
            (asks("team", DoesNotExist, &[]), [false, false, true]),
        ];
        for (selector, want) in table {
            let namespaces = NamespaceScope::Labels(selector);
            let got = [&db, &web, &none].map(|known| namespaces.hold("shop", Some(known)));
            assert_eq!(got, want, "{namespaces:?}");
            assert!(!namespaces.hold("shop", None), "not known yet");
        }
        let names = NamespaceScope::Names(vec!["shop".to_owned()]);
        assert!(names.hold("shop", None) && !names.hold("shop-2", Some(&db)));
    }
}
