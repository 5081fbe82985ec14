//! Whether a subscription consumes, put together from its parts.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// The parts of one subscription: its feeds, and the canary where there is one.
#[derive(Debug)]
pub(super) struct Live {
    parts: Mutex<u32>,
    feeds: u32,
    canary: u32,
    consuming: watch::Sender<bool>,
    connected: watch::Sender<bool>,
}

impl Live {
    /// Of `feeds` feeds, numbered from 0, with or without a canary; none lives yet.
    pub(super) fn new(feeds: usize, with_canary: bool) -> Self {
        let mask = (1_u32 << feeds) - 1;
        Self {
            parts: Mutex::new(0),
            feeds: mask,
            canary: if with_canary { mask + 1 } else { 0 },
            consuming: watch::Sender::new(false),
            connected: watch::Sender::new(false),
        }
    }

    /// Whether every feed consumes and the canary lives.
    pub(super) fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// Whether every feed consumes.
    pub(super) fn consuming(&self) -> watch::Receiver<bool> {
        self.consuming.subscribe()
    }

    /// A feed consumes, or no longer. What the canary proved before is then no longer proved.
    pub(super) fn feed(&self, number: usize, lives: bool) {
        let canary = if lives { 0 } else { self.canary };
        self.set(1 << number | canary, lives);
    }

    /// The canary has come back, or not.
    pub(super) fn canary(&self, lives: bool) {
        self.set(self.canary, lives);
    }

    /// Nothing lives any more.
    pub(super) fn end(&self) {
        self.set(u32::MAX, false);
    }

    fn set(&self, part: u32, lives: bool) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        *parts = if lives { *parts | part } else { *parts & !part };
        for (watched, mask) in
            [(&self.consuming, self.feeds), (&self.connected, self.feeds | self.canary)]
        {
            let all = *parts & mask == mask;
            watched.send_if_modified(|now| std::mem::replace(now, all) != all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_needed() {
        let live = Live::new(2, true);
        let (consuming, connected) = (live.consuming(), live.connected());
        live.feed(0, true);
        live.canary(true);
        assert_eq!((*consuming.borrow(), *connected.borrow()), (false, false));
        live.feed(1, true);
        assert_eq!((*consuming.borrow(), *connected.borrow()), (true, true));
        live.canary(false);
        assert_eq!((*consuming.borrow(), *connected.borrow()), (true, false));
        live.canary(true);
        live.feed(0, false);
        live.feed(0, true);
        assert_eq!((*consuming.borrow(), *connected.borrow()), (true, false));
    }
}
