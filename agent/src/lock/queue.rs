//! Who holds the work lock and who waits for it.
//!
//! Invariants: someone waits only while someone holds; a ticket is either waiting, granted, or
//! gone. No waker is woken or dropped here, under the queue's mutex: what it runs could come back.

use std::{
    collections::BTreeMap,
    task::Waker,
    thread::{self, ThreadId},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::task;

use super::{Inspection, Operation, Waiting};

/// Milliseconds since 1970 as of the kernel's last tick, a few milliseconds ago at most: only people
/// look at it, and the exact time costs as much as half of taking the lock.
fn about_now() -> u64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    u64::try_from(now.tv_sec * 1000 + now.tv_nsec / 1_000_000).unwrap_or(0)
}

/// Who asks: a task, or a thread outside of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    Task(task::Id),
    Thread(ThreadId),
}

impl Caller {
    pub(super) fn current() -> Self {
        task::try_id().map_or_else(|| Self::Thread(thread::current().id()), Self::Task)
    }
}

/// Place of arrival, over all priorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
struct Holder {
    ticket: Ticket,
    operation: Operation,
    since: u64,
    /// `None` between the grant and the poll that takes it.
    taken_by: Option<Caller>,
}

#[derive(Debug)]
struct Waiter {
    operation: Operation,
    since: u64,
    waker: Waker,
}

/// What a poll came to.
#[derive(Debug)]
pub(super) enum Step {
    /// It waits. The waker that was replaced is for the caller to drop.
    Wait(Ticket, Option<Waker>),
    /// It holds the lock.
    Taken,
    /// Its own task holds the lock; if it waited, it has left the queue.
    Reentrant { holder: Operation, _left: Option<Next> },
}

/// A waker to use or to drop when the queue's mutex is free.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Next {
    waker: Option<Waker>,
    /// Whether it got the lock; else it has left the queue.
    granted: bool,
}

impl Next {
    pub(super) fn run(self) {
        if let Some(waker) = self.waker.filter(|_| self.granted) {
            waker.wake();
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    holder: Option<Holder>,
    waiters: BTreeMap<(u8, Ticket), Waiter>,
    arrived: u64,
}

impl Queue {
    /// The first poll: takes a free lock, or a place in the queue.
    pub(super) fn arrive(&mut self, operation: Operation, caller: Caller, waker: &Waker) -> Step {
        if let Some(holder) = self.held_by(caller) {
            return Step::Reentrant { holder, _left: None };
        }
        let ticket = Ticket(self.arrived);
        self.arrived += 1;
        let since = about_now();
        if self.holder.is_none() {
            self.holder = Some(Holder { ticket, operation, since, taken_by: Some(caller) });
            return Step::Taken;
        }
        let waiter = Waiter { operation, since, waker: waker.clone() };
        self.waiters.insert((operation.priority(), ticket), waiter);
        Step::Wait(ticket, None)
    }

    /// Any later poll: takes the lock when it was granted.
    pub(super) fn look(
        &mut self,
        ticket: Ticket,
        operation: Operation,
        caller: Caller,
        waker: &Waker,
    ) -> Step {
        if let Some(holder) = self.holder.as_mut().filter(|h| h.ticket == ticket) {
            holder.taken_by = Some(caller);
            return Step::Taken;
        }
        if let Some(holder) = self.held_by(caller) {
            return Step::Reentrant { holder, _left: Some(self.leave(ticket, operation)) };
        }
        let waiter = self.waiters.get_mut(&(operation.priority(), ticket));
        let old = waiter
            .filter(|waiter| !waiter.waker.will_wake(waker))
            .map(|waiter| std::mem::replace(&mut waiter.waker, waker.clone()));
        Step::Wait(ticket, old)
    }

    /// A waiter is dropped: it leaves, or passes on what it was granted and did not take.
    pub(super) fn leave(&mut self, ticket: Ticket, operation: Operation) -> Next {
        if let Some(waiter) = self.waiters.remove(&(operation.priority(), ticket)) {
            return Next { waker: Some(waiter.waker), granted: false };
        }
        if self.holder.as_ref().is_some_and(|h| h.ticket == ticket) {
            return self.hand_over();
        }
        Next::default()
    }

    /// The holder is done: the lock goes to the first waiter.
    pub(super) fn hand_over(&mut self) -> Next {
        let Some(((_, ticket), waiter)) = self.waiters.pop_first() else {
            self.holder = None;
            return Next::default();
        };
        let operation = waiter.operation;
        self.holder = Some(Holder { ticket, operation, since: about_now(), taken_by: None });
        Next { waker: Some(waiter.waker), granted: true }
    }

    /// What the caller holds the lock for, if it does.
    fn held_by(&self, caller: Caller) -> Option<Operation> {
        self.holder.as_ref().filter(|h| h.taken_by == Some(caller)).map(|h| h.operation)
    }

    pub(super) fn inspect(&self) -> Inspection {
        Inspection {
            holder: self.holder.as_ref().map(|h| (h.operation, h.since)),
            waiters: self
                .waiters
                .iter()
                .map(|(&(priority, _), w)| Waiting {
                    priority,
                    operation: w.operation,
                    since: w.since,
                })
                .collect(),
        }
    }
}
