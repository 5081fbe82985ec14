//! How many agents run a method at a time, over all requests.
//!
//! Invariant: what all shares of a method hold is counted in one place. What a run takes stays
//! within the bound; what runs already is counted even when it is more than that.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::watch;

/// The methods that have a bound.
#[derive(Debug, Default)]
pub(super) struct Caps(HashMap<String, Arc<Method>>);

#[derive(Debug)]
struct Method {
    most: usize,
    used: watch::Sender<usize>,
}

/// What one request has of its method.
#[derive(Debug)]
pub(super) struct Share(Option<Bounded>);

#[derive(Debug)]
struct Bounded {
    method: Arc<Method>,
    held: usize,
    used: watch::Receiver<usize>,
}

impl Caps {
    pub(super) fn new<'a>(most: impl IntoIterator<Item = (&'a String, &'a u32)>) -> Self {
        let bounded = most.into_iter().map(|(name, &most)| {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            (name.clone(), Arc::new(Method { most, used: watch::Sender::new(0) }))
        });
        Self(bounded.collect())
    }

    /// A share of a method, of which so many agents run already.
    pub(super) fn share(&self, method: &str, held: usize) -> Share {
        let mut share = Share(self.0.get(method).map(|method| Bounded {
            method: method.clone(),
            held: 0,
            used: method.used.subscribe(),
        }));
        share.set(held);
        share
    }
}

impl Share {
    /// Takes room for at most so many more.
    pub(super) fn take(&mut self, want: usize) -> usize {
        let Some(share) = &mut self.0 else { return want };
        // What gets free from here on is told by `freed`.
        share.used.borrow_and_update();
        let mut taken = 0;
        share.method.used.send_if_modified(|used| {
            taken = want.min(share.method.most.saturating_sub(*used));
            *used += taken;
            false
        });
        share.held += taken;
        taken
    }

    /// Says how many there are.
    pub(super) fn set(&mut self, held: usize) {
        let Some(share) = &mut self.0 else { return };
        let before = std::mem::replace(&mut share.held, held);
        if before != held {
            share.method.used.send_if_modified(|used| {
                *used = used.saturating_sub(before) + held;
                held < before
            });
        }
    }

    /// Waits until somebody has given back what was not there at the last [`Share::take`].
    pub(super) async fn freed(&mut self) {
        if let Some(share) = &mut self.0
            // The sender is ours too, so it is there.
            && share.used.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn no_more_than_the_bound_is_taken_over_all_shares() {
        let caps = Caps::new(&BTreeMap::from([("upgrade_agent".to_owned(), 10)]));
        let mut free = caps.share("status_agent", 0);
        assert_eq!(free.take(1000), 1000);

        let (mut a, mut b) = (caps.share("upgrade_agent", 4), caps.share("upgrade_agent", 0));
        assert_eq!(b.take(3), 3);
        assert_eq!((a.take(9), b.take(1)), (3, 0));
        assert!(b.freed().now_or_never().is_none());
        a.set(5);
        b.freed().await;
        assert_eq!(b.take(9), 2);
        // More than the bound may run already, after a start.
        let c = caps.share("upgrade_agent", 90);
        assert_eq!(b.take(1), 0);
        drop((a, c));
        b.freed().await;
        assert_eq!(b.take(100), 5);
    }
}
