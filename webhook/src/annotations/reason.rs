//! Reasons why a pod is denied or skipped: bounded labels, and the text for its author. Pure.

/// Reason why a pod is denied, with the text for its author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Kind of problem, a bounded label.
    pub reason: DenyReason,
    /// Names the annotation, the value, what is accepted and what to do.
    pub message: String,
}

/// Reason why a pod is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// An annotation's value cannot be read.
    BadValue,
    /// No container of the pod can be identified as Headscale, or it lacks what injection requires.
    NoHeadscale,
    /// The profile or control plane does not allow it, or does not exist.
    NotAllowed,
    /// No service name can be derived.
    NoService,
    /// Known, but not supported yet.
    NotSupported,
    /// The pod has more of something than is read, and more than any real pod has.
    TooLarge,
}

/// Reason why a pod is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Our receipt and container are present.
    AlreadyInjected,
    /// `inject: "false"`, or the namespace is disabled.
    Disabled,
    /// A hand-written container does the sidecar's work.
    HandMade,
    /// `hostNetwork: true`.
    HostNetwork,
    /// The author has to correct something, and the profile lets the pod start anyway.
    Invalid,
    /// A mirror pod of a static pod.
    MirrorPod,
    /// A container or volume has a name that Sidescale uses.
    NameTaken,
    /// Its namespace opts in, and no service name can be derived.
    NoService,
    /// Nothing asks for a sidecar.
    NotRequested,
    /// Not the creation of a pod.
    NotAPodCreate,
    /// The operator stopped all injection.
    SwitchedOff,
    /// A Windows pod.
    Windows,
}

impl DenyReason {
    /// Returns the bounded label for metrics and audit annotations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadValue => "badValue",
            Self::NoHeadscale => "noHeadscale",
            Self::NotAllowed => "notAllowed",
            Self::NoService => "noService",
            Self::NotSupported => "notSupported",
            Self::TooLarge => "tooLarge",
        }
    }
}

impl SkipReason {
    /// Returns the warning for the pod's creator; nothing if skipping is what was asked.
    pub(crate) fn remark(self) -> Option<&'static str> {
        match self {
            Self::HostNetwork => Some("no sidecar: pods with hostNetwork are not supported"),
            Self::NameTaken => Some(
                "no sidecar: a container is named 'tailscale', or a volume's name begins with 'sidescale-'; rename it",
            ),
            Self::NoService => Some(
                "no sidecar: no service name can be derived from this pod, set annotation 'sidescale.io/service'",
            ),
            Self::SwitchedOff => {
                Some("no sidecar: the operator switched injection off with webhook.inject: false")
            }
            Self::Windows => Some("no sidecar: Windows pods are not supported"),
            Self::NotRequested => Some(
                "no sidecar: nothing requests one, set annotation 'sidescale.io/inject' to 'tailscale'",
            ),
            // Hand-written or invalid configuration is named where it is found.
            Self::HandMade
            | Self::Invalid
            | Self::AlreadyInjected
            | Self::Disabled
            | Self::MirrorPod
            | Self::NotAPodCreate => None,
        }
    }

    /// Returns the bounded label for metrics, audit annotations and the receipt.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyInjected => "reinvoked",
            Self::Disabled => "disabled",
            Self::HandMade => "handMade",
            Self::HostNetwork => "hostNetwork",
            Self::Invalid => "invalid",
            Self::MirrorPod => "mirrorPod",
            Self::NameTaken => "nameTaken",
            Self::NoService => "noService",
            Self::NotRequested => "notRequested",
            Self::NotAPodCreate => "notAPodCreate",
            Self::SwitchedOff => "switchedOff",
            Self::Windows => "windows",
        }
    }
}
