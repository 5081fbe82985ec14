//! What is to be sent, and in which order. Pure: who asks does the waiting and the sending.
//!
//! Invariant: of one message one thing is sent at a time, the newest of what is told of it, and
//! nothing after its answer. An answer is kept in memory only until it is sent once.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    time::Duration,
};

use goperation::{MessageId, v1::RespondRequest};
use tokio::time::Instant;

/// Bytes of answers that wait in memory for their first sending; beyond that they are read.
const KEPT_BYTES: usize = 1024 * 1024;
/// How long an answer that the manager has waits in the store for others, to be forgotten with them.
const FORGET_DELAY: Duration = Duration::from_secs(5);
/// So many are forgotten at once, or of so many bytes together: then nothing more is waited for.
const FORGET_AT_ONCE: usize = 64;
const FORGET_BYTES: usize = 256 * 1024;

/// Something to do.
#[derive(Debug)]
pub(super) enum Work {
    /// To send the answer of a message; without its bytes it is read from the store.
    Answer(MessageId, Option<Vec<u8>>),
    /// To tell how far a message is.
    Tell(MessageId, Box<RespondRequest>),
    /// To remove answers that the manager has, with their bytes.
    Forget(Vec<(MessageId, Vec<u8>)>),
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
    /// Its bytes.
    kept: Option<Vec<u8>>,
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
    /// Bytes of all answers that are kept.
    kept: usize,
    /// The manager has them.
    said: Vec<(MessageId, Vec<u8>)>,
    /// Their bytes.
    said_bytes: usize,
    /// When they are to be forgotten, if there are any.
    forget: Option<Instant>,
}

impl Queue {
    /// The answer of a message is to be sent; its bytes, if they are at hand. One that the manager has
    /// is sent again, and so is not forgotten.
    pub(super) fn answered(&mut self, id: &MessageId, bytes: Option<Vec<u8>>) {
        if let Some(at) = self.said.iter().position(|(said, _)| said == id) {
            self.said_bytes -= self.said.swap_remove(at).1.len();
        }
        let slot = self.slots.entry(id.clone()).or_default();
        slot.tell = None;
        slot.answered = true;
        self.kept -= slot.kept.take().map_or(0, |former| former.len());
        slot.kept = bytes.filter(|bytes| self.kept + bytes.len() <= KEPT_BYTES);
        self.kept += slot.kept.as_ref().map_or(0, Vec::len);
        if !mem::replace(&mut slot.answer, true) && !slot.busy {
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

    /// The manager has said something of an answer that has these bytes.
    pub(super) fn said(&mut self, id: MessageId, bytes: Vec<u8>, now: Instant) {
        self.said_bytes += bytes.len();
        self.said.push((id, bytes));
        if self.said.len() >= FORGET_AT_ONCE || self.said_bytes >= FORGET_BYTES {
            self.forget = Some(now);
        }
        self.forget.get_or_insert(now + FORGET_DELAY);
    }

    /// All that the manager has and that is not forgotten yet.
    pub(super) fn take_said(&mut self) -> Vec<(MessageId, Vec<u8>)> {
        (self.said_bytes, self.forget) = (0, None);
        mem::take(&mut self.said)
    }

    /// What is to be done now; of what is to be sent, answers first. That must be [`Self::ended`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Work> {
        if self.forget.is_some_and(|due| due <= now) {
            return Some(Work::Forget(self.take_said()));
        }
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            self.answers.extend(self.later.pop_first().map(|(_, id)| id));
        }
        while let Some(id) = self.answers.pop_front() {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if mem::take(&mut slot.answer) {
                slot.busy = true;
                let bytes = slot.kept.take();
                self.kept -= bytes.as_ref().map_or(0, Vec::len);
                return Some(Work::Answer(id, bytes));
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
        tell.into_iter().chain(later).chain(self.forget).min()
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
            Some(Work::Answer(id, None)) => format!("answer {id}"),
            Some(Work::Answer(id, Some(bytes))) => format!("answer {id} of {}", bytes.len()),
            Some(Work::Tell(id, told)) => format!("{id} {}", told.progress),
            Some(Work::Forget(said)) => {
                let ids: Vec<_> = said.iter().map(|(id, _)| id.as_str()).collect();
                format!("forget {}", ids.join(" "))
            }
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
        queue.answered(&id("a"), None);
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
            queue.answered(&id(name), None);
            queue.answered(&id(name), None);
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
        queue.answered(&id("b"), None);
        queue.ended(id("b"), Ended::Done, now);
        queue.ended(id("c"), Ended::Done, now);
        assert_eq!(text(queue.next(now)), "answer b");
        queue.ended(id("b"), Ended::Done, now);
        assert_eq!(text(queue.next(later)), "answer a");
        queue.ended(id("a"), Ended::Done, later);
        assert!(queue.slots.is_empty() && queue.due().is_none());
    }

    #[test]
    fn an_answer_is_kept_until_it_is_sent_once_and_while_there_is_room() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.answered(&id("a"), Some(vec![1; 300]));
        queue.answered(&id("a"), Some(vec![1; KEPT_BYTES - 1]));
        queue.answered(&id("b"), Some(vec![2; 2]));
        queue.answered(&id("c"), Some(vec![3]));
        assert_eq!(queue.kept, KEPT_BYTES);
        assert_eq!(text(queue.next(now)), format!("answer a of {}", KEPT_BYTES - 1));
        queue.ended(id("a"), Ended::Again, now);
        assert_eq!(text(queue.next(now)), "answer b");
        assert_eq!(text(queue.next(now)), "answer c of 1");
        assert_eq!((text(queue.next(now)).as_str(), queue.kept), ("answer a", 0));
    }

    #[test]
    fn what_the_manager_has_is_forgotten_together() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.said(id("a"), vec![1], now);
        queue.said(id("b"), vec![1], now + Duration::from_secs(1));
        let due = now + FORGET_DELAY;
        assert_eq!((text(queue.next(now)).as_str(), queue.due()), ("nothing", Some(due)));
        assert_eq!(text(queue.next(due)), "forget a b");
        assert_eq!((text(queue.next(due)).as_str(), queue.due()), ("nothing", None));
        // Many, or much, are not waited for, and come before what is to be sent.
        queue.answered(&id("c"), None);
        for _ in 0..FORGET_AT_ONCE {
            queue.said(id("d"), vec![1], due);
        }
        assert!(text(queue.next(due)).starts_with("forget d d"));
        queue.said(id("e"), vec![1; FORGET_BYTES], due);
        assert_eq!(text(queue.next(due)), "forget e");
        assert_eq!(text(queue.next(due)), "answer c");
        // What is to be sent again is not forgotten meanwhile.
        for name in ["f", "g", "h"] {
            queue.said(id(name), vec![1], due);
        }
        queue.answered(&id("f"), None);
        assert_eq!(queue.said_bytes, 2);
        assert_eq!(text(queue.next(due + FORGET_DELAY)), "forget h g");
    }
}
