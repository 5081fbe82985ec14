//! The agent's work lock, in this process, on one thread: criterion measures.
//!
//! A hand-over is from the moment at which one of the waiting tasks has the lock to that at which
//! the next one has it: freed, the next chosen, woken, and its task run.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::Criterion;
use goperation_agent::lock::{Operation, WorkLock};
use serde::Deserialize;
use tokio::{
    runtime::{self, Runtime},
    sync::Mutex,
    task::{self, JoinSet},
};

use super::Wanted;
use crate::{
    Result,
    bench::Bench,
    measure::count_of,
    row::{Measured, Part, Round, Row, Target, Unit},
};

pub(super) const ROWS: &[Row] = &[FREE, HANDOVER];

const FREE: Row = Row {
    name: "lock",
    what: "work lock, uncontended: acquire and release",
    against: "tokio::sync::Mutex",
    unit: Unit::Nanos,
    target: Target::RatioAtMost(2.0),
};
const HANDOVER: Row = Row {
    name: "lock.handover",
    what: "work lock: each hand-over when 10,000 wait",
    against: "when 100 wait",
    unit: Unit::Nanos,
    target: Target::RatioAtMost(2.0),
};

const MANY: usize = 10_000;
const FEW: usize = 100;

pub(super) async fn measure(bench: &Bench, wanted: &Wanted) -> Result<Vec<Measured>> {
    let (rounds, span) = (bench.rounds(), bench.sized(1000, 200));
    let (free, handover) = (wanted.has(&FREE), wanted.has(&HANDOVER));
    // Not on a thread of the runtime: criterion blocks.
    task::spawn_blocking(move || {
        let runtime = runtime::Builder::new_current_thread().build()?;
        let on = On { runtime, span: Duration::from_millis(span) };
        let mut measured = Vec::new();
        if free {
            let what = "tokio::sync::Mutex";
            let rounds = alternating(rounds, what, || on.work_lock(), || on.mutex())?;
            measured.push(Measured::new(FREE, rounds));
        }
        if handover {
            let what = "hand-over when 100 wait";
            let ours = || on.handover(MANY, crowd);
            let rounds = alternating(rounds, what, ours, || on.handover(FEW, crowd))?;
            let all = Measured::new(HANDOVER, rounds);
            let (many, few) = (on.handover(MANY, mutex_crowd)?, on.handover(FEW, mutex_crowd)?);
            let note = format!("tokio::sync::Mutex, once: {many:.0} ns when 10,000 wait, {few:.0}");
            measured.push(all.noting(note + " ns when 100 do"));
        }
        Ok(measured)
    })
    .await?
}

fn alternating(
    rounds: usize,
    what: &'static str,
    ours: impl Fn() -> Result<f64>,
    limit: impl Fn() -> Result<f64>,
) -> Result<Vec<Round>> {
    let round = |number: usize| {
        let (ours, limit) = if number.is_multiple_of(2) {
            let ours = ours()?;
            (ours, limit()?)
        } else {
            let limit = limit()?;
            (ours()?, limit)
        };
        Ok(Round::of_times(ours, vec![Part::one(what, limit)]))
    };
    (0..rounds).map(round).collect()
}

/// Where is measured: the tasks of one thread, and how long.
struct On {
    runtime: Runtime,
    span: Duration,
}

impl On {
    fn work_lock(&self) -> Result<f64> {
        let lock = Arc::new(WorkLock::new(0_u64));
        self.criterion("work-lock", self.span, |times| {
            let lock = Arc::clone(&lock);
            // A task, as every operation of the agent: the lock asks which one it is.
            self.task(async move {
                let began = Instant::now();
                for _ in 0..times {
                    *black_box(lock.acquire(Operation::SetStatus).await?) += 1;
                }
                Ok(began.elapsed())
            })
        })
    }

    fn mutex(&self) -> Result<f64> {
        let lock = Arc::new(Mutex::new(0_u64));
        self.criterion("mutex", self.span, |times| {
            let lock = Arc::clone(&lock);
            self.task(async move {
                let began = Instant::now();
                for _ in 0..times {
                    *black_box(lock.lock().await) += 1;
                }
                Ok(began.elapsed())
            })
        })
    }

