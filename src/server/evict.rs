//! Selects the connection to close when all places are taken and a new one arrives. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// How long a handshake, a head or a body may take before its connection counts as half-open. An API server sends each
/// in one go, so even a slow link needs less.
pub(super) const HALF_OPEN: Duration = Duration::from_secs(1);

/// State of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its TLS handshake is not complete.
    Handshake,
    /// No request has arrived on it yet.
    Fresh,
    /// It waits for its next request.
    Idle,
    /// The head of a request has arrived, and not all of its body.
    Receiving,
    /// A complete request has arrived, and its answer is not ready.
    Answering,
}

impl Phase {
    /// Whether no request is in flight.
    pub(super) fn ends_at_once(self) -> bool {
        match self {
            Self::Handshake | Self::Fresh | Self::Idle => true,
            Self::Receiving | Self::Answering => false,
        }
    }

    /// The metric's label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Fresh => "fresh",
            Self::Idle => "idle",
            Self::Receiving => "receiving",
            Self::Answering => "answering",
        }
    }
}

/// The properties of an open connection that the decision needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) peer: IpAddr,
    /// Whether it has presented a certificate of the API server.
    pub(super) verified: bool,
    pub(super) phase: Phase,
    /// How long it has been in this phase.
    pub(super) age: Duration,
}

/// Priority of closing a connection, among those of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It delays others: half-open for longer than honest callers take.
    HalfOpen,
    /// It only saves its next request a handshake.
    Idle,
    /// A request may follow at once.
    Opening,
}

/// Returns the connection to close: an idle or half-open one of the address that has most of them, the longest
/// half-open first, then the longest idle. Never one with a request in flight, and no verified one before the others.
pub(super) fn evict(connections: &[Connection]) -> Option<u64> {
    let ranked = connections
        .iter()
        .filter_map(|connection| Some((connection, rank(connection)?)));
    let some_unverified = ranked.clone().any(|(connection, _)| !connection.verified);
    let candidates = ranked.filter(|(connection, _)| !(some_unverified && connection.verified));
    let mut of_peer: HashMap<IpAddr, usize> = HashMap::new();
    for (connection, _) in candidates.clone() {
        *of_peer.entry(connection.peer).or_default() += 1;
    }
    candidates
        .min_by_key(|(connection, rank)| {
            let most = Reverse(of_peer.get(&connection.peer).copied());
            (most, *rank, Reverse(connection.age), connection.id)
        })
        .map(|(connection, _)| connection.id)
}

fn rank(connection: &Connection) -> Option<Rank> {
    let stalls = connection.age >= HALF_OPEN;
    match connection.phase {
        Phase::Handshake | Phase::Fresh | Phase::Receiving if stalls => Some(Rank::HalfOpen),
        Phase::Idle => Some(Rank::Idle),
        Phase::Handshake | Phase::Fresh => Some(Rank::Opening),
        Phase::Receiving | Phase::Answering => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses connections as `address phase milliseconds [verified]`, their ids in order.
    fn connections(text: &str) -> Vec<Connection> {
        let parse = |(id, text): (usize, &str)| {
            let words: Vec<&str> = text.split_whitespace().collect();
            let [peer, phase, age, ref rest @ ..] = words[..] else {
                panic!("{text:?}");
            };
            Connection {
                id: id as u64,
                peer: format!("10.0.0.{peer}").parse().unwrap(),
                verified: rest == ["verified"],
                phase: match phase {
                    "handshake" => Phase::Handshake,
                    "fresh" => Phase::Fresh,
                    "idle" => Phase::Idle,
                    "receiving" => Phase::Receiving,
                    "answering" => Phase::Answering,
                    other => panic!("{other:?}"),
                },
                age: Duration::from_millis(age.parse().unwrap()),
            }
        };
        let texts = text
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty());
        texts.enumerate().map(parse).collect()
    }

    /// The open connections, and which of them is closed.
    const TABLE: &[(&str, &str, Option<u64>)] = &[
        ("nothing is open", "", None),
        ("one alone", "1 idle 5", Some(0)),
        (
            "a request is in flight",
            "1 answering 9000, 1 receiving 999",
            None,
        ),
        (
            "requests in flight do not count for their address",
            "1 answering 9, 1 answering 9, 1 idle 9, 2 idle 1, 2 idle 2",
            Some(4),
        ),
        (
            "the address that has most",
            "1 idle 90000, 2 idle 1, 2 idle 1, 2 idle 2",
            Some(3),
        ),
        (
            "half-open ones count like idle ones",
            "1 idle 9, 2 handshake 5, 2 fresh 5",
            Some(1),
        ),
        (
            "half-open for long before idle",
            "1 idle 90000, 1 handshake 1000",
            Some(1),
        ),
        (
            "no head for long before idle",
            "1 idle 90000, 1 fresh 1000",
            Some(1),
        ),
        (
            "a stalled body before idle",
            "1 idle 90000, 1 receiving 1000",
            Some(1),
        ),
        (
            "idle before a handshake that goes on",
            "1 handshake 999, 1 idle 1",
            Some(1),
        ),
        (
            "idle before one that was just opened",
            "1 fresh 999, 1 idle 1",
            Some(1),
        ),
        (
            "a handshake that goes on if there is no other",
            "1 handshake 3, 1 fresh 2",
            Some(0),
        ),
        (
            "the oldest of the same",
            "1 idle 5, 1 idle 7, 1 idle 6",
            Some(1),
        ),
        (
            "two addresses with as many: the oldest",
            "1 idle 5, 2 idle 7",
            Some(1),
        ),
        (
            "no verified one while there is another",
            "1 idle 9 verified, 1 idle 9 verified, 2 handshake 1",
            Some(2),
        ),
        (
            "verified ones if there are no others",
            "1 idle 8 verified, 2 idle 9 verified",
            Some(1),
        ),
        (
            "a verified one before a request in flight",
            "1 idle 1 verified, 2 answering 9",
            Some(0),
        ),
    ];

    #[test]
    fn ends_the_idlest_of_the_address_that_has_most() {
        for (what, text, want) in TABLE {
            assert_eq!(evict(&connections(text)), *want, "{what}: {text}");
        }
    }

    /// The address with most connections loses its own: the others keep theirs.
    #[test]
    fn one_address_cannot_drive_out_another() {
        let own = connections("1 idle 80000, 1 idle 5, 1 handshake 2, 1 fresh 9000");
        let hostile = "2 handshake 1, 2 idle 1, 2 fresh 1, 2 receiving 2000, 2 receiving 1,";
        let mut all = own.clone();
        all.extend(connections(&hostile.repeat(200)));
        for (id, connection) in all.iter_mut().enumerate() {
            connection.id = id as u64;
        }
        while all.len() > own.len() + 200 + own.len() {
            let id = evict(&all).unwrap();
            let at = all.iter().position(|other| other.id == id).unwrap();
            assert_ne!(all[at].peer, own[0].peer, "{:?}", all[at]);
            all.swap_remove(at);
        }
    }
}
