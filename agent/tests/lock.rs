//! The work lock's order, its queue and its refusal of re-entry.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    cell::Cell,
    collections::HashSet,
    future::Future,
    pin::Pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, Waker},
    thread::JoinHandle,
};

use futures::executor::block_on;
use goperation_agent::lock::{Acquire, Operation, Reentrant, WorkLock};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

const WAITERS: usize = 10_000;

/// A thread that holds the lock until it is told to let go.
struct Holding {
    let_go: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Holding {
    fn of<T: Send + 'static>(lock: &Arc<WorkLock<T>>, operation: Operation) -> Self {
        let (let_go, wait) = mpsc::channel();
        let (has, held) = mpsc::channel();
        let lock = Arc::clone(lock);
        let thread = std::thread::spawn(move || {
            let guard = block_on(lock.acquire(operation)).unwrap();
            has.send(()).unwrap();
            wait.recv().unwrap();
            drop(guard);
        });
        held.recv().unwrap();
        Self { let_go, thread }
    }

    fn let_go(self) {
        self.let_go.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

fn poll<T>(acquire: &mut Acquire<'_, T>) -> Option<Result<(), Reentrant>> {
    match Pin::new(acquire).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result.map(drop)),
        Poll::Pending => None,
    }
}

fn operations(seed: u64) -> Vec<Operation> {
    let mut rng = StdRng::seed_from_u64(seed);
    let all = Operation::ALL;
    (0..WAITERS).map(|_| all[rng.random_range(0..all.len())]).collect()
}

/// The numbers of those who stay, by priority and then by arrival.
fn expected(operations: &[Operation], stays: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..operations.len()).filter(|&i| stays(i)).collect();
    order.sort_by_key(|&i| (operations[i].priority(), i));
    order
}

/// Queues a waiter for each operation, drops some, serves the rest in tasks on two threads and
/// gives the order in which they had the lock.
fn serve(operations: &[Operation], dropped: &HashSet<usize>) -> Vec<usize> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let lock: &'static Arc<WorkLock<Vec<usize>>> =
        Box::leak(Box::new(Arc::new(WorkLock::new(Vec::new()))));
    let holding = Holding::of(lock, Operation::IsActive);
    let mut waiters: Vec<Option<Acquire<'_, _>>> = operations
        .iter()
        .map(|&operation| {
            let mut acquire = lock.acquire(operation);
            assert_eq!(poll(&mut acquire), None);
            Some(acquire)
        })
        .collect();
    for (nth, &i) in dropped.iter().enumerate() {
        waiters[i] = None;
        if nth % 1000 == 0 {
            assert_eq!(lock.inspect().waiters.len(), operations.len() - nth - 1);
        }
    }
    let seen: Vec<_> = lock.inspect().waiters.iter().map(|w| w.operation).collect();
    let order = expected(operations, |i| !dropped.contains(&i));
    assert_eq!(seen, order.iter().map(|&i| operations[i]).collect::<Vec<_>>());

    let tasks: Vec<_> = waiters
        .into_iter()
        .enumerate()
        .filter_map(|(i, acquire)| Some((i, acquire?)))
        .map(|(i, acquire)| runtime.spawn(async move { acquire.await.unwrap().push(i) }))
        .collect();
    holding.let_go();
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(lock.inspect().holder, None);
    block_on(lock.acquire(Operation::IsActive)).unwrap().clone()
}

#[test]
fn ten_thousand_waiters_are_served_by_priority_then_arrival() {
    let operations = operations(1);
    assert_eq!(serve(&operations, &HashSet::new()), expected(&operations, |_| true));
}

#[test]
fn dropped_waiters_vanish_and_the_rest_keep_their_order() {
    let operations = operations(2);
    let mut dropped: Vec<usize> = (0..WAITERS).collect();
    dropped.shuffle(&mut StdRng::seed_from_u64(3));
    dropped.truncate(WAITERS / 2);
    let dropped = HashSet::from_iter(dropped);
    let served = serve(&operations, &dropped);
    assert_eq!(served, expected(&operations, |i| !dropped.contains(&i)));
}

#[test]
fn a_new_arrival_does_not_overtake_a_granted_waiter() {
    let lock = Arc::new(WorkLock::new(0));
    let holding = Holding::of(&lock, Operation::IsActive);
    let mut first = lock.acquire(Operation::FrozenPort);
    assert_eq!(poll(&mut first), None);
    holding.let_go();
    // Granted, not yet polled: equal, lower and higher priorities queue behind it.
    for operation in [Operation::FrozenPort, Operation::IsActive, Operation::ForceStatus] {
        assert_eq!(poll(&mut lock.acquire(operation)), None, "{operation}");
    }
    assert_eq!(lock.inspect().holder.unwrap().0, Operation::FrozenPort);
    assert_eq!(poll(&mut first), Some(Ok(())));
    assert_eq!(lock.inspect().holder, None);
}

#[test]
fn a_waiter_dropped_after_it_was_granted_passes_the_lock_on() {
    let lock = Arc::new(WorkLock::new(0));
    let holding = Holding::of(&lock, Operation::IsActive);
    let mut waiters: Vec<_> = (0..4).map(|_| lock.acquire(Operation::FreePorts)).collect();
    for waiter in &mut waiters {
        assert_eq!(poll(waiter), None);
    }
    holding.let_go();
    let mut last = waiters.pop().unwrap();
    drop(waiters.remove(0)); // granted: on to the second
    drop(waiters.pop()); // the third, still waiting
    assert_eq!(lock.inspect().waiters.len(), 1);
    assert_eq!(poll(&mut last), None);
    drop(waiters.pop()); // the second, granted by the first
    assert_eq!(poll(&mut last), Some(Ok(())));
    assert_eq!(lock.inspect().holder, None);
}

