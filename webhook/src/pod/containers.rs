//! Summary of a list of containers: our names, the ports, the class of service. No container is stored. Pure.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use crate::forms;
use crate::json::each_item;
use crate::keys::{CONTAINER, MANAGER};
use crate::text::Name;

/// First port for the sidecar's health check, tailscale's own default.
pub(crate) const FIRST_PORT: u16 = 9002;
const PORTS: u16 = 64;

/// Container names of a Tailscale sidecar: ours, and those in the manuals and of other tools.
const HAND_MADE: [&str; 3] = [CONTAINER, "ts-sidecar", "tailscale-sidecar"];

/// Summary of a list of containers.
#[derive(Debug)]
pub(crate) struct Containers {
    /// Whether one has the name of a Tailscale sidecar, ours or a hand-written one.
    pub(crate) tailscale: bool,
    /// Whether one has the name of the API key's manager.
    pub(crate) manager: bool,
    /// How many there are.
    pub(crate) count: usize,
    /// Whether the requests of each equal its limits.
    pub(crate) guaranteed: bool,
    /// Bit n: something listens on, or is probed at, port `FIRST_PORT` + n.
    taken: u64,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container<'a> {
    #[serde(borrow)]
    name: Option<Name<'a>>,
    ports: Option<Ports>,
    liveness_probe: Option<Probe>,
    readiness_probe: Option<Probe>,
    startup_probe: Option<Probe>,
    resources: Option<ContainerNeeds>,
}

#[derive(Default)]
struct Ports(u64);

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    container_port: Option<PodPort>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Probe {
    http_get: Option<Target>,
    tcp_socket: Option<Target>,
    grpc: Option<Target>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Target {
    port: Option<PodPort>,
}

/// A port number; 0 for a named port.
struct PodPort(u64);

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerNeeds {
    requests: Option<Amounts>,
    limits: Option<Amounts>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Amounts {
    cpu: Option<Amount>,
    memory: Option<Amount>,
}

/// A quantity in billionths; `None` if it cannot be parsed.
struct Amount(Option<u128>);

impl Containers {
    /// Returns a port that none of these uses, and that is not `other`.
    pub(crate) fn free_port(lists: [Option<&Self>; 2], other: Option<u16>) -> Option<u16> {
        let other = other.map_or(0, |port| PodPort(u64::from(port)).bit());
        let taken = lists
            .into_iter()
            .flatten()
            .fold(other, |taken, list| taken | list.taken);
        let free = u16::try_from(taken.trailing_ones())
            .ok()
            .filter(|free| *free < PORTS)?;
        Some(FIRST_PORT + free)
    }
}

impl ContainerNeeds {
    fn guaranteed(&self) -> bool {
        let Some(limits) = &self.limits else {
            return false;
        };
        let requests = self.requests.as_ref();
        let equal = |request: Option<&Amount>, limit: Option<&Amount>| {
            let limit = limit.and_then(|limit| limit.0).filter(|limit| *limit > 0);
            // Without a request, the limit is the request.
            limit.is_some() && request.is_none_or(|request| request.0 == limit)
        };
        equal(
            requests.and_then(|requests| requests.cpu.as_ref()),
            limits.cpu.as_ref(),
        ) && equal(
            requests.and_then(|requests| requests.memory.as_ref()),
            limits.memory.as_ref(),
        )
    }
}

impl PodPort {
    fn bit(&self) -> u64 {
        let place = self
            .0
            .checked_sub(u64::from(FIRST_PORT))
            .filter(|place| *place < u64::from(PORTS));
        place.map_or(0, |place| 1 << place)
    }
}

impl<'de> Deserialize<'de> for Containers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut all = Self {
            tailscale: false,
            manager: false,
            count: 0,
            guaranteed: true,
            taken: 0,
        };
        each_item(deserializer, |container: Container<'de>| {
            let Container {
                name,
                ports,
                liveness_probe,
                readiness_probe,
                startup_probe,
                resources,
            } = container;
            let name = name.as_deref().unwrap_or_default();
            all.count += 1;
            all.tailscale |= HAND_MADE.contains(&name);
            all.manager |= name == MANAGER;
            all.guaranteed &= resources.is_some_and(|needs| needs.guaranteed());
            all.taken |= ports.map_or(0, |ports| ports.0);
            for Probe {
                http_get,
                tcp_socket,
                grpc,
            } in [liveness_probe, readiness_probe, startup_probe]
                .into_iter()
                .flatten()
            {
                let targets = [http_get, tcp_socket, grpc].into_iter().flatten();
                let bits = targets
                    .filter_map(|target| target.port)
                    .map(|port| port.bit());
                all.taken = bits.fold(all.taken, |taken, bit| taken | bit);
            }
        })?;
        Ok(all)
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut ports = Self(0);
        each_item(deserializer, |port: ContainerPort| {
            ports.0 |= port.container_port.map_or(0, |port| port.bit());
        })?;
        Ok(ports)
    }
}

impl<'de> Deserialize<'de> for PodPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortVisitor)
    }
}

struct PortVisitor;

impl Visitor<'_> for PortVisitor {
    type Value = PodPort;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port by number or name")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<PodPort, E> {
        Ok(PodPort(number))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<PodPort, E> {
        Ok(PodPort(0))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<PodPort, E> {
        Ok(PodPort(0))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AmountVisitor)
    }
}

struct AmountVisitor;

impl Visitor<'_> for AmountVisitor {
    type Value = Amount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Amount, E> {
        Ok(Amount(forms::quantity(text)))
    }

    // The API server writes text; a manifest may hold a number.
    fn visit_u64<E: Error>(self, number: u64) -> Result<Amount, E> {
        Ok(Amount(forms::quantity(&number.to_string())))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Amount, E> {
        Ok(Amount(forms::quantity(&number.to_string())))
    }
}
