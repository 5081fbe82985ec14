//! Claims of messages that are for any one agent of a type.
//!
//! Invariant: while a claim is kept, one agent has it, and it is told so however often it asks.

use goperation::{
    Error, MessageId, Result, from_timestamp,
    v1::{ClaimMessageRequest, ClaimMessageResponse},
};

use super::{App, register::authorise};
use crate::{
    check, keys,
    record::{AgentRecord, ClaimRecord},
};

/// Longest time that a claim is kept: the longest finish time and a day, in milliseconds.
const LONGEST: u64 = 8 * 24 * 3600 * 1000;
/// What an agent's clock may be ahead, in milliseconds.
const AHEAD: u64 = 60_000;

impl App {
    pub(crate) async fn claim_message(
        &self,
        q: ClaimMessageRequest,
        now: u64,
    ) -> Result<ClaimMessageResponse> {
        let id = check::number("id", q.id)?;
        let message = MessageId::parse("message_id", &q.message_id)?;
        let keep_until = q.keep_until.as_ref().map_or(now + LONGEST, from_timestamp);
        if keep_until > now + LONGEST + AHEAD {
            return Err(Error::invalid("keep_until", "must be at most 8 days from now"));
        }
        let key = keys::claim(message.as_str());
        let mut tx = self.db.begin();
        loop {
            let record: AgentRecord =
                tx.get(keys::agent(id)).await?.ok_or_else(|| check::no_agent(id))?;
            authorise(&record, &q.secret)?;
            super::not_deleted(&record)?;
            let held = tx.get::<ClaimRecord>(key.clone()).await?;
            let holder = match held {
                Some(claim) if claim.keep_until > now => claim.holder,
                former => {
                    if let Some(former) = former {
                        tx.delete(keys::claim_time(former.keep_until, message.as_str()));
                    }
                    tx.put(key.clone(), &ClaimRecord { holder: id, keep_until });
                    tx.mark(keys::claim_time(keep_until, message.as_str()));
                    id
                }
            };
            if tx.commit().await? {
                return Ok(ClaimMessageResponse {
                    claimed: holder == id,
                    holder: i32::try_from(holder).unwrap_or_default(),
                });
            }
        }
    }
}
