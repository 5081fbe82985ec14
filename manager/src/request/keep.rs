//! The keeper of a run: it has the request run until that has ended, however often a run breaks off.
//!
//! Invariant: of a request that has not ended somebody always sees to it, or waits to do so again.
//! What broke off is taken up from the record, for what was in memory may never have been written;
//! until then whoever asks is told so at once.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use goperation::{Error, Reason, Result};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Question,
    cap::Share,
    registry::stopping,
    run::{Begin, Run},
};
use crate::app::App;

/// First and longest pause before a run that broke off is taken up again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// A request that is kept running.
pub(super) struct Keep {
    app: Arc<App>,
    id: String,
    /// None when it is to be loaded.
    begin: Option<Begin>,
    /// What it has of its method, kept while nothing runs: its agents do.
    share: Option<Share>,
    asks: mpsc::Receiver<Question>,
    tries: u32,
}

impl Keep {
    pub(super) fn new(
        app: Arc<App>,
        id: String,
        begin: Option<Begin>,
        asks: mpsc::Receiver<Question>,
    ) -> Self {
        Self { app, id, begin, share: None, asks, tries: 0 }
    }

    /// Keeps it running until it has ended and nobody asks any more, or the manager stops.
    pub(super) async fn run(mut self) {
        let stop = self.app.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&mut self) {
        loop {
            let begun = Instant::now();
            let Err(error) = self.try_once().await else { return };
            if error.reason == Reason::RequestNotFound {
                self.app.requests.has_ended(&self.id);
                return;
            }
            // Nobody asks any more, and only a request that has ended lets it come to that.
            if self.asks.is_closed() {
                return;
            }
            let (first, longest) = AGAIN;
            if begun.elapsed() > longest {
                self.tries = 0;
            }
            let pause = first.saturating_mul(1 << self.tries.min(10)).min(longest);
            let pause = pause.mul_f64(rand::random_range(0.5..=1.0));
            self.tries += 1;
            tracing::error!(%error, ?pause, "the run of a request broke off and is taken up again");
            self.wait(Instant::now() + pause).await;
        }
    }

    /// Runs it until it has ended or broken off.
    async fn try_once(&mut self) -> Result<()> {
        let begin = match self.begin.take() {
            Some(begin) => begin,
            None => {
                let rows = self.app.load_request(&self.id).await?;
                let caps = self.app.requests.caps();
                let share =
                    self.share.take().unwrap_or_else(|| caps.share(&rows.record().method, 0));
                Begin { rows, share, is_new: false }
            }
        };
        let mut run = Run::new(self.app.clone(), begin, &mut self.asks);
        // A defect is a reason to begin anew, too: nothing of its memory is used again.
        let ended = AssertUnwindSafe(run.run()).catch_unwind().await;
        self.share = Some(run.into_share());
        ended.unwrap_or_else(|_| {
            Err(Error::new(Reason::Internal, "the run of a request failed by a defect"))
        })
    }

    /// Waits until a time, and refuses what is asked meanwhile.
    async fn wait(&mut self, until: Instant) {
        loop {
            tokio::select! {
                question = self.asks.recv() => match question {
                    // Who has gone needs no answer.
                    Some(Question { answer, .. }) => drop(answer.send(Err(stopping()))),
                    None => return tokio::time::sleep_until(until).await,
                },
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }
}
