//! `kill -9` at any instant loses nothing that was acknowledged and leaves nothing half done.
//!
//! A child, this same program, commits numbered transactions with many in flight and prints the
//! number of each that is acknowledged. The parent keeps that ledger outside of the store, kills
//! the child, opens the store and compares.
//!
//! What transaction n leaves is a function of n alone, so the rows must be exactly those of some
//! last transaction, and that one may not be earlier than any in the ledger.
//!
//! A child that is killed in full flow has begun the next group when the last one is
//! acknowledged, and that alone makes sled write the last one. So other children fall silent
//! first: only there does a missing flush surely show.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesOrdered};
use goperation_store::{Durability, Key, Options, Scan, SledStore, Store, Txn, Value};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

/// Durability, number of transactions and folder of a child.
const CHILD: &str = "STORE_CRASH_CHILD";
const SEED: &str = "STORE_CRASH_SEED";
/// Transactions in flight.
const FLIGHT: usize = 200;
/// Rows of older transactions are deleted, so that the store also reuses its space.
const KEPT: u64 = 300;
const LAST: &[u8] = b"last";
/// A child that does nothing for so long hangs.
const HANG: Duration = Duration::from_secs(60);

fn rows_of(n: u64) -> Vec<(Key, Value)> {
    // From a few bytes to beyond what sled keeps in its log.
    let size = match n % 50 {
        49 => 140_000,
        rest => (rest * rest) as usize,
    };
    let key = |part: u64| format!("{}/{n:010}", part).into_bytes();
    (0..4)
        .map(|part| (key(part), [n, part].map(u64::to_be_bytes).concat().repeat(1 + size / 64)))
        .collect()
}

fn txn(n: u64) -> Txn {
    let mut txn = Txn::new().put(LAST, n.to_be_bytes());
    for (key, value) in rows_of(n) {
        txn = txn.put(key, value);
    }
    for (key, _) in n.checked_sub(KEPT).map(rows_of).into_iter().flatten() {
        txn = txn.delete(key);
    }
    match n {
        0 => txn.absent(LAST),
        n => txn.equals(LAST, (n - 1).to_be_bytes()),
    }
}

/// All rows when `last` is the last transaction.
fn expected(last: Option<u64>) -> BTreeMap<Key, Value> {
    let Some(last) = last else { return BTreeMap::new() };
    let first = (last + 1).saturating_sub(KEPT);
    let mut rows: BTreeMap<_, _> = (first..=last).flat_map(rows_of).collect();
    rows.insert(LAST.to_vec(), last.to_be_bytes().to_vec());
    rows
}

async fn last(store: &SledStore) -> Option<u64> {
    let last = store.get(LAST.to_vec()).await.unwrap();
    last.map(|last| u64::from_be_bytes(last.try_into().unwrap()))
}

/// What the child does, until it is killed or its parent is gone.
async fn child(folder: &Path, durability: Durability, count: u64) {
    thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    let store = SledStore::open(Options::new(folder).durability(durability)).unwrap();
    let first = last(&store).await.map_or(0, |last| last + 1);
    let mut numbers = first..first.saturating_add(count);
    let mut flight = FuturesOrdered::new();
    loop {
        while flight.len() < FLIGHT
            && let Some(n) = numbers.next()
        {
            let pending = store.reserve().await.unwrap().submit(txn(n));
            flight.push_back(async move { (n, pending.await) });
        }
        let Some((n, outcome)) = flight.next().await else { break };
        assert!(outcome.unwrap().is_applied(), "{n}");
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nack {n}").unwrap();
        out.flush().unwrap();
    }
    std::future::pending().await
}

/// Kills a child whatever happens to the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// When a child is killed.
#[derive(Debug)]
struct Kill {
    /// After so many acknowledgements were read.
    acks: u64,
    /// Whether the child does no more than that.
    silent: bool,
    /// And so much later.
    delay: Duration,
}

