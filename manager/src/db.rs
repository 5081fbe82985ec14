//! Typed records over the byte store, and optimistic transactions on them.
//!
//! Invariant: a transaction is applied only if every key that it read still has the value that it
//! read, and [`Tx::commit`] says yes only when that is durable. A transaction that only read
//! waits until what it read is durable. Those that lose against others over a key take turns, so they
//! do not make each other lose again; one that comes anew may still be faster.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use goperation::{Error, Reason, Result};
use goperation_store::{self as store, Key, Outcome, Scan, Store, Txn, Value};
use tokio_util::sync::CancellationToken;

use crate::{
    error::from_store,
    keys,
    record::AgentRecord,
    roster::Roster,
    turns::{Turn, Turns},
};

/// How long a transaction is tried again when others are faster.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is stored: a protobuf message behind one byte that says its version.
pub(crate) trait Record: prost::Message + Default {
    /// Version that is written.
    const VERSION: u8;
}

fn encode<R: Record>(record: &R) -> Value {
    let mut bytes = Vec::with_capacity(1 + record.encoded_len());
    bytes.push(R::VERSION);
    bytes.extend(record.encode_to_vec());
    bytes
}

fn decode<R: Record>(key: &[u8], bytes: &[u8]) -> Result<R> {
    let broken = |why: String| {
        Error::new(Reason::Internal, format!("record {} {why}", String::from_utf8_lossy(key)))
    };
    match bytes.split_first() {
        Some((&version, rest)) if version == R::VERSION => {
            R::decode(rest).map_err(|e| broken(format!("cannot be read: {e}")))
        }
        Some((version, _)) => Err(broken(format!("has version {version}, which is not known"))),
        None => Err(broken("is empty".to_owned())),
    }
}

fn decode_all<R: Record>(rows: Vec<store::Row>) -> Result<Vec<(Key, R)>> {
    rows.into_iter()
        .map(|(key, bytes)| {
            let record = decode(&key, &bytes)?;
            Ok((key, record))
        })
        .collect()
}

/// The first failure of the store: it takes nothing any more, so the manager must end.
#[derive(Debug, Default)]
struct Broken {
    error: OnceLock<store::Error>,
    token: CancellationToken,
}

/// The manager's record.
#[derive(Debug, Clone)]
pub(crate) struct Db {
    store: Arc<dyn Store>,
    broken: Arc<Broken>,
    /// Whose turn it is to change a key over which transactions have met.
    turns: Turns,
    /// The agents on record, once [`Db::read_roster`] has read them.
    pub(crate) roster: Arc<Roster>,
}

