//! How a request goes over its agents: the sizes of batches, the pause between them, and how many
//! failures stop it.
//!
//! Invariant: pure. Every agent is in exactly one batch; batches are numbered from 1 without gap in
//! the order of the agents, and all but the last are full.

use goperation::{Error, Result, Share, to_duration, v1::Rollout};

use crate::check::Violations;

/// Longest pause between two batches, in milliseconds.
const LONGEST_PAUSE: u64 = 7 * 24 * 3600 * 1000;

/// A roll-out over a certain number of agents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Agents of the first batch, which goes alone; 0 for none.
    pub(super) canary: usize,
    /// Agents of every other batch; 0 for all.
    pub(super) batch: usize,
    /// Between two batches, in milliseconds.
    pub(super) pause: u64,
    /// More failures than this stop it; without it, it never stops.
    pub(super) max_failures: Option<u32>,
    /// Agents that run at a time, at most; 0 for no bound.
    pub(super) max_parallel: u32,
}

impl Shape {
    /// Reads a roll-out. Bad fields are collected and take their defaults, so that it can be
    /// checked before it is known how many agents there are.
    pub(super) fn read(bad: &mut Violations, rollout: Option<&Rollout>, agents: usize) -> Self {
        let Some(rollout) = rollout else { return Self::default() };
        let batch = match rollout.batch.trim() {
            "" => 0,
            text => bad.take(batch("rollout.batch", text, agents)).unwrap_or_default(),
        };
        let canary = usize::try_from(rollout.canary);
        if canary.is_err() {
            bad.add("rollout.canary", "must be 0 for none, or how many");
        }
        let pause = rollout.pause.as_ref().map_or(Some(0), |pause| {
            let pause = u64::try_from(to_duration(pause)?.as_millis()).ok()?;
            Some(pause).filter(|&pause| pause <= LONGEST_PAUSE)
        });
        if pause.is_none() {
            bad.add("rollout.pause", "must be 0 s to 7 days");
        }
        let failures = rollout.max_failures.as_deref();
        let failures =
            failures.and_then(|text| bad.take(max_failures("rollout.max_failures", text, agents)));
        let max_parallel = u32::try_from(rollout.max_parallel);
        if max_parallel.is_err() {
            bad.add("rollout.max_parallel", "must be 0 for as many as a batch has, or how many");
        }
        Self {
            canary: canary.unwrap_or_default(),
            batch,
            pause: pause.unwrap_or_default(),
            max_failures: failures,
            max_parallel: max_parallel.unwrap_or_default(),
        }
    }

    /// The batch, from 1, of the agent at a place, from 0, in the order of their numbers.
    pub(super) fn batch_of(&self, index: usize) -> u32 {
        let (before, rest) = match index.checked_sub(self.canary) {
            None => return 1,
            Some(rest) => (usize::from(self.canary > 0), rest),
        };
        let batch = before + rest.checked_div(self.batch).unwrap_or_default();
        u32::try_from(batch).unwrap_or(u32::MAX).saturating_add(1)
    }
}

/// How many failures there may be: `3`, or `5%` of the agents, rounded up.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field.
pub(super) fn max_failures(field: &str, text: &str, agents: usize) -> Result<u32> {
    let failures =
        text.parse::<Share>().ok().and_then(|share| u32::try_from(share.of(agents)).ok());
    failures.ok_or_else(|| Error::invalid(field, "must be a number from 0, or 0% to 100%"))
}