/// Runs a child and kills it; the last acknowledgement.
fn round(test: &str, folder: &Path, durability: Durability, kill: &Kill) -> Option<u64> {
    let count = if kill.silent { kill.acks } else { u64::MAX };
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env(CHILD, format!("{durability:?}:{count}:{}", folder.display()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Killed(command.spawn().unwrap());
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let mut err = child.0.stderr.take().unwrap();

    let (lines, ledger) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut line = String::new();
        while out.read_line(&mut line).unwrap() > 0 {
            // Without its end it was cut off by the kill.
            if let Some(n) = line.strip_prefix("ack ").and_then(|rest| rest.strip_suffix('\n')) {
                let _ = lines.send(n.parse::<u64>().unwrap());
            }
            line.clear();
        }
    });
    let mut last = None;
    let mut died = false;
    for _ in 0..kill.acks {
        match ledger.recv_timeout(HANG) {
            Ok(n) => last = Some(n),
            Err(_) => {
                died = true;
                break;
            }
        }
    }
    // The instant of the kill, not a wait for something.
    thread::sleep(kill.delay);
    drop(child);
    reader.join().unwrap();
    let mut said = String::new();
    err.read_to_string(&mut said).unwrap();
    assert!(!died, "the child ended or hung: {said}");
    assert!(!said.contains("panicked"), "{said}");
    ledger.try_iter().last().or(last)
}

/// The rows after a kill, and the last transaction.
fn look(folder: &Path) -> (Option<u64>, BTreeMap<Key, Value>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SledStore::open(Options::new(folder)).unwrap();
        let rows = store.scan(Scan::prefix("")).await.unwrap().into_iter().collect();
        let last = last(&store).await;
        store.close().await;
        (last, rows)
    })
}

/// Rounds of kills; how many lost an acknowledged transaction. Half a one is never forgiven.
fn losses(test: &str, durability: Durability, rounds: u32) -> u32 {
    let seed = env::var(SEED).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("{SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut folder = TempDir::new().unwrap();
    let mut before = None;
    let mut losses = 0;
    for number in 0..rounds {
        if number % 10 == 0 {
            (folder, before) = (TempDir::new().unwrap(), None);
        }
        // One in five is killed while it starts; the first falls silent whatever the seed.
        let starts = number > 0 && random.random_ratio(1, 5);
        let kill = Kill {
            acks: if starts { 0 } else { random.random_range(1..1500) },
            silent: number == 0 || !starts && random.random_ratio(1, 2),
            delay: Duration::from_micros(random.random_range(0..20_000)),
        };
        let acknowledged = round(test, folder.path(), durability, &kill).or(before);
        let (last, rows) = look(folder.path());
        println!("round {number}: {kill:?}: acknowledged {acknowledged:?}, found {last:?}");
        let wrong = diff(&rows, &expected(last));
        assert!(wrong.is_empty(), "half a transaction, last is {last:?}: {wrong:?}");
        losses += u32::from(last < acknowledged);
        before = last;
    }
    losses
}

fn diff(found: &BTreeMap<Key, Value>, expected: &BTreeMap<Key, Value>) -> Vec<String> {
    let keys = found.keys().chain(expected.keys());
    let wrong = keys.filter(|key| found.get(*key) != expected.get(*key));
    wrong.map(|key| String::from_utf8_lossy(key).into_owned()).collect()
}

/// Runs as the child if this process is one.
fn is_child() -> bool {
    let Ok(asked) = env::var(CHILD) else { return false };
    let mut asked = asked.splitn(3, ':');
    let durability = match asked.next().unwrap() {
        "Crash" => Durability::Crash,
        "Power" => Durability::Power,
        _ => Durability::None,
    };
    let count = asked.next().unwrap().parse().unwrap();
    let folder = PathBuf::from(asked.next().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(child(&folder, durability, count));
    true
}

#[test]
fn a_kill_loses_nothing_acknowledged() {
    if !is_child() {
        let losses = losses("a_kill_loses_nothing_acknowledged", Durability::Crash, 30);
        assert_eq!(losses, 0, "rounds that lost an acknowledged transaction");
    }
}

#[test]
fn a_kill_loses_nothing_acknowledged_with_power() {
    if !is_child() {
        let losses = losses("a_kill_loses_nothing_acknowledged_with_power", Durability::Power, 10);
        assert_eq!(losses, 0, "rounds that lost an acknowledged transaction");
    }
}

/// The proof that this test sees a missing flush.
#[test]
fn without_flush_a_kill_loses_what_was_acknowledged() {
    if !is_child() {
        let test = "without_flush_a_kill_loses_what_was_acknowledged";
        assert!(losses(test, Durability::None, 20) > 0, "no round lost anything");
    }
}
