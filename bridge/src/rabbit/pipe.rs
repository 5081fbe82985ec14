//! Many publishes over one channel: for what is small and goes to exchanges that are always there.
//!
//! A channel for each publish under way costs the broker twice the work (docs/performance.md). But
//! on a shared one lapin hands a returned message to whichever confirmation comes next, and may
//! number the publishes of several tasks in another order than it sends them. So one task
//! publishes, each message has a ticket that comes back with it, and a verdict waits until it is
//! known whose ticket came back ([`Verdicts`]).
//!
//! Invariant: `Ok` means that the broker confirmed it and did not return it.

use std::{collections::HashSet, mem, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, ErrorKind,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{
    fault::{ACCESS_REFUSED, ANSWER, Fault, NOT_FOUND, answered},
    link::Session,
    publisher::{Failure, failure},
    wire,
};
use crate::PublishError;

/// Publishes that are with the broker, and as many more that wait for the task, at most.
pub(super) const DEPTH: usize = 256;

/// What is published.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
    /// The number that [`wire::encode`] put into the body.
    pub(super) ticket: u64,
}

type Answer = oneshot::Sender<Result<(), Failure>>;

/// One channel and the task that has it.
#[derive(Debug)]
pub(super) struct Pipe {
    jobs: mpsc::Sender<(Parcel, Answer)>,
}

impl Pipe {
    /// Opens a channel of the session; what comes meanwhile waits.
    pub(super) fn start(session: Arc<Session>, tasks: &TaskTracker) -> Self {
        let (jobs, parcels) = mpsc::channel(DEPTH);
        tasks.spawn(run(session, parcels));
        Self { jobs }
    }

    /// False when its channel has gone.
    pub(super) fn is_open(&self) -> bool {
        !self.jobs.is_closed()
    }

    /// Publishes and waits for the confirmation.
    pub(super) async fn publish(&self, parcel: Parcel) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        if self.jobs.send((parcel, answer)).await.is_err() {
            return Err(lost());
        }
        let unknown = |_| PublishError::Unknown("the channel has gone".to_owned()).into();
        answered.await.unwrap_or_else(|gone| Err(unknown(gone)))
    }
}

fn lost() -> Failure {
    PublishError::Unavailable("the channel was lost".to_owned()).into()
}

async fn run(session: Arc<Session>, mut jobs: mpsc::Receiver<(Parcel, Answer)>) {
    let opened = async {
        let channel = session.channel().await?;
        answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok::<_, Fault>(channel)
    };
    match opened.await {
        Ok(channel) => publish_all(&channel, &mut jobs).await,
        Err(fault) => tracing::warn!(%fault, "no channel to publish over"),
    }
    // Of these nothing was sent.
    jobs.close();
    while let Some((_, answer)) = jobs.recv().await {
        answer_all([(answer, Err(lost()))]);
    }
}

/// Publishes until nobody can ask any more, or the channel fails.
async fn publish_all(channel: &Channel, jobs: &mut mpsc::Receiver<(Parcel, Answer)>) {
    let mut confirms = FuturesUnordered::new();
    let mut verdicts = Verdicts::default();
    let (mut arrived, mut confirmed) = (Vec::with_capacity(DEPTH), Vec::with_capacity(DEPTH));
    let mut asked = true;
    while channel.status().connected() && (asked || !confirms.is_empty()) {
        let room = DEPTH.saturating_sub(confirms.len());
        tokio::select! {
            number = jobs.recv_many(&mut arrived, room), if asked && room > 0 => asked = number > 0,
            Some(ended) = confirms.next(), if !confirms.is_empty() => confirmed.push(ended),
        }
        if !channel.status().connected() {
            break;
        }
        let wanted = arrived.drain(..).filter(|(_, answer)| !answer.is_closed());
        confirms.extend(wanted.map(|(parcel, answer)| confirm(channel, parcel, answer)));
        // All that are there: a verdict rests on every confirmation before its own.
        while let Some(Some(ended)) = confirms.next().now_or_never() {
            confirmed.push(ended);
        }
        if !channel.status().connected() {
            break;
        }
        answer_all(verdicts.reach(&mut confirmed, confirms.is_empty()));
    }
    // Before anybody hears of it: who publishes next finds it closed and opens another.
    jobs.close();
    // Of these nothing was sent.
    answer_all(arrived.into_iter().map(|(_, answer)| (answer, Err(lost()))));
    // A moment after the channel says that it has gone, lapin fails what is under way.
    let failed = async {
        while let Some(ended) = confirms.next().await {
            confirmed.push(ended);
        }
    };
    // What has no answer even then is unknown, and its publisher is told so when this is dropped.
    let _ = timeout(ANSWER, failed).await;
    answer_all(verdicts.reach(&mut confirmed, confirms.is_empty()));
}

