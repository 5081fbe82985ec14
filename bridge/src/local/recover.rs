//! The state as the store has it, read once at the start.
//!
//! Invariant: after it every message that was accepted is in its queue, delayed, or a dead letter.

use std::{collections::HashMap, sync::Arc};

use goperation::EndpointName;
use goperation_store::{Error, Row, Scan, Store};

use super::{
    LocalConfig, keys,
    queue::{Entry, Queue},
    record::{DeadRow, DelayedRow, PlaceRow, QueueRow},
    settle::Settlements,
    state::{Delayed, State},
};
use crate::QueueName;

/// Rows read at a time.
const PAGE: usize = 1000;

/// Calls `each` for every row below a prefix.
async fn for_each(
    store: &dyn Store,
    prefix: &[u8],
    mut each: impl FnMut(&Row),
) -> Result<(), Error> {
    let mut scan = Scan::prefix(prefix).limit(PAGE);
    loop {
        let rows = store.scan(scan.clone()).await?;
        rows.iter().for_each(&mut each);
        match rows.last() {
            Some((last, _)) if rows.len() == PAGE => {
                scan.start = [last.as_slice(), &[0]].concat();
            }
            _ => return Ok(()),
        }
    }
}

/// Reads the state.
pub(super) async fn load(
    store: &Arc<dyn Store>,
    config: LocalConfig,
    settlements: Arc<Settlements>,
) -> Result<State, Error> {
    let mut state = State::new(config, settlements);
    let mut places: HashMap<u64, u32> = HashMap::new();
    let mut last = 0;
    let mut lost = Vec::new();
    for_each(store.as_ref(), keys::QUEUES, |(key, value)| {
        if let (Some(name), Some(row)) = (keys::parse_queue(key), QueueRow::read(value)) {
            let mut queue = Queue::default();
            let parse = |text: &String| EndpointName::parse("endpoint", text).ok();
            queue.endpoints.extend(row.endpoints.iter().filter_map(parse));
            state.queues.insert(name, queue);
        } else {
            tracing::warn!("a queue of the embedded transport cannot be read");
        }
    })
    .await?;
    for_each(store.as_ref(), keys::PLACES, |(key, value)| {
        let (Some((name, seq)), Some(row)) = (keys::parse_place(key), PlaceRow::read(value)) else {
            return tracing::warn!("a place in a queue cannot be read");
        };
        last = last.max(seq).max(row.body);
        *places.entry(row.body).or_default() += 1;
        // Whether it had been delivered is not written down: it may have been.
        let entry = Entry {
            body: row.body,
            finish_time: row.finish_time,
            redelivered: true,
            message: None,
        };
        match state.queues.get_mut(&name) {
            Some(queue) => queue.add(seq, entry),
            None => lost.push((name, seq, row.body)),
        }
    })
    .await?;
    for_each(store.as_ref(), keys::DELAYED, |(key, value)| {
        let row = DelayedRow::read(value);
        let queue = row.as_ref().and_then(|row| QueueName::parse("queue", &row.queue).ok());
        let (Some((due, seq)), Some(row), Some(queue)) = (keys::parse_delayed(key), row, queue)
        else {
            return tracing::warn!("a delayed message cannot be read");
        };
        last = last.max(seq).max(row.body);
        *places.entry(row.body).or_default() += 1;
        let delayed = Delayed { queue, body: row.body, finish_time: row.finish_time };
        state.delayed.insert((due, seq), delayed);
    })
    .await?;
    for_each(store.as_ref(), keys::DEAD, |(key, value)| {
        let (Some((_, seq)), Some(row)) = (keys::split_number(key), DeadRow::read(value)) else {
            return tracing::warn!("a dead letter cannot be read");
        };
        last = last.max(seq).max(row.body);
        *places.entry(row.body).or_default() += 1;
        state.dead.push_back((seq, row.body));
    })
    .await?;
    state.refs = places.into_iter().filter(|&(_, places)| places > 1).collect();
    state.next = last + 1;
    for (name, seq, body) in lost {
        // The agent was removed while the message was being written.
        state.batch.delete(keys::place(&name, seq));
        state.bury(body, &name, "AGENT_DELETED");
    }
    Ok(state)
}
