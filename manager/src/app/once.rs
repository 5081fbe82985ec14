//! Once per idempotency key: what was done under a key is answered from the record for 24 h.
//!
//! Invariant: before anything is done under a key the record says what was asked for under it and
//! under which message id, so that a repeat after a crash asks the agent under the same id and the
//! agent's journal answers. Requests of one key take turns. What changes only the record is sealed:
//! the key's answer is written in the transaction of the effect.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use goperation::{Error, MessageId, Reason, Result, now_millis};
use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::metadata::MetadataMap;

use super::{App, place_entity::LEAST};
use crate::{bridge_link::had_no_effect, db::Tx, keys, record::KeyRecord};

/// Metadata, and header of REST, that says what the field of a request says.
const METADATA: &str = "idempotency-key";
/// Longest key, in characters.
const LONGEST: usize = 128;
/// How long a key is kept after the end, in milliseconds.
pub(super) const KEEP: u64 = 24 * 3600 * 1000;

/// An idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(String);

impl Key {
    /// The key of a request: its metadata and its field, if it has one, say the same.
    pub(crate) fn of(metadata: &MetadataMap, field: &str) -> Result<Option<Self>> {
        Self::parse(&given_key(metadata, field)?)
    }

    /// A key, checked; none when it is empty.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>> {
        if text.is_empty() {
            return Ok(None);
        }
        if text.chars().count() > LONGEST || text.chars().any(char::is_control) {
            return Err(bad(format!("must have at most {LONGEST} printable characters")));
        }
        Ok(Some(Self(text.to_owned())))
    }

    /// The key as text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether what was asked for under it is the same.
    pub(super) fn check(&self, known: &KeyRecord, hash: &[u8]) -> Result<()> {
        if known.hash == hash {
            return Ok(());
        }
        let name = &self.0;
        Err(Error::new(
            Reason::KeyReused,
            format!(
                "the idempotency key `{name}` was used for another request less than a day ago; \
                 take a new one"
            ),
        )
        .with("idempotency_key", name))
    }

    /// What a request with the same content was answered, if it has ended.
    pub(super) fn answer<A: Message + Default>(
        &self,
        known: &KeyRecord,
        hash: &[u8],
    ) -> Result<Option<A>> {
        self.check(known, hash)?;
        match (&known.response, &known.failure) {
            (_, Some(failure)) => Err(Error::decode(failure)),
            (Some(response), None) => A::decode(response.as_slice()).map(Some).map_err(|e| {
                let what = format!("the answer kept for a key cannot be read: {e}");
                Error::new(Reason::Internal, what)
            }),
            (None, None) => Ok(None),
        }
    }

    /// That the time ended before another request with the key did.
    pub(super) fn under_way(&self, known: Option<&KeyRecord>) -> Error {
        let name = &self.0;
        let error = Error::new(
            Reason::OutcomeUnknown,
            format!(
                "another request with the idempotency key `{name}` is still under way; repeat it \
                 with the same key"
            ),
        )
        .with("idempotency_key", name);
        match known.filter(|known| !known.message.is_empty()) {
            Some(known) => error.with_message_id(&known.message),
            None => error,
        }
    }

    /// Writes what is known of the key, in place of a record that was kept until `former`.
    pub(super) fn put(&self, tx: &mut Tx, former: Option<u64>, record: Option<&KeyRecord>) {
        let key = keys::idempotency(&self.0);
        if let Some(former) = former {
            tx.delete(keys::idempotency_time(former, &self.0));
        }
        match record {
            Some(record) => {
                tx.put(key, record);
                tx.mark(keys::idempotency_time(record.keep_until, &self.0));
            }
            None => tx.delete(key),
        }
    }

    /// The id of the agent's message that is begun at that time. A try that came to nothing leaves
    /// it to the next one to have another id: the agent may keep its refusal under this one.
    fn message_id(&self, hash: &[u8], begun: u64) -> MessageId {
        let digest = digest([self.0.as_bytes(), hash, &begun.to_be_bytes()]);
        MessageId::from_digest(digest.first_chunk().copied().unwrap_or_default())
    }
}

fn bad(what: impl Into<String>) -> Error {
    Error::invalid("idempotency_key", what)
}

/// The key that the metadata or a field of a request says, unchecked; they may not differ.
pub(crate) fn given_key(metadata: &MetadataMap, field: &str) -> Result<String> {
    let mut found = Some(field).filter(|field| !field.is_empty()).map(str::to_owned);
    for value in metadata.get_all(METADATA) {
        let value = value.to_str().ok().filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| bad("must be printable ASCII in metadata"))?;
        match &found {
            Some(found) if found == value => {}
            Some(_) if field.is_empty() => return Err(bad("must be one in metadata")),
            Some(_) => return Err(bad("must be the same in the request and in its metadata")),
            None => found = Some(value.to_owned()),
        }
    }
    Ok(found.unwrap_or_default())
}

