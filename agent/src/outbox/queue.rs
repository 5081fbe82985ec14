//! What is to be sent, and in which order. Pure: who asks does the waiting and the sending.
//!
//! Invariant: of one message one thing is sent at a time, the newest of what is told of it, and
//! nothing after its answer.

use std::collections::{BTreeSet, HashMap, VecDeque};

use goperation::{MessageId, v1::RespondRequest};
use tokio::time::Instant;

/// Something to send.
#[derive(Debug)]
pub(super) enum Work {
    /// The answer of a message, which is in the store.
    Answer(MessageId),
    /// How far a message is.
    Tell(MessageId, Box<RespondRequest>),
}

/// How the sending of something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// There is no more to do with it.
    Done,
    /// To be sent again, after all others: what fails with it alone holds back none of them.
    Again,
    /// To be sent again, not before then.
    Later(Instant),
}

/// What is known of a message.
#[derive(Debug, Default)]
struct Slot {
    /// To be told of it.
    tell: Option<Box<RespondRequest>>,
    /// Its answer waits to be sent.
    answer: bool,
    /// It has its answer: nothing is told of it any more.
    answered: bool,
    /// Something of it is being sent.
    busy: bool,
}

/// All that waits to be sent.
#[derive(Debug, Default)]
pub(super) struct Queue {
    slots: HashMap<MessageId, Slot>,
    answers: VecDeque<MessageId>,
    /// When it is due; all wait equally long, so the first is due first.
    tells: VecDeque<(Instant, MessageId)>,
    later: BTreeSet<(Instant, MessageId)>,
}

impl Queue {
    /// The answer of a message is to be sent.
    pub(super) fn answered(&mut self, id: &MessageId) {
        let slot = self.slots.entry(id.clone()).or_default();
        slot.tell = None;
        slot.answered = true;
        if !std::mem::replace(&mut slot.answer, true) && !slot.busy {
            self.answers.push_back(id.clone());
        }
    }

    /// How far a message is; told when it is due.
    pub(super) fn tell(&mut self, id: &MessageId, told: RespondRequest, due: Instant) {
        let slot = self.slots.entry(id.clone()).or_default();
        if slot.answered {
            return;
        }
        if slot.tell.replace(Box::new(told)).is_none() && !slot.busy {
            self.tells.push_back((due, id.clone()));
        }
    }

    /// What is to be sent now, answers first. It must be [`Self::ended`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Work> {
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            self.answers.extend(self.later.pop_first().map(|(_, id)| id));
        }
        while let Some(id) = self.answers.pop_front() {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if std::mem::take(&mut slot.answer) {
                slot.busy = true;
                return Some(Work::Answer(id));
            }
        }
        while self.tells.front().is_some_and(|(due, _)| *due <= now) {
            let (_, id) = self.tells.pop_front()?;
            let Some(slot) = self.slots.get_mut(&id).filter(|slot| !slot.busy) else { continue };
            if let Some(tell) = slot.tell.take() {
                slot.busy = true;
                return Some(Work::Tell(id, tell));
            }
        }
        None
    }

    /// When the next is due of what is not due now.
    pub(super) fn due(&self) -> Option<Instant> {
        let tell = self.tells.front().map(|(due, _)| *due);
        let later = self.later.first().map(|(due, _)| *due);
        tell.into_iter().chain(later).min()
    }

    /// The sending of something has ended.
    pub(super) fn ended(&mut self, id: MessageId, ended: Ended, now: Instant) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.busy = false;
        match ended {
            Ended::Again => {
                slot.answer = true;
                self.answers.push_back(id);
            }
            Ended::Later(due) => {
                slot.answer = true;
                self.later.insert((due, id));
            }
            Ended::Done if slot.answer => self.answers.push_back(id),
            Ended::Done if slot.tell.is_some() => self.tells.push_front((now, id)),
            Ended::Done => drop(self.slots.remove(&id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(text: &str) -> MessageId {
        MessageId::parse("id", text).unwrap()
    }

    fn told(progress: &str) -> RespondRequest {
        RespondRequest { progress: progress.to_owned(), ..RespondRequest::default() }
    }

    fn text(work: Option<Work>) -> String {
        match work {
            None => "nothing".to_owned(),
            Some(Work::Answer(id)) => format!("answer {id}"),
            Some(Work::Tell(id, told)) => format!("{id} {}", told.progress),
        }
    }

    #[test]
    fn only_the_newest_is_told_and_not_before_it_is_due() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let due = now + Duration::from_millis(50);
        queue.tell(&id("a"), told("1"), due);
        queue.tell(&id("b"), told("1"), due);
        queue.tell(&id("a"), told("2"), due + Duration::from_secs(9));
        assert_eq!(text(queue.next(now)), "nothing");
        assert_eq!(queue.due(), Some(due));
        assert_eq!(text(queue.next(due)), "a 2");
        assert_eq!(text(queue.next(due)), "b 1");
        assert_eq!((text(queue.next(due)).as_str(), queue.due()), ("nothing", None));
    }

    #[test]
    fn one_at_a_time_and_nothing_after_the_answer() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.tell(&id("a"), told("1"), now);
        assert_eq!(text(queue.next(now)), "a 1");
        queue.tell(&id("a"), told("2"), now);
        queue.answered(&id("a"));
        queue.tell(&id("a"), told("3"), now);
        assert_eq!(text(queue.next(now)), "nothing", "the first is on its way still");
        queue.ended(id("a"), Ended::Done, now);
        assert_eq!(text(queue.next(now)), "answer a");
        queue.tell(&id("a"), told("4"), now);
        queue.ended(id("a"), Ended::Done, now);
        assert_eq!(text(queue.next(now)), "nothing");
        assert!(queue.slots.is_empty() && queue.due().is_none());
    }

    #[test]
    fn what_was_told_meanwhile_follows() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.tell(&id("a"), told("1"), now);
        assert_eq!(text(queue.next(now)), "a 1");
        queue.tell(&id("a"), told("2"), now + Duration::from_secs(9));
        queue.ended(id("a"), Ended::Done, now);
        assert_eq!(text(queue.next(now)), "a 2");
        queue.ended(id("a"), Ended::Done, now);
        assert!(queue.slots.is_empty());
    }

    #[test]
    fn an_answer_that_was_not_taken_comes_again() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for name in ["a", "b", "c"] {
            queue.answered(&id(name));
            queue.answered(&id(name));
        }
        assert_eq!(text(queue.next(now)), "answer a");
        assert_eq!(text(queue.next(now)), "answer b");
        let later = now + Duration::from_secs(60);
        queue.ended(id("a"), Ended::Later(later), now);
        queue.ended(id("b"), Ended::Again, now);
        assert_eq!(text(queue.next(now)), "answer c", "it holds back no other");
        assert_eq!(text(queue.next(now)), "answer b");
        assert_eq!((text(queue.next(now)).as_str(), queue.due()), ("nothing", Some(later)));
        // One that is put in again while it is on its way is sent again.
        queue.answered(&id("b"));
        queue.ended(id("b"), Ended::Done, now);
        queue.ended(id("c"), Ended::Done, now);
        assert_eq!(text(queue.next(now)), "answer b");
        queue.ended(id("b"), Ended::Done, now);
        assert_eq!(text(queue.next(later)), "answer a");
        queue.ended(id("a"), Ended::Done, later);
        assert!(queue.slots.is_empty() && queue.due().is_none());
    }
}