#[test]
fn cancelled_at_random_the_lock_is_never_lost() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let lock = Arc::new(WorkLock::new(0usize));
    let mut rng = StdRng::seed_from_u64(4);
    let done = runtime.block_on(async {
        let mut done = 0;
        for _ in 0..200 {
            let tasks: Vec<_> = (0..20)
                .map(|i| {
                    let lock = Arc::clone(&lock);
                    tokio::spawn(async move {
                        tokio::task::yield_now().await;
                        *lock.acquire(Operation::ALL[i % 16]).await.unwrap() += 1;
                    })
                })
                .collect();
            for task in &tasks {
                if rng.random_bool(0.5) {
                    task.abort();
                }
            }
            for task in tasks {
                done += usize::from(task.await.is_ok());
            }
        }
        done
    });
    let inspection = lock.inspect();
    assert_eq!((inspection.holder, inspection.waiters.len()), (None, 0));
    // One that is aborted after its change has made it nevertheless.
    assert!(*block_on(lock.acquire(Operation::IsActive)).unwrap() >= done);
}

#[tokio::test]
async fn re_entry_in_a_task_is_an_error_that_names_the_holder() {
    let lock = Arc::new(WorkLock::new(0));
    let expected = Reentrant { wanted: Operation::ForceStatus, holder: Operation::DeletePrecommit };
    let task = tokio::spawn({
        let lock = Arc::clone(&lock);
        async move {
            let guard = lock.acquire(Operation::DeletePrecommit).await.unwrap();
            let again = poll(&mut lock.acquire(Operation::ForceStatus));
            drop(guard);
            // Freed, it can be taken by the same task again.
            drop(lock.acquire(Operation::ForceStatus).await.unwrap());
            again
        }
    });
    assert_eq!(task.await.unwrap(), Some(Err(expected)));
    assert!(expected.to_string().contains("delete_agent_precommit"), "{expected}");
}

#[test]
fn re_entry_in_block_on_is_an_error() {
    let lock = WorkLock::new(0);
    let expected = Reentrant { wanted: Operation::IsActive, holder: Operation::SetStatus };
    let again = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let _guard = lock.acquire(Operation::SetStatus).await.unwrap();
        lock.acquire(Operation::IsActive).await.map(drop)
    });
    assert_eq!(again, Err(expected));
    let _guard = block_on(lock.acquire(Operation::SetStatus)).unwrap();
    assert_eq!(block_on(lock.acquire(Operation::IsActive)).map(drop), Err(expected));
}

#[test]
fn a_waiter_whose_own_task_gets_the_lock_is_told_so() {
    let lock = Arc::new(WorkLock::new(0));
    let holding = Holding::of(&lock, Operation::IsActive);
    let mut first = lock.acquire(Operation::AgentId);
    let mut second = lock.acquire(Operation::FreePorts);
    assert_eq!((poll(&mut first), poll(&mut second)), (None, None));
    holding.let_go();
    let _guard = block_on(first).unwrap();
    let expected = Reentrant { wanted: Operation::FreePorts, holder: Operation::AgentId };
    assert_eq!(poll(&mut second), Some(Err(expected)));
    assert_eq!(lock.inspect().waiters.len(), 0);
}

#[test]
fn another_task_on_the_same_thread_waits() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let lock = std::rc::Rc::new(WorkLock::new(0));
    let (let_go, wait) = tokio::sync::oneshot::channel();
    let had_it = std::rc::Rc::new(Cell::new(false));
    local.block_on(&runtime, async {
        let holder = tokio::task::spawn_local({
            let lock = std::rc::Rc::clone(&lock);
            async move {
                let _guard = lock.acquire(Operation::UpgradeAgent).await.unwrap();
                wait.await.unwrap();
            }
        });
        while lock.inspect().holder.is_none() {
            tokio::task::yield_now().await;
        }
        let waiter = tokio::task::spawn_local({
            let (lock, had_it) = (std::rc::Rc::clone(&lock), std::rc::Rc::clone(&had_it));
            async move {
                *lock.acquire(Operation::IsActive).await.unwrap() += 1;
                had_it.set(true);
            }
        });
        while lock.inspect().waiters.is_empty() {
            tokio::task::yield_now().await;
        }
        let inspection = lock.inspect();
        assert_eq!(inspection.holder.unwrap().0, Operation::UpgradeAgent);
        assert_eq!(inspection.waiters[0].operation, Operation::IsActive);
        assert_eq!(inspection.waiters[0].priority, 5);
        assert!(!had_it.get());
        let_go.send(()).unwrap();
        holder.await.unwrap();
        waiter.await.unwrap();
    });
    assert!(had_it.get());
}

#[test]
fn a_panic_under_the_lock_frees_it() {
    let lock = Arc::new(WorkLock::new(1));
    let thread = std::thread::spawn({
        let lock = Arc::clone(&lock);
        move || {
            let _guard = block_on(lock.acquire(Operation::SetStatus)).unwrap();
            panic!("under the lock");
        }
    });
    assert!(thread.join().is_err());
    assert_eq!(*block_on(lock.acquire(Operation::SetStatus)).unwrap(), 1);
}