/// A hash of parts, of which each has its own place.
pub(super) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}

/// Content of a request without its maps, with the maps: they have no order of their own, so they
/// are put into one.
pub(crate) fn content(rest: &impl Message, maps: &[&HashMap<String, String>]) -> Vec<u8> {
    let sorted = maps.iter().map(|map| {
        let mut pairs: Vec<_> = map.iter().collect();
        pairs.sort_unstable();
        digest(pairs.into_iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]))
    });
    std::iter::once(rest.encode_to_vec()).chain(sorted).flatten().collect()
}

/// What is written with the effect of work under a key.
#[derive(Debug, Clone)]
pub(crate) struct Seal {
    key: Key,
    hash: Vec<u8>,
    id: MessageId,
    /// Until when the record is kept as it is.
    until: u64,
    written: Arc<AtomicBool>,
}

impl Seal {
    /// The id under which an agent is asked.
    pub(crate) fn message_id(&self) -> &MessageId {
        &self.id
    }

    /// Writes what every repeat is answered, in the transaction of the effect.
    pub(crate) fn end(&self, tx: &mut Tx, answer: &impl Message) {
        let record = KeyRecord { response: Some(answer.encode_to_vec()), ..self.record() };
        self.key.put(tx, Some(self.until), Some(&record));
        self.written.store(true, Ordering::Relaxed);
    }

    fn record(&self) -> KeyRecord {
        KeyRecord {
            hash: self.hash.clone(),
            message: self.id.to_string(),
            keep_until: now_millis() + KEEP,
            ..KeyRecord::default()
        }
    }
}

/// The id of a message that an agent is sent: that of the key when there is one.
pub(super) fn message_id(seal: Option<&Seal>) -> MessageId {
    seal.map_or_else(MessageId::generate, |seal| seal.message_id().clone())
}

/// Whether it is how a try under a key ended, for good: it had its effect, or part of it. Any
/// other failure lets the key be tried again.
fn is_end(reason: Reason) -> bool {
    matches!(reason, Reason::MethodFailed | Reason::Interrupted)
}

impl App {
    /// Does it once under a key: a repeat with the same content gets the first answer. The work
    /// gets the id under which an agent is to be asked.
    pub(crate) async fn once<Q, A, F>(
        &self,
        key: Option<Key>,
        method: &'static str,
        q: &Q,
        wait: Duration,
        work: impl FnOnce(Option<MessageId>) -> F,
    ) -> Result<A>
    where
        Q: Message,
        A: Message + Default,
        F: Future<Output = Result<A>>,
    {
        let content = q.encode_to_vec();
        let work = |seal: Option<Seal>, _| work(seal.map(|seal| seal.id));
        self.sealed(key, method, &content, wait, work).await
    }

    /// As [`Self::once`]. The work gets the seal, which it may write with its effect, and the time
    /// that is left for it.
    pub(crate) async fn sealed<A, F>(
        &self,
        key: Option<Key>,
        method: &'static str,
        content: &[u8],
        wait: Duration,
        work: impl FnOnce(Option<Seal>, Duration) -> F,
    ) -> Result<A>
    where
        A: Message + Default,
        F: Future<Output = Result<A>>,
    {
        let Some(key) = key else { return work(None, wait).await };
        let begun = Instant::now();
        let hash = digest([method.as_bytes(), content]);
        let name = key.0.clone();
        let turn = self.turns.wait(name.as_str(), wait).await;
        let former = self.db.get::<KeyRecord>(keys::idempotency(&name)).await?;
        let former_until = former.as_ref().map(|former| former.keep_until);
        let known = former.filter(|former| former.keep_until > now_millis());
        if let Some(known) = &known
            && let Some(answer) = key.answer(known, &hash)?
        {
            return Ok(answer);
        }
        let left = wait.saturating_sub(begun.elapsed());
        if turn.is_none() || (known.is_some() && left < LEAST) {
            return Err(key.under_way(known.as_ref()));
        }
        let seal = match &known {
            Some(known) => Seal {
                id: MessageId::parse("message", &known.message)?,
                key,
                hash,
                until: known.keep_until,
                written: Arc::default(),
            },
            None => self.begin_once(key, hash, former_until, wait).await?,
        };
        tracing::Span::current().record("message_id", seal.id.as_str());
        let result = work(Some(seal.clone()), left.max(LEAST)).await;
        let result = result.map_err(|error| error.with("idempotency_key", &name));
        self.end_once(&seal, known.is_none(), &result).await?;
        result
    }