fn answer_all(known: impl IntoIterator<Item = (Answer, Result<(), Failure>)>) {
    for (answer, outcome) in known {
        // Whoever asked has gone.
        let _ = answer.send(outcome);
    }
}

/// A publish that the broker has answered, or that has failed.
#[derive(Debug)]
struct Ended<A> {
    ticket: u64,
    answer: A,
    outcome: Result<(), Failure>,
    back: Back,
}

/// What came with a confirmation: lapin gives it the first returned message that waits for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    /// No returned message waited.
    None,
    /// The one with this ticket, of whichever publish.
    Ticket(u64),
    /// There was no confirmation.
    Failed,
}

async fn confirm(channel: &Channel, parcel: Parcel, answer: Answer) -> Ended<Answer> {
    let Parcel { exchange, key, properties, body, ticket } = parcel;
    let to = exchange.clone();
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirmation =
        async { channel.basic_publish(exchange, key, options, &body, properties).await?.await };
    let back = |returned: Option<BasicReturnMessage>| {
        returned.map_or(Back::None, |message| {
            Back::Ticket(wire::ticket(&message.properties, &message.data))
        })
    };
    let (outcome, back) = match confirmation.await {
        Ok(Confirmation::Ack(returned)) => (Ok(()), back(returned)),
        Ok(Confirmation::Nack(returned)) => (Err(PublishError::Full.into()), back(returned)),
        Ok(Confirmation::NotRequested) => (Err(unknown("it does not confirm")), Back::Failed),
        Err(error) if is_anothers(&error, &to) => {
            (Err(unknown("another's exchange failed it")), Back::Failed)
        }
        Err(error) => (Err(failure(&error, body.len())), Back::Failed),
    };
    Ended { ticket, answer, outcome, back }
}

/// Whether the broker closed the channel over an exchange other than this one: it names the exchange,
/// and says nothing of the other publishes that were under way.
fn is_anothers(error: &lapin::Error, exchange: &ShortString) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(said) if matches!(said.get_id(), NOT_FOUND | ACCESS_REFUSED) => {
            !said.get_message().as_str().contains(&format!("exchange '{exchange}'"))
        }
        _ => false,
    }
}

fn unknown(why: &str) -> Failure {
    PublishError::Unknown(format!("of the channel: {why}")).into()
}

/// Which publishes were returned.
///
/// The broker returns a message before it confirms it, and lapin gives each confirmation one of the
/// returned messages that wait, first come first served. So when a publish is confirmed, its own
/// message has come with it, or with a confirmation before it, or still waits behind the one that
/// came with it: then a later confirmation brings it, and one that brings none proves that there is
/// none.
#[derive(Debug)]
struct Verdicts<A> {
    /// Came back before their own publish was confirmed.
    returned: HashSet<u64>,
    /// Confirmed together with another's message.
    open: Vec<Ended<A>>,
}

impl<A> Default for Verdicts<A> {
    fn default() -> Self {
        Self { returned: HashSet::new(), open: Vec::new() }
    }
}

