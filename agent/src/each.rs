//! Requests for several entities: a verb or a look is done with each of them, in the order of its
//! other messages, and the answer has a detail of each. A method of the operator's gets their
//! numbers and says itself what became of each.
//!
//! Invariant: one entity that refuses hinders no other.

use futures::future::join_all;
use goperation::{Error, JsonObject, Ranges, Reason, Result};
use goperation_bridge::{Body, Message};
use serde_json::{Value, json};

use crate::{
    agent::Agent, answer::entity_of, entity::STATUS, journal::Outcome, order::OrderKey,
    process::Called,
};

/// Where the numbers stand in the arguments, as ranges.
const ENTITIES: &str = "entities";
/// Entities that one request names of an agent, at most.
const MOST: u64 = 10_000;
/// Entities that are worked on at a time for one request.
const AT_A_TIME: usize = 8;

/// The entities that a message of a request names; none when it is not for several.
fn named(message: &Message) -> Option<Ranges> {
    let Body::Object(args) = &message.body else { return None };
    if message.request.is_none() || args.contains_key("entity") {
        return None;
    }
    Ranges::parse(ENTITIES, args.get(ENTITIES)?.as_str()?).ok()
}

fn count(ranges: &Ranges) -> u64 {
    ranges.as_slice().iter().map(|&(a, b)| u64::from(b - a) + 1).sum()
}

/// Whether a message names no more entities than one may.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub(crate) fn check(message: &Message) -> Result<()> {
    match named(message).map(|ranges| count(&ranges)) {
        Some(count) if count > MOST => {
            let text = format!("names {count} entities; a request may name {MOST} of an agent");
            Err(Error::invalid("args.entities", &text))
        }
        _ => Ok(()),
    }
}

/// Their numbers.
fn numbers(message: &Message) -> Option<Vec<u32>> {
    let ranges = named(message).filter(|ranges| count(ranges) <= MOST)?;
    Some(ranges.as_slice().iter().flat_map(|&(a, b)| a..=b).collect())
}

/// The entities of its endpoint that a message is about.
pub(crate) fn keys(message: &Message) -> Vec<OrderKey> {
    let Body::Object(args) = &message.body else { return Vec::new() };
    let key = |number| (message.namespace.clone(), number);
    match entity_of(args) {
        Some(number) => vec![key(number)],
        None => numbers(message).unwrap_or_default().into_iter().map(key).collect(),
    }
}

impl Agent {
    /// Runs a method in an endpoint's namespace, with each entity that a request names.
    pub(crate) async fn run_in_endpoint(&self, message: &Message, args: &JsonObject) -> Outcome {
        let is_about_one = message.method == STATUS || Called::of(&message.method).is_some();
        match numbers(message).filter(|_| is_about_one) {
            Some(numbers) => self.run_for_each(message, args, &numbers).await,
            None => self.run_endpoint_method(message, args).await,
        }
    }

    async fn run_for_each(&self, message: &Message, args: &JsonObject, numbers: &[u32]) -> Outcome {
        let mut details = Vec::with_capacity(numbers.len());
        let mut failed = 0;
        for some in numbers.chunks(AT_A_TIME) {
            let runs = some.iter().map(|number| self.run_for_one(message, args, *number));
            for (number, outcome) in some.iter().zip(join_all(runs).await) {
                let (code, result) = match outcome {
                    Ok(result) => (0, Value::Object(result)),
                    // The store has failed: what became of it is told after the next start.
                    Err(error) if error.reason == Reason::Unavailable => return Err(error),
                    Err(error) => {
                        failed += 1;
                        (-1, json!({"reason": error.reason.as_str(), "message": error.message}))
                    }
                };
                details.push(json!({"id": number, "resultcode": code, "result": result}));
            }
        }
        let code = if failed == 0 { 0 } else { -1 };
        Ok(JsonObject::from_iter([
            ("details".to_owned(), details.into()),
            ("resultcode".to_owned(), code.into()),
            ("failed".to_owned(), failed.into()),
        ]))
    }

    async fn run_for_one(&self, message: &Message, args: &JsonObject, number: u32) -> Outcome {
        let mut args = args.clone();
        args.remove(ENTITIES);
        args.insert("entity".to_owned(), number.into());
        self.run_endpoint_method(message, &args).await
    }
}

#[cfg(test)]
mod tests {
    use goperation::MessageId;
    use goperation_bridge::Kind;

    use super::*;

    fn message(request: bool, args: Value) -> Message {
        let body = Body::Object(args.as_object().unwrap().clone());
        Message {
            namespace: "game".to_owned(),
            request: request.then(|| "r".to_owned()),
            ..Message::new(Kind::Cast, MessageId::generate(), body)
        }
    }

    #[test]
    fn only_a_request_is_for_several_entities() {
        for (request, args, expected) in [
            (true, json!({"entities": "3,1-2"}), vec![1, 2, 3]),
            (true, json!({"entity": 7}), vec![7]),
            (true, json!({"entity": 7, "entities": "1-2"}), vec![7]),
            (false, json!({"entities": "1-2"}), vec![]),
            (true, json!({"entities": "all"}), vec![]),
            (true, json!({"entities": [1]}), vec![]),
            (true, json!({"entities": "1-10001"}), vec![]),
            (true, json!({}), vec![]),
        ] {
            let keys = keys(&message(request, args.clone()));
            let numbers: Vec<u32> = keys.iter().map(|(_, number)| *number).collect();
            assert_eq!(numbers, expected, "{args}");
            assert!(keys.iter().all(|(endpoint, _)| endpoint == "game"));
        }
    }

    #[test]
    fn too_many_entities_are_refused_with_the_bound() {
        check(&message(true, json!({"entities": "1-9999,20000"}))).unwrap();
        check(&message(false, json!({"entities": "1-10001"}))).unwrap();
        let error = check(&message(true, json!({"entities": "1-9999,20000-20001"}))).unwrap_err();
        assert_eq!(error.reason, Reason::InvalidArgument);
        assert!(error.to_string().contains("10001 entities"), "{error}");
        assert!(error.to_string().contains("may name 10000"), "{error}");
    }
}
