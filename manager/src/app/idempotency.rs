//! Creation under an idempotency key: once, however often it is asked for.
//!
//! Invariant: the key's record is written in the transactions that number, end or drop its entity,
//! so it never says what is not so. Requests of one key take turns; what one of them left open is
//! asked of its agent again under the same message id, and the agent's journal answers.

use std::time::{Duration, Instant};

use goperation::{
    Error, MessageId, Reason, Result, now_millis,
    v1::{Candidate, CreateEntityRequest, CreateEntityResponse, LeftOut},
};
use prost::Message as _;

use super::{
    App,
    create_entity::{Begun, Place, Try, Wanted},
    once::{KEEP, Key, digest},
    place_entity::{LEAST, left_to_next, refusal},
};
use crate::{
    bridge_link::had_no_effect,
    db::Tx,
    keys,
    record::{EntityRecord, KeyRecord, State},
};

/// An idempotency key with what is asked for under it.
#[derive(Debug, Clone)]
pub(super) struct Keyed {
    key: Key,
    hash: Vec<u8>,
}

/// What a choice has come to.
#[derive(Debug, Clone, Default)]
pub(super) struct Stage {
    pub(super) candidates: Vec<Candidate>,
    pub(super) refused: Vec<LeftOut>,
}

impl Stage {
    pub(super) fn of(how: &Try<'_>) -> Self {
        Self { candidates: how.candidates.to_vec(), refused: how.refused.to_vec() }
    }
}

impl Keyed {
    /// The key of a request, if it has one. A dry run creates nothing that could be repeated.
    pub(super) fn of(q: &CreateEntityRequest) -> Result<Option<Self>> {
        if q.dry {
            return Ok(None);
        }
        let key = Key::parse(&q.idempotency_key)?;
        Ok(key.map(|key| Self { key, hash: hash(q) }))
    }

    /// Records that an entity was numbered for it.
    pub(super) async fn begin(
        &self,
        tx: &mut Tx,
        endpoint: &str,
        begun: &Begun,
        until: u64,
    ) -> Result<()> {
        let record = KeyRecord {
            hash: self.hash.clone(),
            endpoint: endpoint.to_owned(),
            number: begun.number,
            agent: begun.agent,
            message: begun.id.to_string(),
            keep_until: until.max(now_millis()) + KEEP,
            candidates: begun.stage.candidates.clone(),
            refused: begun.stage.refused.clone(),
            ..KeyRecord::default()
        };
        self.put(tx, Some(record)).await
    }

    /// Records what every repeat is answered.
    pub(super) async fn end(
        &self,
        tx: &mut Tx,
        begun: &Begun,
        outcome: Result<&CreateEntityResponse, &Error>,
        now: u64,
    ) -> Result<()> {
        let record = KeyRecord {
            hash: self.hash.clone(),
            number: begun.number,
            agent: begun.agent,
            message: begun.id.to_string(),
            keep_until: now + KEEP,
            response: outcome.ok().map(CreateEntityResponse::encode_to_vec),
            failure: outcome.err().map(Error::encode),
            ..KeyRecord::default()
        };
        self.put(tx, Some(record)).await
    }

    /// Forgets it: nothing came of it, so it may be used again.
    pub(super) async fn drop(&self, tx: &mut Tx) -> Result<()> {
        self.put(tx, None).await
    }

    async fn put(&self, tx: &mut Tx, record: Option<KeyRecord>) -> Result<()> {
        let former = tx.get::<KeyRecord>(keys::idempotency(self.key.as_str())).await?;
        self.key.put(tx, former.map(|former| former.keep_until), record.as_ref());
        Ok(())
    }

    /// What a request with the same content was answered, if it has ended.
    fn answer(&self, known: &KeyRecord) -> Result<Option<CreateEntityResponse>> {
        self.key.answer(known, &self.hash)
    }

    /// That the time ended before another request with the key did.
    fn under_way(&self, known: Option<&KeyRecord>) -> Error {
        let error = self.key.under_way(known);
        match known {
            Some(known) => error.with("entity", known.number),
            None => error,
        }
    }
}

/// The same for the same request: a map has no order of its own, so the labels are put into one.
fn hash(q: &CreateEntityRequest) -> Vec<u8> {
    let mut labels: Vec<_> = q.labels.iter().collect();
    labels.sort_unstable();
    let rest = CreateEntityRequest {
        endpoint: q.endpoint.to_lowercase(),
        labels: [].into(),
        idempotency_key: String::new(),
        ..q.clone()
    }
    .encode_to_vec();
    let labels = labels.into_iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]);
    digest(std::iter::once(rest.as_slice()).chain(labels))
}

