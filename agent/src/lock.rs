//! The work lock (contract §5): one prioritized lock that guards the agent's state.
//!
//! Invariants: 0 is the most urgent, equal priorities are first come, first served; a freed lock
//! is handed to the first waiter at once, so that no new arrival overtakes a waiter of equal or
//! higher priority; a waiter that is dropped is gone, and one that is dropped after it was granted
//! passes the lock on. There is no aging: urgent operations may keep others waiting, which is
//! bounded because nothing waits under the lock.
//!
//! Nothing may wait under a [`Guard`]. It is `!Send`, so the compiler refuses a spawned task that
//! keeps one across an `await`.

mod operation;
mod queue;

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use self::queue::{Caller, Queue, Step, Ticket};

pub use self::operation::Operation;

/// Who holds the lock and who waits, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Who holds it and since when, in milliseconds since 1970, as of the kernel's last tick.
    pub holder: Option<(Operation, u64)>,
    /// Who waits, in the order in which they will be served.
    pub waiters: Vec<Waiting>,
}

/// One waiter of an [`Inspection`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Priority; 0 is the most urgent.
    pub priority: u8,
    /// What it waits for the lock for.
    pub operation: Operation,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
}

/// The task that asks for the lock holds it already: waiting would never end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} asks for the work lock in the task that holds it for {holder}")]
pub struct Reentrant {
    /// What the lock was asked for.
    pub wanted: Operation,
    /// What the same task holds it for.
    pub holder: Operation,
}

/// A value that one operation at a time can see and change.
pub struct WorkLock<T> {
    queue: Mutex<Queue>,
    /// Uncontended by construction: only the holder of `queue` locks it.
    value: Mutex<T>,
}

impl<T> WorkLock<T> {
    /// A free lock around a value.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { queue: Mutex::new(Queue::default()), value: Mutex::new(value) }
    }

    /// Waits for the lock at the operation's priority. Its place in the order is that of the
    /// first poll; dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`Reentrant`] when the task that polls, or the thread outside of tasks, holds the lock.
    pub fn acquire(&self, operation: Operation) -> Acquire<'_, T> {
        Acquire { lock: self, operation, place: Place::Before }
    }

    /// Who holds the lock and who waits, without waiting for the lock.
    #[must_use]
    pub fn inspect(&self) -> Inspection {
        self.queue().inspect()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock_queue(&self.queue)
    }
}

impl<T> fmt::Debug for WorkLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkLock").field("queue", &self.inspect()).finish_non_exhaustive()
    }
}

/// The queue is consistent between any two statements that can panic: there are none.
fn lock_queue(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where an [`Acquire`] stands.
#[derive(Debug)]
enum Place {
    /// Not polled yet.
    Before,
    /// In the queue, or granted and not polled since.
    Queued(Ticket),
    /// It has answered.
    After,
}

/// Waits for the lock: made by [`WorkLock::acquire`].
#[must_use = "it does nothing unless it is awaited"]
pub struct Acquire<'a, T> {
    lock: &'a WorkLock<T>,
    operation: Operation,
    place: Place,
}

impl<T> fmt::Debug for Acquire<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire")
            .field("operation", &self.operation)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl<'a, T> Future for Acquire<'a, T> {
    type Output = Result<Guard<'a, T>, Reentrant>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let operation = self.operation;
        let caller = Caller::current();
        let mut queue = self.lock.queue();
        let step = match self.place {
            Place::Before => queue.arrive(operation, caller, cx.waker()),
            Place::Queued(ticket) => queue.look(ticket, operation, caller, cx.waker()),
            Place::After => return Poll::Pending,
        };
        drop(queue);
        match step {
            // The old waker is dropped only now: dropping one may drop a task, and with it
            // another `Acquire`, which locks the queue.
            Step::Wait(ticket, _old_waker) => {
                self.place = Place::Queued(ticket);
                Poll::Pending
            }
            Step::Taken => {
                self.place = Place::After;
                let value = self.lock.value.lock().unwrap_or_else(PoisonError::into_inner);
                Poll::Ready(Ok(Guard {
                    value,
                    _release: Release(&self.lock.queue),
                    _not_send: PhantomData,
                }))
            }
            Step::Reentrant { holder, _left } => {
                self.place = Place::After;
                Poll::Ready(Err(Reentrant { wanted: operation, holder }))
            }
        }
    }
}

impl<T> Drop for Acquire<'_, T> {
    fn drop(&mut self) {
        if let Place::Queued(ticket) = self.place {
            let mut queue = self.lock.queue();
            let next = queue.leave(ticket, self.operation);
            drop(queue);
            next.run();
        }
    }
}

/// The lock, held; dropping it hands it on.
///
/// It is `!Send`: a task that keeps it across an `await` cannot be spawned. A panic under it frees
/// the lock and leaves the value as it is; whoever runs operations must treat one as fatal.
#[must_use = "the lock is freed at once when the guard is not kept"]
pub struct Guard<'a, T> {
    // The order matters: the value is unlocked before the next holder is woken.
    value: MutexGuard<'a, T>,
    _release: Release<'a>,
    _not_send: PhantomData<*const ()>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&**self).finish()
    }
}

struct Release<'a>(&'a Mutex<Queue>);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        let mut queue = lock_queue(self.0);
        let next = queue.hand_over();
        drop(queue);
        next.run();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    trait OnlyIfNotSend<Marker> {
        fn check() {}
    }
    struct Sendable;
    impl<T: ?Sized> OnlyIfNotSend<()> for T {}
    impl<T: ?Sized + Send> OnlyIfNotSend<Sendable> for T {}

    #[test]
    fn a_guard_is_not_send_and_the_rest_is() {
        fn send_and_sync<T: Send + Sync>() {}
        // Ambiguous, and so an error, if the guard were `Send`.
        <Guard<'static, u8> as OnlyIfNotSend<_>>::check();
        send_and_sync::<WorkLock<u8>>();
        send_and_sync::<Acquire<'static, u8>>();
    }
}