/// Agents of a batch, at least one.
fn batch(field: &str, text: &str, agents: usize) -> Result<usize> {
    match text.parse::<Share>() {
        Ok(share) if !share.is_none() => Ok(share.of(agents).max(1)),
        _ => Err(Error::invalid(field, "must be a number from 1, or 1% to 100%")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(rollout: &Rollout, agents: usize) -> Result<Shape> {
        let mut bad = Violations::default();
        let shape = Shape::read(&mut bad, Some(rollout), agents);
        bad.finish().map(|()| shape)
    }

    fn batches(shape: &Shape, agents: usize) -> Vec<usize> {
        let mut sizes = Vec::new();
        for index in 0..agents {
            let batch = usize::try_from(shape.batch_of(index)).unwrap();
            sizes.resize(sizes.len().max(batch), 0);
            sizes[batch - 1] += 1;
        }
        sizes
    }

    #[test]
    fn a_canary_goes_alone_and_the_rest_in_batches() {
        let shape = |canary, batch| Shape { canary, batch, ..Shape::default() };
        for (shape, agents, sizes) in [
            (shape(0, 0), 5, vec![5]),
            (shape(0, 2), 5, vec![2, 2, 1]),
            (shape(1, 0), 5, vec![1, 4]),
            (shape(1, 2), 5, vec![1, 2, 2]),
            (shape(3, 2), 5, vec![3, 2]),
            (shape(9, 2), 5, vec![5]),
            (shape(5, 2), 5, vec![5]),
            (shape(1, 9), 1, vec![1]),
            (shape(0, 1), 0, vec![]),
        ] {
            assert_eq!(batches(&shape, agents), sizes, "{shape:?}");
        }
    }

    #[test]
    fn a_roll_out_is_read() {
        let rollout = Rollout {
            batch: " 10% ".to_owned(),
            canary: 1,
            pause: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            max_failures: Some("5%".to_owned()),
            max_parallel: 7,
        };
        let expected =
            Shape { canary: 1, batch: 3, pause: 1500, max_failures: Some(2), max_parallel: 7 };
        assert_eq!(read(&rollout, 21).unwrap(), expected);
        assert_eq!(read(&Rollout::default(), 21).unwrap(), Shape::default());
        assert_eq!(Shape::read(&mut Violations::default(), None, 21), Shape::default());
    }

    #[test]
    fn every_bad_field_is_named() {
        let rollout = Rollout {
            batch: "0".to_owned(),
            canary: -1,
            pause: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            max_failures: Some("few".to_owned()),
            max_parallel: -1,
        };
        let violations = read(&rollout, 9).unwrap_err().violations;
        let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "rollout.batch",
                "rollout.canary",
                "rollout.pause",
                "rollout.max_failures",
                "rollout.max_parallel"
            ]
        );
        let week = prost_types::Duration { seconds: 7 * 24 * 3600, nanos: 0 };
        let longer = prost_types::Duration { nanos: 1_000_000, ..week };
        let with = |pause| read(&Rollout { pause: Some(pause), ..Rollout::default() }, 9);
        assert!(with(week).is_ok());
        assert!(with(longer).is_err());
    }

    #[test]
    fn amounts() {
        for (text, size, failures) in [
            ("1", Some(1), Some(1)),
            ("07", Some(7), Some(7)),
            ("0", None, Some(0)),
            ("0%", None, Some(0)),
            ("1%", Some(1), Some(1)),
            ("34 %", Some(17), Some(17)),
            ("100%", Some(50), Some(50)),
            ("101%", None, None),
            ("", None, None),
        ] {
            assert_eq!(batch("f", text, 50).ok(), size, "{text}");
            assert_eq!(max_failures("f", text, 50).ok(), failures, "{text}");
        }
        assert_eq!(batch("f", "1%", 0).unwrap(), 1);
        assert_eq!(batch("f", "100%", usize::MAX).unwrap(), usize::MAX);
    }

    proptest! {
        #[test]
        fn batches_are_full_and_cover_everyone(
            canary in 0..40_usize,
            batch in 0..40_usize,
            agents in 0..200_usize,
        ) {
            let shape = Shape { canary, batch, ..Shape::default() };
            let order: Vec<_> = (0..agents).map(|index| shape.batch_of(index)).collect();
            prop_assert!(order.is_sorted());
            let sizes = batches(&shape, agents);
            prop_assert_eq!(sizes.iter().sum::<usize>(), agents);
            prop_assert!(!sizes.contains(&0));
            let mut left = agents;
            for (i, size) in sizes.into_iter().enumerate() {
                let full = match (i, canary, batch) {
                    (0, 1.., _) => canary,
                    (_, _, 0) => left,
                    _ => batch,
                };
                prop_assert_eq!(size, full.min(left));
                left -= size;
            }
        }

        #[test]
        fn a_percentage_is_the_least_that_is_not_below(percent in 1..=100_u8, agents in 0..5000_usize) {
            let size = batch("f", &format!("{percent}%"), agents).unwrap();
            let of_hundred = usize::from(percent) * agents;
            prop_assert!(size >= 1 && size * 100 >= of_hundred);
            prop_assert!(size == 1 || (size - 1) * 100 < of_hundred);
            let failures = max_failures("f", &format!("{percent}%"), agents).unwrap();
            prop_assert_eq!(usize::try_from(failures).unwrap(), size.min(agents));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,12}") {
            let _ = (batch("f", &text, 7), max_failures("f", &text, 7));
        }
    }
}