/// What became of a creation that an earlier request left open.
enum Resumed {
    Ended(Box<CreateEntityResponse>),
    /// Nothing is left of it; these agents have refused.
    Again(Vec<LeftOut>),
}

impl App {
    /// Creates an entity unless that was done under the key already.
    pub(super) async fn create_once(
        &self,
        q: CreateEntityRequest,
        key: Keyed,
        wait: Duration,
    ) -> Result<CreateEntityResponse> {
        let begun = Instant::now();
        let name = key.key.as_str().to_owned();
        let record = keys::idempotency(&name);
        let Some(_turn) = self.turns.wait(name.as_str(), wait).await else {
            let known: Option<KeyRecord> = self.db.get(record).await?;
            return match known.as_ref().map(|known| key.answer(known)).transpose()?.flatten() {
                Some(answer) => Ok(answer),
                None => Err(key.under_way(known.as_ref())),
            };
        };
        let now = now_millis();
        let known = self.db.get::<KeyRecord>(record).await?.filter(|known| known.keep_until > now);
        let Some(known) = known else {
            let wanted = Wanted::read(q, Some(key), false, now)?;
            return self.place(&wanted, Vec::new(), begun, wait).await;
        };
        if let Some(answer) = key.answer(&known)? {
            return Ok(answer);
        }
        let left = wait.saturating_sub(begun.elapsed());
        if left < LEAST {
            // Asked without any time, the bridge would refuse, and that is no end of a creation.
            return Err(key.under_way(Some(&known)));
        }
        let wanted = Wanted::read(q, Some(key), true, now)?;
        match self.resume(&wanted, known, left).await? {
            Resumed::Ended(response) => Ok(*response),
            Resumed::Again(refused) => self.place(&wanted, refused, begun, wait).await,
        }
    }

    /// Takes up what an earlier request left open.
    async fn resume(&self, wanted: &Wanted, known: KeyRecord, wait: Duration) -> Result<Resumed> {
        let (endpoint, number) = (wanted.endpoint.as_str(), known.number);
        tracing::Span::current().record("entity", number);
        let mut stage = Stage { candidates: known.candidates, refused: known.refused };
        let later = now_millis() + super::millis(wait);
        let until = wanted.finish.unwrap_or(later);
        let Some((state, former)) = self.extend(endpoint, number, until).await? else {
            return Ok(Resumed::Again(stage.refused));
        };
        let agent = self.agent_record(known.agent).await?;
        let id = MessageId::parse("message", &known.message)?;
        let host = (agent.id, agent.host.clone());
        let begun = Begun::new(&agent, number, id, stage.clone());
        let until = match state {
            State::Creating => until,
            // It ran, so this is only to have its answer from the journal.
            State::Ready => later,
            State::Lost => return self.created(wanted, &begun, None).await.map(Resumed::ended),
            State::Failed => {
                let error = interrupted(endpoint, &begun);
                self.not_created(wanted, &begun, &error).await?;
                return Err(error);
            }
            State::Deleting => return Err(deleting(endpoint, &begun)),
        };
        let error = match self.ask_to_create(wanted, &begun, until, wait).await {
            Ok(answer) => {
                return self.created(wanted, &begun, Some(&answer)).await.map(Resumed::ended);
            }
            Err(error) => error,
        };
        if state == State::Ready && error.reason == Reason::AlreadyExists {
            // The agent has it and does not remember any more how it came to it.
            return self.created(wanted, &begun, None).await.map(Resumed::ended);
        }
        if !is_its_end(error.reason) {
            if had_no_effect(error.reason) {
                self.retract(endpoint, number, until, former).await?;
            }
            super::raise_generation(self, begun.agent).await;
            return Err(unknown(endpoint, &begun, &error));
        }
        self.not_created(wanted, &begun, &error).await?;
        if matches!(wanted.place, Place::Best(_)) && left_to_next(error.reason) {
            stage.refused.push(refusal(host, &error));
            return Ok(Resumed::Again(stage.refused));
        }
        Err(error)
    }

    /// The state of an entity and until when it could be begun with; if it is CREATING it can be
    /// until then from here on. None when it is gone.
    async fn extend(
        &self,
        endpoint: &str,
        number: u32,
        until: u64,
    ) -> Result<Option<(State, u64)>> {
        let key = keys::entity(endpoint, number);
        let mut tx = self.db.begin();
        loop {
            let Some(mut record) = tx.get::<EntityRecord>(key.clone()).await? else {
                return Ok(None);
            };
            let found = (record.state(), record.finish_time);
            if found.0 == State::Creating && record.finish_time < until {
                record.finish_time = until;
                record.touch(now_millis());
                tx.put(key.clone(), &record);
            }
            if tx.commit().await? {
                return Ok(Some(found));
            }
        }
    }

