//! Opening, closing, sharing commits, and what happens when a write fails.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    error::Error as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::join_all};
use goperation_store::{Durability, Error, Options, Scan, SledStore, Store, Txn};
use tempfile::TempDir;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

fn open(folder: &Path) -> SledStore {
    SledStore::open(Options::new(folder)).unwrap()
}

fn refused(folder: &Path) -> String {
    let error = SledStore::open(Options::new(folder)).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(folder.to_str().unwrap()), "{text}");
    error.source().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_callers_share_commits() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let callers = (0..64).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let txn =
                    Txn::new().absent(format!("{caller}/{n}")).put(format!("{caller}/{n}"), "");
                assert!(store.commit(txn).await.unwrap().is_applied());
            }
        })
    });
    for caller in join_all(callers).await {
        caller.unwrap();
    }
    let stats = store.stats();
    assert_eq!(stats.transactions, 64 * 50);
    assert!(stats.groups * 4 <= stats.transactions, "{stats:?}");
    assert_eq!(store.scan(Scan::prefix("")).await.unwrap().len(), 64 * 50);
    store.close().await;
}

/// A caller may have begun many reads and look after none of them while it waits for another one.
#[tokio::test]
async fn reads_that_nobody_looks_after_hold_up_nobody() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    let mut begun: Vec<_> = (0..500).map(|_| store.get("a".into())).collect();
    for read in &mut begun {
        let _ = read.now_or_never();
    }
    for _ in 0..100 {
        let value = timeout(SOON, store.get("a".into())).await.expect("it is not held up").unwrap();
        assert_eq!(value, Some("1".into()));
    }
    // Some have ended at the first look already.
    drop(begun);
    timeout(SOON, store.close()).await.unwrap();
}

#[tokio::test]
async fn one_caller_has_every_commit_for_itself() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    for n in 0..20 {
        store.commit(Txn::new().put(format!("{n}"), "")).await.unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.transactions, stats.groups), (20, 20));
    store.close().await;
}

/// What changes nothing and waits for nothing is answered without the owner thread.
#[tokio::test]
async fn an_empty_transaction_waits_for_what_is_before_it_alone() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    for n in 2..50 {
        let before = store.reserve().await.unwrap();
        let after = store.reserve().await.unwrap();
        let mut before = before.submit(Txn::new().put("a", format!("{n}")));
        assert!(after.submit(Txn::new()).await.unwrap().is_applied());
        let written = (&mut before).now_or_never().expect("it is durable by then");
        assert!(written.unwrap().is_applied());
    }
    // The owner thread goes to sleep a moment after its last answer, and is not woken from then on.
    let began = Instant::now();
    let asleep = loop {
        let seen = store.stats();
        store.commit(Txn::new()).await.unwrap();
        if store.stats() == seen {
            break seen;
        }
        assert!(began.elapsed() < SOON, "it is woken each time");
        tokio::task::yield_now().await;
    };
    for _ in 0..50 {
        assert!(store.commit(Txn::new()).await.unwrap().is_applied());
    }
    assert_eq!(store.stats(), asleep);
    store.close().await;
    assert!(matches!(store.commit(Txn::new()).await, Err(Error::Closed)));
}

#[tokio::test]
async fn a_closed_store_can_be_opened_at_once() {
    let folder = TempDir::new().unwrap();
    for n in 0..30_u32 {
        let store = open(folder.path());
        let rows = store.scan(Scan::prefix("")).await.unwrap();
        assert_eq!(rows.len(), n as usize * 10);
        let txn = (0..10).fold(Txn::new(), |txn, key| txn.put(format!("{n}/{key}"), vec![7; 9000]));
        store.commit(txn).await.unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn close_writes_what_is_queued_and_takes_nothing_more() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let early = store.reserve().await.unwrap();
    let mut queued = Vec::new();
    for n in 0..500 {
        queued.push(store.reserve().await.unwrap().submit(Txn::new().put(format!("{n}"), "")));
    }
    store.close().await;
    for pending in join_all(queued).await {
        assert!(pending.unwrap().is_applied());
    }
    assert!(matches!(early.submit(Txn::new().put("late", "")).await, Err(Error::Closed)));
    assert!(matches!(store.reserve().await, Err(Error::Closed)));
    assert!(matches!(store.commit(Txn::new()).await, Err(Error::Closed)));
    assert!(matches!(store.get(b"0".to_vec()).await, Err(Error::Closed)));
    assert!(matches!(store.scan(Scan::prefix("")).await, Err(Error::Closed)));
    timeout(SOON, store.close()).await.unwrap();

    let store = open(folder.path());
    assert_eq!(store.scan(Scan::prefix("")).await.unwrap().len(), 500);
    store.close().await;
}

#[tokio::test]
async fn close_waits_for_reads_under_way() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let txn = (0..1000).fold(Txn::new(), |txn, n| txn.put(format!("{n}"), vec![1; 1000]));
    store.commit(txn).await.unwrap();
    let reads: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.scan(Scan::prefix("")).await })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await;
    let again = open(folder.path());
    for read in join_all(reads).await {
        match read.unwrap() {
            Ok(rows) => assert_eq!(rows.len(), 1000),
            Err(error) => assert!(matches!(error, Error::Closed), "{error:?}"),
        }
    }
    again.close().await;
}

