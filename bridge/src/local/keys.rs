//! Keys of the embedded transport in the store, all below `q/`.
//!
//! Invariant: within one kind of row the order of the keys is the order of arrival (or of the due
//! times), for numbers are written big-endian.

use crate::QueueName;

/// Rows that name the durable queues.
pub(super) const QUEUES: &[u8] = b"q/m/";
/// Rows that place a message in a queue.
pub(super) const PLACES: &[u8] = b"q/i/";
/// Rows that hold the messages themselves.
pub(super) const BODIES: &[u8] = b"q/b/";
/// Rows of messages that come back later.
pub(super) const DELAYED: &[u8] = b"q/d/";
/// Rows of dead letters.
pub(super) const DEAD: &[u8] = b"q/x/";

/// Parts the name of a queue from the number: no name has it.
const END: u8 = 0;

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Key of a durable queue.
pub(super) fn queue(name: &QueueName) -> Vec<u8> {
    join(&[QUEUES, name.to_string().as_bytes()])
}

/// Key of a place in a queue.
pub(super) fn place(name: &QueueName, seq: u64) -> Vec<u8> {
    join(&[PLACES, name.to_string().as_bytes(), &[END], &seq.to_be_bytes()])
}

/// Key of a message.
pub(super) fn body(body: u64) -> Vec<u8> {
    join(&[BODIES, &body.to_be_bytes()])
}

/// Key of a message that comes back at `due`.
pub(super) fn delayed(due: u64, seq: u64) -> Vec<u8> {
    join(&[DELAYED, &due.to_be_bytes(), &seq.to_be_bytes()])
}

/// Key of a dead letter.
pub(super) fn dead(seq: u64) -> Vec<u8> {
    join(&[DEAD, &seq.to_be_bytes()])
}

/// The number that a key ends with, and what stands before it.
pub(super) fn split_number(key: &[u8]) -> Option<(&[u8], u64)> {
    let (rest, number) = key.split_last_chunk::<8>()?;
    Some((rest, u64::from_be_bytes(*number)))
}

/// The queue of the key [`queue`] made.
pub(super) fn parse_queue(key: &[u8]) -> Option<QueueName> {
    parse_name(key.strip_prefix(QUEUES)?)
}

/// Queue and number of the key that [`place`] made.
pub(super) fn parse_place(key: &[u8]) -> Option<(QueueName, u64)> {
    let (rest, seq) = split_number(key)?;
    Some((parse_name(rest.strip_prefix(PLACES)?.strip_suffix(&[END])?)?, seq))
}

/// Due time and number of the key that [`delayed`] made.
pub(super) fn parse_delayed(key: &[u8]) -> Option<(u64, u64)> {
    let (rest, seq) = split_number(key)?;
    Some((split_number(rest)?.1, seq))
}

fn parse_name(text: &[u8]) -> Option<QueueName> {
    QueueName::parse("queue", std::str::from_utf8(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_keep_the_order() {
        let name = QueueName::parse("queue", "cast.app.h1").unwrap();
        assert_eq!(parse_queue(&queue(&name)), Some(name.clone()));
        assert_eq!(parse_place(&place(&name, 300)), Some((name.clone(), 300)));
        assert_eq!(parse_delayed(&delayed(7, 300)), Some((7, 300)));
        assert!(place(&name, 255) < place(&name, 256));
        assert!(delayed(1, 900) < delayed(2, 1));
        let longer = QueueName::parse("queue", "cast.app.h10").unwrap();
        assert_ne!(parse_place(&place(&longer, 1)), parse_place(&place(&name, 1)));
    }
}