    /// Takes back [`Self::extend`]: what was sent is known not to be on its way.
    async fn retract(&self, endpoint: &str, number: u32, until: u64, former: u64) -> Result<()> {
        let key = keys::entity(endpoint, number);
        let mut tx = self.db.begin();
        loop {
            let record: Option<EntityRecord> = tx.get(key.clone()).await?;
            let Some(mut record) = record.filter(|record| {
                record.state() == State::Creating && record.finish_time == until && former < until
            }) else {
                return Ok(());
            };
            record.finish_time = former;
            record.touch(now_millis());
            tx.put(key.clone(), &record);
            if tx.commit().await? {
                return Ok(());
            }
        }
    }
}

impl Resumed {
    fn ended(response: CreateEntityResponse) -> Self {
        Self::Ended(Box::new(response))
    }
}

/// Whether a repeated message was answered by how its creation ended. Any other refusal is of the
/// repeat alone: the message may have arrived before.
fn is_its_end(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::MethodFailed
            | Reason::Interrupted
            | Reason::PortTaken
            | Reason::PortsExhausted
            | Reason::PortOutOfRange
            | Reason::StateRefused
            | Reason::InvalidArgument
    )
}

fn about(error: Error, endpoint: &str, begun: &Begun) -> Error {
    error
        .with("agent", begun.agent)
        .with("endpoint", endpoint)
        .with("entity", begun.number)
        .with_message_id(&begun.id)
}

fn interrupted(endpoint: &str, begun: &Begun) -> Error {
    let what = format!(
        "the creation of entity {} of {endpoint} on agent {} was interrupted: delete the entity",
        begun.number, begun.agent
    );
    about(Error::new(Reason::Interrupted, what), endpoint, begun)
}

fn deleting(endpoint: &str, begun: &Begun) -> Error {
    let what = format!(
        "entity {} of {endpoint}, which an earlier request with this key began to create, is \
         DELETING; repeat it when that is gone, or take a new key",
        begun.number
    );
    about(Error::new(Reason::StateRefused, what).with("state", "DELETING"), endpoint, begun)
}

fn unknown(endpoint: &str, begun: &Begun, cause: &Error) -> Error {
    let what = format!(
        "an earlier request with this key began to create entity {} of {endpoint} on agent {}, and \
         its outcome is not known yet: {}; repeat it with the same key",
        begun.number, begun.agent, cause.message
    );
    let error =
        Error { retry_after: cause.retry_after, ..Error::new(Reason::OutcomeUnknown, what) };
    about(error.with("cause", cause.reason), endpoint, begun)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn request() -> CreateEntityRequest {
        let labels = (0..20).map(|i| (format!("k{i}"), "v".to_owned()));
        CreateEntityRequest {
            endpoint: "arena".to_owned(),
            labels: labels.collect(),
            idempotency_key: "k".to_owned(),
            ..CreateEntityRequest::default()
        }
    }

    #[test]
    fn the_same_request_has_the_same_hash() {
        // Each map has an order of its own.
        for _ in 0..20 {
            assert_eq!(hash(&request()), hash(&request()));
        }
        let other = |change: fn(&mut CreateEntityRequest)| {
            let mut q = request();
            change(&mut q);
            hash(&q)
        };
        assert_eq!(other(|q| q.idempotency_key.clear()), hash(&request()));
        assert_eq!(other(|q| q.endpoint = "Arena".to_owned()), hash(&request()));
        let pair = |k: &str, v: &str| HashMap::from([(k.to_owned(), v.to_owned())]);
        let labelled = |labels| hash(&CreateEntityRequest { labels, ..request() });
        assert_ne!(labelled(pair("a", "bc")), labelled(pair("ab", "c")));
        for different in [
            other(|q| q.labels.clear()),
            other(|q| q.agent_id = 1),
            other(|q| q.includes.push("cpu>1".to_owned())),
            other(|q| q.weighters.push("cpu".to_owned())),
            other(|q| q.number = 1),
        ] {
            assert_ne!(different, hash(&request()));
        }
    }

    #[test]
    fn keys_are_printable_and_not_too_long() {
        let of = |key: &str| {
            Keyed::of(&CreateEntityRequest { idempotency_key: key.to_owned(), ..request() })
        };
        assert!(of("").unwrap().is_none());
        for good in ["a", "a b/c:ü", &"ü".repeat(128)] {
            assert!(of(good).unwrap().is_some(), "{good}");
        }
        for bad in ["a\n", "\u{7f}", &"k".repeat(129)] {
            assert_eq!(of(bad).unwrap_err().violations[0].field, "idempotency_key");
        }
        let dry = CreateEntityRequest { dry: true, ..request() };
        assert!(Keyed::of(&dry).unwrap().is_none());
    }
}