    fn handover(&self, waiters: usize, crowd: AsCrowd) -> Result<f64> {
        // To gather a crowd takes much longer than what is measured of it.
        let all = self.criterion("handover", self.span / 10, |times| {
            (0..times).map(|_| crowd(&self.runtime, waiters)).sum()
        })?;
        Ok(all / count_of(waiters - 1))
    }

    /// Runs a task without tokio's budget, in which the Mutex would yield every 128 times.
    fn task<F>(&self, run: F) -> Result<Duration>
    where
        F: Future<Output = Result<Duration>> + Send + 'static,
    {
        self.runtime.block_on(self.runtime.spawn(task::unconstrained(run)))?
    }

    /// The middle of criterion's samples, in nanoseconds of one iteration.
    fn criterion(
        &self,
        id: &str,
        span: Duration,
        mut run: impl FnMut(u64) -> Result<Duration>,
    ) -> Result<f64> {
        let folder = tempfile::tempdir()?;
        let mut failed = None;
        {
            let _aside = Aside::put()?;
            let criterion = Criterion::default().without_plots().output_directory(folder.path());
            let criterion = criterion.warm_up_time(span / 4).measurement_time(span);
            criterion.sample_size(10).nresamples(2000).bench_function(id, |bencher| {
                bencher.iter_custom(|times| {
                    run(times).unwrap_or_else(|error| {
                        failed = Some(error);
                        Duration::from_secs(1)
                    })
                });
            });
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let file = folder.path().join(id).join("new").join("estimates.json");
        let estimates: Estimates = serde_json::from_slice(&std::fs::read(file)?)?;
        Ok(estimates.median.point_estimate)
    }
}

/// Of criterion's file.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// Gathers so many waiting tasks, lets one after the other have the lock, and answers how long it
/// took from the first to the last.
type AsCrowd = fn(&Runtime, usize) -> Result<Duration>;

/// Since when the lock goes round, and how often it did.
#[derive(Debug, Default)]
struct Passed {
    since: Option<Instant>,
    took: Duration,
}

impl Passed {
    fn pass(&mut self) {
        let now = Instant::now();
        self.took = now.duration_since(*self.since.get_or_insert(now));
    }
}

fn crowd(runtime: &Runtime, waiters: usize) -> Result<Duration> {
    runtime.block_on(async {
        let lock = Arc::new(WorkLock::new(Passed::default()));
        let arrived = Arc::new(AtomicUsize::new(0));
        let mut tasks: JoinSet<Result<()>> = JoinSet::new();
        // On one thread, and so held by none of the tasks.
        let held = lock.acquire(Operation::SetStatus).await?;
        // Of all priorities, one after the other.
        for &operation in Operation::ALL.iter().cycle().take(waiters) {
            let (lock, arrived) = (Arc::clone(&lock), Arc::clone(&arrived));
            tasks.spawn(async move {
                arrived.fetch_add(1, Ordering::Relaxed);
                lock.acquire(operation).await?.pass();
                Ok(())
            });
        }
        while arrived.load(Ordering::Relaxed) < waiters {
            task::yield_now().await;
        }
        drop(held);
        for passed in tasks.join_all().await {
            passed?;
        }
        let took = lock.acquire(Operation::SetStatus).await?.took;
        Ok(took)
    })
}

fn mutex_crowd(runtime: &Runtime, waiters: usize) -> Result<Duration> {
    runtime.block_on(async {
        let lock = Arc::new(Mutex::new(Passed::default()));
        let arrived = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let held = lock.lock().await;
        for _ in 0..waiters {
            let (lock, arrived) = (Arc::clone(&lock), Arc::clone(&arrived));
            tasks.spawn(async move {
                arrived.fetch_add(1, Ordering::Relaxed);
                lock.lock().await.pass();
            });
        }
        while arrived.load(Ordering::Relaxed) < waiters {
            task::yield_now().await;
        }
        drop(held);
        tasks.join_all().await;
        let took = lock.lock().await.took;
        Ok(took)
    })
}

/// While it lives, stdout is stderr: criterion prints there, and the table is all of stdout.
struct Aside(std::os::fd::OwnedFd);

impl Aside {
    fn put() -> Result<Self> {
        let kept = rustix::io::dup(rustix::stdio::stdout())?;
        rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
        Ok(Self(kept))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // A line that is not printed yet would go to the wrong place; what fails here shows there.
        let _flushed = std::io::Write::flush(&mut std::io::stdout());
        let _back = rustix::stdio::dup2_stdout(&self.0);
    }
}
