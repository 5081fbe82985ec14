//! One-time tokens of entities: who says one first deletes the entity, and nobody else meanwhile.
//!
//! Invariant: a token is on disk before its `entity_token` is answered, and goes with its entity in
//! one write. Of two tokens the later one counts, so exactly one deletion can pass.

use std::fmt;

use goperation::{Error, JsonObject, MessageId, Reason, Result, now_millis};
use goperation_bridge::Message;
use serde::Deserialize;

use crate::{
    agent::Agent,
    journal::Outcome,
    lock::Operation,
    reserve::not_found,
    state::{EntityKey, State},
};

/// Method that stores the token of an entity, in the endpoint's namespace.
pub(crate) const TOKEN: &str = "entity_token";

/// How long a token is kept when that is not said, in seconds.
const DEFAULT_EXPIRE: u64 = 60;
/// How long a token may be kept, in seconds.
const EXPIRE: std::ops::RangeInclusive<u64> = 1..=3600;
/// Longest token, in characters.
const LONGEST: usize = 256;

/// The token of one entity.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EntityToken {
    /// What the deletion has to say. It is never printed.
    pub(crate) token: String,
    /// When it lapses, in milliseconds since 1970 by this host's clock.
    pub(crate) expires: u64,
    /// The message that deletes with it: after a crash it goes on, however late that is.
    pub(crate) used_by: Option<MessageId>,
}

impl fmt::Debug for EntityToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EntityToken(..)")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Announced {
    entity: u32,
    token: String,
    #[serde(default)]
    expire: Option<u64>,
}

impl Agent {
    /// `entity_token`: only who has this token deletes the entity, for a time.
    pub(crate) async fn entity_token(&self, message: &Message, args: Announced) -> Outcome {
        let key = self.entity_key("namespace", &message.namespace, args.entity)?;
        let Announced { token, expire, .. } = args;
        if token.is_empty() || token.chars().count() > LONGEST {
            return Err(Error::invalid("args.token", "must have 1 to 256 characters"));
        }
        let expire = expire.unwrap_or(DEFAULT_EXPIRE);
        if !EXPIRE.contains(&expire) {
            return Err(Error::invalid("args.expire", "must be 1 to 3600 seconds"));
        }
        self.core
            .change(Operation::DeleteEntity, |state, txn| {
                if !state.entities.contains_key(&key) {
                    return Err(not_found(&key));
                }
                let expires = now_millis() + expire * 1000;
                state.put_token(&key, EntityToken { token, expires, used_by: None }, txn);
                Ok(())
            })
            .await?;
        Ok(JsonObject::from_iter([("expire".to_owned(), expire.into())]))
    }

    /// Whether a deletion may go on with the token that it says, or without one.
    ///
    /// # Errors
    /// `STATE_REFUSED` when another one may.
    pub(crate) async fn use_token(
        &self,
        key: &EntityKey,
        said: Option<&str>,
        id: &MessageId,
    ) -> Result<()> {
        self.core
            .change(Operation::DeleteEntity, |state, txn| {
                check(state, key, said, id, now_millis())?;
                if said.is_some()
                    && let Some(token) = state.tokens.get(key)
                {
                    let token = EntityToken { used_by: Some(id.clone()), ..token.clone() };
                    state.put_token(key, token, txn);
                }
                Ok(())
            })
            .await
    }
}

fn check(
    state: &State,
    key: &EntityKey,
    said: Option<&str>,
    id: &MessageId,
    now: u64,
) -> Result<()> {
    let stored = state.tokens.get(key);
    let live = stored.filter(|token| now < token.expires || token.used_by.as_ref() == Some(id));
    let why = match (said, live) {
        (None, None) => return Ok(()),
        (Some(said), Some(token)) if said == token.token => return Ok(()),
        (None, Some(_)) => "somebody else is deleting it",
        (Some(_), Some(_)) => "somebody else is deleting it: the token is not the one that counts",
        (Some(_), None) => "its token has expired, or was never said; announce the deletion again",
    };
    let EntityKey { endpoint, number } = key;
    Err(Error::new(
        Reason::StateRefused,
        format!("entity {endpoint} {number} is not deleted: {why}"),
    )
    .with("endpoint", endpoint)
    .with("entity", number))
}

#[cfg(test)]
mod tests {
    use goperation::EndpointName;
    use goperation_store::Txn;

    use super::*;
    use crate::ports::PortRanges;

    const NOW: u64 = 1_000_000;

    fn key() -> EntityKey {
        EntityKey { endpoint: EndpointName::parse("endpoint", "db").unwrap(), number: 1 }
    }

    fn with(token: Option<EntityToken>) -> State {
        let mut state = State::new(PortRanges::parse("ports", &["7000-7010"]).unwrap());
        if let Some(token) = token {
            state.put_token(&key(), token, &mut Txn::new());
        }
        state
    }

    fn token(expires: u64) -> EntityToken {
        EntityToken { token: "t".to_owned(), expires, used_by: None }
    }

    #[test]
    fn who_may_delete() {
        let (live, over) = (Some(token(NOW + 1)), Some(token(NOW)));
        for (stored, said, may) in [
            (None, None, true),
            (None, Some("t"), false),
            (live.clone(), Some("t"), true),
            (live.clone(), Some("other"), false),
            (live, None, false),
            (over.clone(), Some("t"), false),
            (over, None, true),
        ] {
            let id = MessageId::generate();
            let got = check(&with(stored.clone()), &key(), said, &id, NOW);
            assert_eq!(got.is_ok(), may, "{stored:?} {said:?}");
        }
    }

    #[test]
    fn what_was_begun_goes_on_after_the_token_has_expired() {
        let id = MessageId::generate();
        let state = with(Some(EntityToken { used_by: Some(id.clone()), ..token(NOW - 1) }));
        assert!(check(&state, &key(), Some("t"), &id, NOW).is_ok());
        assert!(check(&state, &key(), Some("t"), &MessageId::generate(), NOW).is_err());
        assert!(!format!("{state:?}").contains("\"t\""));
    }
}
