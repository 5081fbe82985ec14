//! How large an answer to a request may be.
//!
//! Invariant: that an agent has answered, and how, counts for more than what it said: a result that
//! is too large is dropped, never the answer. Agents and the manager have the same bound.

use prost::Message as _;

use crate::v1::RespondRequest;

/// Largest result that is kept, encoded, with its details, in bytes: as large as the result of a
/// CALL may be.
const RESULT: usize = 1 << 20;
/// Characters that are kept of what is said in words.
const WORDS: usize = 4096;

impl RespondRequest {
    /// Drops a result that is too large, and says so; what is said in words is cut.
    pub fn bound(&mut self) {
        for words in [&mut self.reason, &mut self.message, &mut self.progress] {
            if let Some((end, _)) = words.char_indices().nth(WORDS) {
                words.truncate(end);
            }
        }
        let result = self.result.as_ref().map_or(0, prost_types::Struct::encoded_len);
        let details: usize = self.details.iter().map(|detail| detail.encoded_len() + 8).sum();
        let bytes = result.saturating_add(details);
        if bytes > RESULT {
            self.result = None;
            self.details = Vec::new();
            let said = std::mem::take(&mut self.message);
            let blank = if said.is_empty() { "" } else { "; " };
            self.message = format!(
                "its result has {bytes} bytes, {RESULT} at most are kept, so it was dropped\
                 {blank}{said}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{Struct, Value, value::Kind};

    use super::*;
    use crate::v1::{ResponseDetail, ResponseState};

    fn text(bytes: usize) -> Value {
        Value { kind: Some(Kind::StringValue("x".repeat(bytes))) }
    }

    fn answer(bytes: usize) -> RespondRequest {
        RespondRequest {
            state: ResponseState::Succeeded.into(),
            result: Some(Struct { fields: [("text".to_owned(), text(bytes))].into() }),
            message: "done".to_owned(),
            ..RespondRequest::default()
        }
    }

    #[test]
    fn a_result_that_is_too_large_is_dropped_and_the_answer_kept() {
        let mut small = answer(RESULT / 2);
        small.bound();
        assert_eq!(small, answer(RESULT / 2));
        let mut large = answer(RESULT);
        large.bound();
        assert_eq!((large.result.take(), large.state()), (None, ResponseState::Succeeded));
        assert!(large.message.ends_with("so it was dropped; done"), "{}", large.message);
        let detail = ResponseDetail { result: Some(text(600)), ..ResponseDetail::default() };
        let mut many = RespondRequest { details: vec![detail; 2_000], ..answer(1) };
        many.bound();
        assert!(many.details.is_empty() && many.result.is_none());
    }

    #[test]
    fn words_are_cut_between_characters() {
        let mut long = RespondRequest {
            message: "ü".repeat(2 * WORDS),
            progress: "ü".repeat(WORDS),
            ..RespondRequest::default()
        };
        long.bound();
        assert_eq!((long.message.chars().count(), long.progress.chars().count()), (WORDS, WORDS));
    }
}
