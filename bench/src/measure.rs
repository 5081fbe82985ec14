//! Loops that ask as fast as they are answered, and what they saw.
//!
//! Invariant: a rate is of answers that were right; an answer that fails ends the measurement.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::task::JoinHandle;

use crate::Result;

/// How long a loop runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Before anything counts.
    pub(crate) warm: Duration,
    /// What counts.
    pub(crate) span: Duration,
}

/// What a loop saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Answers a second.
    pub(crate) rate: f64,
    /// Milliseconds within which half of them came.
    pub(crate) p50: f64,
    /// Milliseconds within which 99 of 100 came.
    pub(crate) p99: f64,
}

/// Asks `at_once` times at once, each again as soon as it is answered.
///
/// # Errors
/// The first failure.
pub(crate) async fn closed_loop<C, F>(at_once: usize, load: Load, call: C) -> Result<Sample>
where
    C: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let counts = Arc::new(AtomicBool::new(false));
    let over = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let askers = (0..at_once).map(|_| {
        let (call, counts, over, done) =
            (call.clone(), Arc::clone(&counts), Arc::clone(&over), Arc::clone(&done));
        let asker: JoinHandle<Result<Histogram<u64>>> = tokio::spawn(async move {
            let mut times = Histogram::<u64>::new(3)?;
            while !over.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let counted = counts.load(Ordering::Relaxed);
                call().await?;
                // What never waits would keep the clock from its turn.
                tokio::task::coop::consume_budget().await;
                if counted && !over.load(Ordering::Relaxed) {
                    times.record(u64::try_from(asked.elapsed().as_nanos())?)?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(times)
        });
        asker
    });
    let askers = try_join_all(askers);
    let clock = async {
        tokio::time::sleep(load.warm).await;
        counts.store(true, Ordering::Relaxed);
        let began = Instant::now();
        tokio::time::sleep(load.span).await;
        let (done, took) = (done.load(Ordering::Relaxed), began.elapsed());
        over.store(true, Ordering::Relaxed);
        (done, took)
    };
    tokio::pin!(askers);
    tokio::pin!(clock);
    // Askers that fail end at once; the others end after the clock.
    let (answered, took, ended) = tokio::select! {
        ended = &mut askers => (0, Duration::ZERO, ended?),
        (answered, took) = &mut clock => (answered, took, askers.await?),
    };
    let mut all = Histogram::<u64>::new(3)?;
    for times in ended {
        all.add(times?)?;
    }
    if answered == 0 {
        return Err("nothing was answered in the time of a round".into());
    }
    let millis = |quantile: f64| nanos_to_millis(all.value_at_quantile(quantile));
    let rate = count(answered) / took.as_secs_f64();
    Ok(Sample { rate, p50: millis(0.5), p99: millis(0.99) })
}

/// A number of things as a figure.
#[expect(clippy::cast_precision_loss, reason = "no figure here has 53 bits")]
pub(crate) fn count(number: u64) -> f64 {
    number as f64
}

/// As [`count`], of what is in a collection.
pub(crate) fn count_of(number: usize) -> f64 {
    count(number.try_into().unwrap_or(u64::MAX))
}

fn nanos_to_millis(nanos: u64) -> f64 {
    count(nanos) / 1e6
}

/// A time in milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