impl Db {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let (broken, turns, roster) = (Arc::default(), Turns::default(), Arc::default());
        Self { store, broken, turns, roster }
    }

    /// Reads which agents are on record; every change from then on is noted by its transaction.
    pub(crate) async fn read_roster(&self) -> Result<()> {
        for (_, record) in self.all::<AgentRecord>(keys::AGENTS.to_vec()).await? {
            self.roster.note(&record);
        }
        Ok(())
    }

    fn failed(&self, error: store::Error) -> Error {
        let _ = self.broken.error.set(error.clone());
        self.broken.token.cancel();
        from_store(error)
    }

    /// Waits until the store has failed.
    pub(crate) async fn broke(&self) {
        self.broken.token.cancelled().await;
    }

    /// Why the store has failed.
    pub(crate) fn broken(&self) -> Option<store::Error> {
        self.broken.error.get().cloned()
    }

    /// One record.
    pub(crate) async fn get<R: Record>(&self, key: Key) -> Result<Option<R>> {
        let bytes = self.store.get(key.clone()).await.map_err(|e| self.failed(e))?;
        bytes.map(|bytes| decode(&key, &bytes)).transpose()
    }

    /// Some records, in the order of their keys as given.
    pub(crate) async fn get_all<R: Record>(&self, keys: Vec<Key>) -> Result<Vec<Option<R>>> {
        let values = self.store.get_all(keys.clone()).await.map_err(|e| self.failed(e))?;
        let rows = keys.iter().zip(values);
        rows.map(|(key, value)| value.map(|bytes| decode(key, &bytes)).transpose()).collect()
    }

    async fn scan(&self, scan: Scan) -> Result<Vec<store::Row>> {
        self.store.scan(scan).await.map_err(|e| self.failed(e))
    }

    /// Every record whose key begins with `prefix`, in order.
    pub(crate) async fn all<R: Record>(&self, prefix: Key) -> Result<Vec<(Key, R)>> {
        decode_all(self.scan(Scan::prefix(prefix)).await?)
    }

    /// Every key that begins with `prefix`, in order.
    pub(crate) async fn keys(&self, prefix: Key) -> Result<Vec<Key>> {
        let rows = self.scan(Scan::prefix(prefix)).await?;
        Ok(rows.into_iter().map(|(key, _)| key).collect())
    }

    /// Every key from `start` up to, not including, `end`.
    pub(crate) async fn keys_between(
        &self,
        start: Key,
        end: Key,
        limit: usize,
    ) -> Result<Vec<Key>> {
        let scan = Scan { start, end, limit, reverse: false };
        let rows = self.scan(scan).await?;
        Ok(rows.into_iter().map(|(key, _)| key).collect())
    }

    /// Every record from `start` up to, not including, `end`.
    pub(crate) async fn between<R: Record>(&self, start: Key, end: Key) -> Result<Vec<(Key, R)>> {
        decode_all(self.scan(Scan { start, end, limit: usize::MAX, reverse: false }).await?)
    }

    /// At most `limit` records whose keys begin with `prefix`, in order, those after the key `after`
    /// when it is given: a long list in parts.
    pub(crate) async fn part<R: Record>(
        &self,
        prefix: Key,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, R)>> {
        let mut scan = Scan::prefix(prefix).limit(limit);
        if let Some(after) = after {
            // The least key that is greater.
            scan.start = [after, &[0]].concat();
        }
        decode_all(self.scan(scan).await?)
    }

    /// A transaction, to be run in a loop until [`Tx::commit`] says yes.
    pub(crate) fn begin(&self) -> Tx {
        Tx {
            db: self.clone(),
            reads: BTreeMap::new(),
            writes: BTreeMap::new(),
            began: Instant::now(),
            turn: None,
        }
    }
}

/// Reads and writes that happen together.
#[derive(Debug)]
pub(crate) struct Tx {
    db: Db,
    reads: BTreeMap<Key, Option<Value>>,
    writes: BTreeMap<Key, Option<Value>>,
    began: Instant,
    /// Over the key for which it has lost last.
    turn: Option<Turn>,
}

impl Tx {
    async fn read(&mut self, key: Key) -> Result<Option<Value>> {
        if let Some(written) = self.writes.get(&key) {
            return Ok(written.clone());
        }
        if let Some(read) = self.reads.get(&key) {
            return Ok(read.clone());
        }
        let value = self.db.store.get(key.clone()).await.map_err(|e| self.db.failed(e))?;
        self.reads.insert(key, value.clone());
        Ok(value)
    }

    /// One record; it must not have changed by the commit.
    pub(crate) async fn get<R: Record>(&mut self, key: Key) -> Result<Option<R>> {
        let value = self.read(key.clone()).await?;
        value.map(|bytes| decode(&key, &bytes)).transpose()
    }

    /// Whether a key is there; that must not have changed by the commit.
    pub(crate) async fn has(&mut self, key: Key) -> Result<bool> {
        Ok(self.read(key).await?.is_some())
    }