impl<A> Verdicts<A> {
    /// Takes all that has ended since the last time, and gives back what is known now. `last` says
    /// that no publish is under way.
    fn reach(&mut self, ended: &mut Vec<Ended<A>>, last: bool) -> Vec<(A, Result<(), Failure>)> {
        self.returned.extend(ended.iter().filter_map(|ended| match ended.back {
            Back::Ticket(ticket) => Some(ticket),
            Back::None | Back::Failed => None,
        }));
        let broken = ended.iter().any(|ended| ended.back == Back::Failed);
        let none_waits = ended.iter().any(|ended| ended.back == Back::None) || (last && !broken);
        let mut known = Vec::with_capacity(ended.len());
        for before in mem::take(&mut self.open) {
            self.judge(before, none_waits, broken, &mut known);
        }
        for ended in ended.drain(..) {
            // Another of these that brings none may have been confirmed before this one.
            let none_waits = match ended.back {
                Back::None | Back::Failed => true,
                Back::Ticket(_) => last && !broken,
            };
            self.judge(ended, none_waits, broken, &mut known);
        }
        known
    }

    fn judge(
        &mut self,
        ended: Ended<A>,
        none_waits: bool,
        broken: bool,
        known: &mut Vec<(A, Result<(), Failure>)>,
    ) {
        if self.returned.remove(&ended.ticket) {
            known.push((ended.answer, Err(PublishError::NoQueue.into())));
        } else if none_waits {
            known.push((ended.answer, ended.outcome));
        } else if broken {
            known.push((ended.answer, Err(unknown("it failed before it was known"))));
        } else {
            self.open.push(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ended(ticket: u64, back: Back) -> Ended<u64> {
        Ended { ticket, answer: ticket, outcome: Ok(()), back }
    }

    fn is_returned(outcome: &Result<(), Failure>) -> bool {
        matches!(outcome, Err(Failure::Other(PublishError::NoQueue)))
    }

    #[test]
    fn what_is_not_known_when_the_channel_fails_is_unknown() {
        let mut verdicts = Verdicts::default();
        assert!(verdicts.reach(&mut vec![ended(1, Back::Ticket(2))], false).is_empty());
        let failed = Ended { outcome: Err(unknown("x")), ..ended(3, Back::Failed) };
        let known = verdicts.reach(&mut vec![failed], true);
        let unknown = |outcome: &Result<(), Failure>| {
            matches!(outcome, Err(Failure::Other(PublishError::Unknown(_))))
        };
        assert_eq!(known.len(), 2);
        assert!(known.iter().all(|(_, outcome)| unknown(outcome)));
    }

    proptest! {
        /// A broker that returns what it returns before it confirms it, confirms in any order, and
        /// lapin, which hands out what waits in turn; the task looks now and then.
        #[test]
        fn each_gets_its_own_verdict(
            lost in prop::collection::vec(any::<bool>(), 1..40),
            order in prop::collection::vec(any::<prop::sample::Index>(), 40),
            looks in prop::collection::vec(any::<bool>(), 40),
            early in prop::collection::vec(0..5_usize, 40),
        ) {
            let mut unconfirmed: Vec<usize> = (0..lost.len()).collect();
            let mut unreturned: Vec<usize> =
                unconfirmed.iter().copied().filter(|&n| lost[n]).collect();
            let mut waiting = std::collections::VecDeque::new();
            let (mut verdicts, mut seen) = (Verdicts::default(), Vec::new());
            let mut known = Vec::new();
            let mut step = 0;
            while !unconfirmed.is_empty() {
                // Returned before their turn, in the order in which they were sent.
                for _ in 0..early[step].min(unreturned.len()) {
                    waiting.push_back(unreturned.remove(0));
                }
                let n = unconfirmed.remove(order[step].index(unconfirmed.len()));
                if let Some(at) = unreturned.iter().position(|&other| other == n) {
                    waiting.push_back(unreturned.remove(at));
                }
                let back = waiting.pop_front();
                let back = back.map_or(Back::None, |ticket| Back::Ticket(ticket as u64));
                seen.push(ended(n as u64, back));
                if looks[step] || unconfirmed.is_empty() {
                    // The order in which the task sees them is none.
                    seen.reverse();
                    known.extend(verdicts.reach(&mut seen, unconfirmed.is_empty()));
                }
                step += 1;
            }
            prop_assert_eq!(known.len(), lost.len());
            for (ticket, outcome) in &known {
                let lost = lost[usize::try_from(*ticket).unwrap()];
                prop_assert_eq!(is_returned(outcome), lost, "{}", ticket);
            }
        }
    }
}
