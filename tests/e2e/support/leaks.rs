//! Finds pieces of keys in texts: sixteen characters of one are as good as the whole. Pure.

use std::collections::{BTreeSet, HashMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Minimum length of a piece that counts.
const PIECE: usize = 16;

/// Returns where a piece of a key is: the public part of the key and the place, never more of the key.
pub(crate) fn leaks(texts: &[(String, String)], keys: &[String]) -> BTreeSet<String> {
    let mut pieces: HashMap<[u8; PIECE], &str> = HashMap::new();
    for key in keys {
        let secret = secret_part(key);
        let public = &key[..key.len() - secret.len()];
        let mut all = windows(secret.as_bytes());
        // In encoded text, a key may begin at any of three places of a group.
        for shift in 0..3 {
            let shifted = [&" ".repeat(shift), secret].concat();
            let encoded = STANDARD.encode(shifted);
            // The first and the last group depend on the text around the key.
            let inner = encoded.get(4..encoded.len() - 4).unwrap_or_default();
            all.extend(windows(inner.as_bytes()));
        }
        pieces.extend(all.into_iter().map(|piece| (piece, public)));
    }
    // Most of a log is words and numbers shorter than a piece, and a lookup of each would take a minute.
    let mut occurs = [false; 256];
    let mut begins = vec![false; 1 << 24];
    for piece in pieces.keys() {
        piece
            .iter()
            .for_each(|byte| occurs[usize::from(*byte)] = true);
        begins[start(piece)] = true;
    }
    let mut found = BTreeSet::new();
    for (place, text) in texts {
        let words = text.as_bytes().split(|byte| !occurs[usize::from(*byte)]);
        for window in words.flat_map(|word| word.windows(PIECE)) {
            if !begins[start(window)] {
                continue;
            }
            let public = <[u8; PIECE]>::try_from(window)
                .ok()
                .and_then(|window| pieces.get(&window));
            if let Some(public) = public {
                found.insert(format!("{public}… in {place}"));
            }
        }
    }
    found
}

/// Returns the secret part: Headscale's keys begin with a mark and a public prefix of twelve characters, which servers do log.
fn secret_part(key: &str) -> &str {
    ["hskey-auth-", "hskey-api-"]
        .iter()
        .find_map(|mark| key.strip_prefix(mark)?.get(13..))
        .unwrap_or(key)
}

fn windows(bytes: &[u8]) -> Vec<[u8; PIECE]> {
    bytes
        .windows(PIECE)
        .filter_map(|window| window.try_into().ok())
        .collect()
}

/// Returns a number for the first four characters, in 24 bits: six of each are enough to tell a key's apart.
fn start(window: &[u8]) -> usize {
    let first = window.iter().take(4);
    first.fold(0, |start, byte| start << 6 | usize::from(byte & 63))
}
