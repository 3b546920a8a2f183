//! Values shared by several parts of a configuration, and how one is refused. Pure.

use crate::profile::config::{NamespacesConfig, RequirementConfig, SelectorConfig};
use crate::profile::{NamespaceScope, Operator, PolicyError, Requirement, Selector};
use crate::{forms, quote};

/// Checks a list of namespaces, or a selector for them.
pub(super) fn namespaces(
    path: String,
    config: NamespacesConfig,
) -> Result<NamespaceScope, PolicyError> {
    match config {
        NamespacesConfig::Names(names) => {
            if let Some(name) = names.iter().find(|name| !forms::is_dns_label(name)) {
                return Err(value(path, name, "want names of namespaces"));
            }
            Ok(NamespaceScope::Names(names))
        }
        NamespacesConfig::Labels(config) => selector(&path, config).map(NamespaceScope::Labels),
    }
}

/// Checks a selector.
pub(super) fn selector(path: &str, config: SelectorConfig) -> Result<Selector, PolicyError> {
    let SelectorConfig {
        match_labels,
        match_expressions,
    } = config;
    let requirements = match_expressions.into_iter().map(|config| {
        let RequirementConfig {
            key,
            operator,
            values,
        } = config;
        let path = format!("{path}.matchExpressions");
        let (operator, needs_values) = match &*operator {
            "In" => (Operator::In, true),
            "NotIn" => (Operator::NotIn, true),
            "Exists" => (Operator::Exists, false),
            "DoesNotExist" => (Operator::DoesNotExist, false),
            _ => {
                let want = "want In, NotIn, Exists or DoesNotExist";
                return Err(value(format!("{path}.operator"), &operator, want));
            }
        };
        if needs_values == values.is_empty() {
            let want = "want values with In and NotIn, and with no other operator";
            return Err(value(format!("{path}.values"), &values.join(","), want));
        }
        Ok(Requirement {
            key,
            operator,
            values,
        })
    });
    Ok(Selector {
        labels: match_labels,
        requirements: requirements.collect::<Result<_, _>>()?,
    })
}

pub(super) fn checked_image(
    path: String,
    image: String,
    such: &str,
) -> Result<String, PolicyError> {
    if !forms::is_image(&image) {
        return Err(value(
            path,
            &image,
            &format!("want an image such as {such}"),
        ));
    }
    Ok(image)
}

pub(super) fn value(path: String, value: &str, want: &str) -> PolicyError {
    PolicyError::Value {
        path,
        value: quote::redacted(value).into_owned(),
        want: want.to_owned(),
    }
}