    /// One number; 0 when there is none.
    pub(crate) async fn number(&mut self, key: Key) -> Result<u64> {
        let Some(value) = self.read(key.clone()).await? else { return Ok(0) };
        let bytes = <[u8; 8]>::try_from(value.as_slice()).map_err(|_| {
            let key = String::from_utf8_lossy(&key);
            Error::new(Reason::Internal, format!("counter {key} cannot be read"))
        })?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// Sets a record.
    pub(crate) fn put<R: Record>(&mut self, key: Key, record: &R) {
        self.writes.insert(key, Some(encode(record)));
    }

    /// Sets a number.
    pub(crate) fn put_number(&mut self, key: Key, number: u64) {
        self.writes.insert(key, Some(number.to_be_bytes().to_vec()));
    }

    /// Sets a key that has no value of its own.
    pub(crate) fn mark(&mut self, key: Key) {
        self.writes.insert(key, Some(Vec::new()));
    }

    /// Removes a key.
    pub(crate) fn delete(&mut self, key: Key) {
        self.writes.insert(key, None);
    }

    /// Applies it. `false`: another one was faster, and the loop goes round again.
    pub(crate) async fn commit(&mut self) -> Result<bool> {
        let mut txn = Txn::new();
        let (reads, writes) = (std::mem::take(&mut self.reads), std::mem::take(&mut self.writes));
        if !writes.is_empty() {
            for (key, value) in reads {
                txn = match value {
                    Some(value) => txn.equals(key, value),
                    None => txn.absent(key),
                };
            }
        }
        let agents = agents(&writes)?;
        for (key, value) in writes {
            txn = match value {
                Some(value) => txn.put(key, value),
                None => txn.delete(key),
            };
        }
        match self.db.store.commit(txn).await.map_err(|e| self.db.failed(e))? {
            Outcome::Applied => {
                for (id, record) in agents {
                    match record {
                        Some(record) => self.db.roster.note(&record),
                        None => self.db.roster.removed(id),
                    }
                }
                self.turn = None;
                Ok(true)
            }
            Outcome::Conflict { key, .. } => self.lost(key).await.map(|()| false),
        }
    }

    /// Waits until nobody else who has lost over that key tries again.
    async fn lost(&mut self, key: Key) -> Result<()> {
        let left = PATIENCE.saturating_sub(self.began.elapsed());
        // Who has come meanwhile was faster: that is no reason to go to the end of the queue.
        if !self.turn.as_ref().is_some_and(|turn| turn.is_of(&key)) {
            // Never two turns, or two transactions could wait for each other.
            self.turn = None;
            self.turn = self.db.turns.wait(key.as_slice(), left).await;
        }
        if self.turn.is_some() && !left.is_zero() {
            return Ok(());
        }
        let key = String::from_utf8_lossy(&key);
        let what = format!("too many changes to {key} at once; nothing was done, try again");
        Err(Error::new(Reason::Unavailable, what).with_retry_after(Duration::from_secs(1)))
    }
}

/// What writes make of the records of agents.
fn agents(writes: &BTreeMap<Key, Option<Value>>) -> Result<Vec<(u32, Option<AgentRecord>)>> {
    let from = writes.range(keys::AGENTS.to_vec()..);
    from.take_while(|(key, _)| key.starts_with(keys::AGENTS))
        .filter_map(|(key, value)| Some((key, keys::last_number(key)?, value)))
        .map(|(key, id, value)| {
            Ok((id, value.as_ref().map(|bytes| decode(key, bytes)).transpose()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_with;

    use futures::future::join_all;
    use goperation_store::{Options, SledStore};

    use super::*;

    async fn raise(db: &Db, tries: &mut usize) {
        let mut tx = db.begin();
        loop {
            *tries += 1;
            let number = tx.number(b"n".to_vec()).await.unwrap();
            tx.put_number(b"n".to_vec(), number + 1);
            if tx.commit().await.unwrap() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn however_many_change_one_key_each_is_tried_about_twice() {
        const MANY: usize = 500;
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(Options::new(folder.path())).unwrap();
        let db = Db::new(Arc::new(store.clone()));
        let each = join_all(
            repeat_with(|| async {
                let mut tries = 0;
                raise(&db, &mut tries).await;
                tries
            })
            .take(MANY),
        )
        .await;
        assert_eq!(db.begin().number(b"n".to_vec()).await.unwrap(), MANY as u64);
        let tries: usize = each.iter().sum();
        assert!(tries <= 3 * MANY, "{tries} tries");
        drop(db);
        store.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn whose_turn_does_not_come_in_time_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(Options::new(folder.path())).unwrap();
        let db = Db::new(Arc::new(store.clone()));
        let _turn = db.turns.wait("n", PATIENCE).await.unwrap();
        let mut tx = db.begin();
        assert_eq!(tx.number(b"n".to_vec()).await.unwrap(), 0);
        raise(&db, &mut 0).await;
        tx.put_number(b"n".to_vec(), 1);
        let error = tx.commit().await.unwrap_err();
        assert_eq!((error.reason, error.retry_after.is_some()), (Reason::Unavailable, true));
        drop((tx, db));
        store.close().await;
    }
}