    /// Records what is going to be done.
    async fn begin_once(
        &self,
        key: Key,
        hash: Vec<u8>,
        former: Option<u64>,
        wait: Duration,
    ) -> Result<Seal> {
        let now = now_millis();
        let until = now + super::millis(wait) + KEEP;
        let id = key.message_id(&hash, now);
        let seal = Seal { key, hash, id, until, written: Arc::default() };
        let record = KeyRecord { keep_until: until, ..seal.record() };
        let mut tx = self.db.begin();
        loop {
            seal.key.put(&mut tx, former, Some(&record));
            if tx.commit().await? {
                return Ok(seal);
            }
        }
    }

    /// Records how it ended. A failure that had no effect lets the key be used again, unless an
    /// earlier request with it may have had one.
    async fn end_once<A: Message>(
        &self,
        seal: &Seal,
        first: bool,
        result: &Result<A>,
    ) -> Result<()> {
        let record = match result {
            Ok(_) if seal.written.load(Ordering::Relaxed) => return Ok(()),
            Ok(answer) => {
                Some(KeyRecord { response: Some(answer.encode_to_vec()), ..seal.record() })
            }
            Err(error) if is_end(error.reason) => {
                Some(KeyRecord { failure: Some(error.encode()), ..seal.record() })
            }
            Err(error) if first && had_no_effect(error.reason) => None,
            Err(_) => return Ok(()),
        };
        let mut tx = self.db.begin();
        loop {
            seal.key.put(&mut tx, Some(seal.until), record.as_ref());
            if tx.commit().await? {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use goperation::v1::{CreatePortRequest, StartEntityRequest};
    use tonic::metadata::MetadataValue;

    use super::*;

    fn metadata(values: &[&str]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for value in values {
            metadata.append(METADATA, MetadataValue::try_from(*value).unwrap());
        }
        metadata
    }

    #[test]
    fn a_key_is_said_once() {
        let of = |values: &[&str], field: &str| {
            Key::of(&metadata(values), field).map(|key| key.map(|key| key.0))
        };
        assert_eq!(of(&[], "").unwrap(), None);
        for (values, field) in
            [(vec!["k"], ""), (vec![], "k"), (vec!["k"], "k"), (vec!["k"; 2], "")]
        {
            assert_eq!(of(&values, field).unwrap().as_deref(), Some("k"), "{values:?} {field}");
        }
        for (values, field) in
            [(vec!["k"], "l"), (vec!["k", "l"], ""), (vec![""], ""), (vec![], "\n")]
        {
            let error = of(&values, field).unwrap_err();
            assert_eq!(error.violations[0].field, "idempotency_key", "{values:?} {field}");
        }
        assert!(of(&[], &"ü".repeat(LONGEST)).is_ok());
        assert!(of(&[], &"k".repeat(LONGEST + 1)).is_err());
    }

    #[test]
    fn the_same_content_has_the_same_hash() {
        let request = StartEntityRequest { number: 7, ..StartEntityRequest::default() };
        let map = || HashMap::from_iter((0..20).map(|i| (format!("k{i}"), "v".to_owned())));
        // Each map has an order of its own.
        for _ in 0..20 {
            assert_eq!(content(&request, &[&map()]), content(&request, &[&map()]));
        }
        let other = CreatePortRequest::default();
        assert_ne!(content(&request, &[&map()]), content(&request, &[&HashMap::new()]));
        assert_ne!(content(&request, &[]), content(&other, &[]));
        let parts = |parts: &[&str]| digest(parts.iter().map(|part| part.as_bytes()));
        assert_ne!(parts(&["a", "bc"]), parts(&["ab", "c"]));
    }

    #[test]
    fn the_message_id_is_a_uuid_of_key_content_and_time() {
        let key = |text: &str| Key::parse(text).unwrap().unwrap();
        let id = key("k").message_id(b"hash", 1);
        assert_eq!(id, key("k").message_id(b"hash", 1));
        for other in [
            key("l").message_id(b"hash", 1),
            key("k").message_id(b"other", 1),
            key("k").message_id(b"hash", 2),
        ] {
            assert_ne!(id, other);
        }
        let text = id.as_str();
        assert_eq!((text.len(), &text[14..15]), (36, "8"));
        assert_eq!(text, text.to_lowercase());
    }
}