#[test]
fn dropping_without_close_writes_what_is_queued_and_does_not_hang() {
    let folder = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let early = runtime.block_on(async {
        let store = open(folder.path());
        let early = store.reserve().await.unwrap();
        drop(store.reserve().await.unwrap().submit(Txn::new().put("a", "1")));
        let read = store.get(b"a".to_vec());
        drop(read);
        early
    });
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // A slot outlives its store.
        let late = timeout(SOON, early.submit(Txn::new())).await.unwrap();
        assert!(matches!(late, Err(Error::Closed)));
        let deadline = Instant::now() + SOON;
        let store = loop {
            match SledStore::open(Options::new(folder.path())) {
                Ok(store) => break store,
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
        };
        assert_eq!(store.get(b"a".to_vec()).await.unwrap(), Some(b"1".to_vec()));
        store.close().await;
    });
}

#[tokio::test]
async fn a_folder_has_one_store() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    assert!(refused(folder.path()).contains("another process has it open"));
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_file_is_no_folder() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "x").unwrap();
    assert!(refused(&path).contains("failed to make the folder"));
}

#[tokio::test]
async fn other_formats_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    open(folder.path()).close().await;
    let db = sled::open(folder.path()).unwrap();
    let meta = db.open_tree("meta").unwrap();
    assert_eq!(meta.insert("format", &2_u32.to_be_bytes()).unwrap().unwrap(), 1_u32.to_be_bytes());
    meta.flush().unwrap();
    drop((meta, db));
    assert_eq!(refused(folder.path()), "it has format 2, and this version reads only format 1");
}

#[tokio::test]
async fn what_another_program_made_is_refused() {
    let folder = TempDir::new().unwrap();
    let db = sled::open(folder.path()).unwrap();
    db.insert("a", "1").unwrap();
    db.flush().unwrap();
    drop(db);
    assert!(refused(folder.path()).contains("another program made it"));
    // And is left as it was.
    let db = sled::open(folder.path()).unwrap();
    assert_eq!(db.get("a").unwrap().unwrap(), "1");
}

#[tokio::test]
async fn the_format_is_no_row() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    assert_eq!(store.scan(Scan::prefix("")).await.unwrap(), []);
    store.close().await;
}

#[tokio::test]
async fn what_a_killed_opening_left_half_written_is_no_obstacle() {
    let folder = TempDir::new().unwrap();
    // Killed while the settings of a new store were written.
    fs::write(folder.path().join("conf"), "segment_size: 52").unwrap();
    let store = open(folder.path());
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    store.close().await;
    // Killed while the snapshot of a restart was written.
    fs::write(folder.path().join("snap.7FFFFFFFFFFFFFFF.generating"), "half").unwrap();
    let store = open(folder.path());
    assert_eq!(store.get(b"a".to_vec()).await.unwrap(), Some(b"1".to_vec()));
    store.close().await;
}

#[tokio::test]
async fn a_failed_write_fails_its_group_and_closes_the_store() {
    for durability in [Durability::Crash, Durability::Power] {
        let folder = TempDir::new().unwrap();
        let options = Options::new(folder.path()).durability(durability);
        let store = SledStore::open(options).unwrap();
        store.commit(Txn::new().put("kept", "1")).await.unwrap();

        // Large values go to files of their own in this folder.
        fs::remove_dir(folder.path().join("blobs")).unwrap();
        let mut slots = Vec::new();
        for _ in 0..20 {
            slots.push(store.reserve().await.unwrap());
        }
        let late = store.reserve().await.unwrap();
        let large = |n: usize| Txn::new().put(format!("{n}"), vec![0; 1_000_000]);
        let pending: Vec<_> =
            slots.into_iter().enumerate().map(|(n, slot)| slot.submit(large(n))).collect();
        let answers = timeout(SOON, join_all(pending)).await.unwrap();
        assert!(matches!(answers[0], Err(Error::Failed(_))), "{:?}", answers[0]);
        for answer in answers {
            assert!(matches!(answer, Err(Error::Failed(_) | Error::Closed)), "{answer:?}");
        }
        assert!(matches!(late.submit(Txn::new()).await, Err(Error::Closed)));
        assert!(matches!(store.commit(Txn::new()).await, Err(Error::Closed)));
        assert!(matches!(store.get(b"kept".to_vec()).await, Err(Error::Closed)));
        timeout(SOON, store.close()).await.unwrap();

        // This process keeps the folder locked, so look at a copy of it.
        let copy = TempDir::new().unwrap();
        for entry in fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let store = open(copy.path());
        assert_eq!(store.get(b"kept".to_vec()).await.unwrap(), Some(b"1".to_vec()));
        store.close().await;
    }
}

#[tokio::test]
async fn a_small_cache_holds_a_large_store() {
    let folder = TempDir::new().unwrap();
    let options = Options { cache_bytes: 256 * 1024, ..Options::new(folder.path()) };
    let store = SledStore::open(options.clone()).unwrap();
    let key = |n: u32| (n.wrapping_mul(2_654_435_761)).to_be_bytes().to_vec();
    for group in 0..20 {
        let txn = (group * 500..group * 500 + 500)
            .fold(Txn::new(), |txn, n| txn.put(key(n), vec![n as u8; 1000]));
        timeout(SOON, store.commit(txn)).await.unwrap().unwrap();
    }
    store.close().await;
    let store = SledStore::open(options).unwrap();
    for n in (0..10_000).step_by(97) {
        assert_eq!(store.get(key(n)).await.unwrap(), Some(vec![n as u8; 1000]));
    }
    assert_eq!(store.scan(Scan::prefix("")).await.unwrap().len(), 10_000);
    store.close().await;
}
