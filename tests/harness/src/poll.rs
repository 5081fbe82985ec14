//! Waiting for a condition of the outside world, with a deadline and without a fixed sleep.

use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

/// Asks `check` again and again until it gives a value; panics after `within`, naming `what`.
///
/// One check may not outlast the deadline either.
#[track_caller]
pub fn poll_for<T>(
    within: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let asked_at = Location::caller();
    async move {
        let deadline = Instant::now() + within;
        let mut pause = Duration::from_millis(5);
        loop {
            match tokio::time::timeout_at(deadline, check()).await {
                Ok(Some(value)) => return value,
                Ok(None) if Instant::now() < deadline => {}
                _ => panic!("not within {within:?}: {what} (asked at {asked_at})"),
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

/// Asks `check` again and again until it says true; panics after `within`, naming `what`.
#[track_caller]
pub fn poll_until(
    within: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    poll_for(within, what, async move || check().await.then_some(()))
}
