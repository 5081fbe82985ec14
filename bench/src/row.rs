//! What is measured, against what, and how it is judged.
//!
//! Invariant: what is judged is a ratio of two things of one round, or a figure that has a bound of
//! its own; the median of the rounds decides, and their spread is shown beside it.

use serde::Serialize;

/// One line of the table.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Row {
    /// By which it is asked for.
    pub(crate) name: &'static str,
    /// What of ours is measured.
    pub(crate) what: &'static str,
    /// What stands beside it: the limit, in words.
    pub(crate) against: &'static str,
    /// Of `ours` and of the limit.
    pub(crate) unit: Unit,
    /// What it shall reach.
    pub(crate) target: Target,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "1/s")]
    PerSecond,
    #[serde(rename = "ms")]
    Millis,
    #[serde(rename = "ns")]
    Nanos,
    #[serde(rename = "MiB")]
    Mebibytes,
    #[serde(rename = "% of a core")]
    CorePercent,
}

impl Unit {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Millis => "ms",
            Self::Nanos => "ns",
            Self::Mebibytes => "MiB",
            Self::CorePercent => "% core",
        }
    }
}

/// What a row shall reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// Ours divided by the limit, at least: rates.
    RatioAtLeast(f64),
    /// Ours divided by the limit, at most: times and costs.
    RatioAtMost(f64),
    /// Ours itself, at most, in the row's unit.
    AtMost(f64),
}

/// How a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The target is met.
    Ok,
    /// It is not.
    Short,
    /// It is worse than half of it.
    Half,
}

impl Target {
    /// How a judged figure stands.
    pub(crate) fn judge(self, judged: f64) -> Verdict {
        // As "worse than" would be true of a figure that is no number, so "met" is asked.
        let (met, half) = match self {
            Self::RatioAtLeast(least) => (judged >= least, judged >= least / 2.0),
            Self::RatioAtMost(most) | Self::AtMost(most) => (judged <= most, judged <= most * 2.0),
        };
        match (met, half) {
            (true, _) => Verdict::Ok,
            (false, true) => Verdict::Short,
            (false, false) => Verdict::Half,
        }
    }

    /// Whether the limit takes part in the judgement.
    pub(crate) fn is_ratio(self) -> bool {
        !matches!(self, Self::AtMost(_))
    }
}

/// One measured component of a limit, for the reader.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Part {
    /// What it is.
    pub(crate) what: &'static str,
    /// How many of it one of ours needs.
    pub(crate) times: f64,
    /// In the row's unit.
    pub(crate) value: f64,
}

impl Part {
    /// One of it.
    pub(crate) fn one(what: &'static str, value: f64) -> Self {
        Self { what, times: 1.0, value }
    }

    /// So many of it.
    pub(crate) fn many(what: &'static str, times: f64, value: f64) -> Self {
        Self { what, times, value }
    }
}

/// Ours and the limit, measured one after the other.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Round {
    /// Ours.
    pub(crate) ours: f64,
    /// The limit: the composite of its parts.
    pub(crate) limit: Option<f64>,
    /// What the limit is composed of.
    pub(crate) parts: Vec<Part>,
    /// oslo.messaging doing the same on the same node.
    pub(crate) peer: Option<f64>,
}

impl Round {
    /// Rates: who needs several things one after the other, of one machine, has the rate
    /// `1/(1/a + k/b + …)`.
    pub(crate) fn of_rates(ours: f64, parts: Vec<Part>) -> Self {
        let time: f64 = parts.iter().map(|part| part.times / part.value).sum();
        Self { ours, limit: Some(1.0 / time), parts, peer: None }
    }

    /// Times: their sum.
    pub(crate) fn of_times(ours: f64, parts: Vec<Part>) -> Self {
        let time: f64 = parts.iter().map(|part| part.times * part.value).sum();
        Self { ours, limit: Some(time), parts, peer: None }
    }

    /// A figure with a bound of its own.
    pub(crate) fn alone(ours: f64) -> Self {
        Self { ours, limit: None, parts: Vec::new(), peer: None }
    }

    /// With the peer's figure.
    pub(crate) fn beside(self, peer: Option<f64>) -> Self {
        Self { peer, ..self }
    }

    fn judged(&self) -> f64 {
        self.limit.map_or(self.ours, |limit| self.ours / limit)
    }
}

/// A row with its rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    pub(crate) row: Row,
    pub(crate) rounds: Vec<Round>,
    /// Things to know about it: `name value`, only shown.
    pub(crate) notes: Vec<String>,
}

/// The middle and the ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value; of none it is no number, which meets no target.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        let median = f64::midpoint(at(last / 2), at(values.len() / 2));
        Self { min: at(0), median, max: at(last) }
    }
}

impl Measured {
    pub(crate) fn new(row: Row, rounds: Vec<Round>) -> Self {
        Self { row, rounds, notes: Vec::new() }
    }

    pub(crate) fn noting(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// What is judged, over the rounds.
    pub(crate) fn judged(&self) -> Spread {
        Spread::of(self.rounds.iter().map(Round::judged))
    }

    pub(crate) fn ours(&self) -> Spread {
        Spread::of(self.rounds.iter().map(|round| round.ours))
    }

    pub(crate) fn limit(&self) -> Option<Spread> {
        let limits: Vec<f64> = self.rounds.iter().filter_map(|round| round.limit).collect();
        (!limits.is_empty()).then(|| Spread::of(limits))
    }

    pub(crate) fn peer(&self) -> Option<Spread> {
        let peers: Vec<f64> = self.rounds.iter().filter_map(|round| round.peer).collect();
        (!peers.is_empty()).then(|| Spread::of(peers))
    }

    /// Whether it was wanted, and could not be measured: a note says why.
    pub(crate) fn is_missing(&self) -> bool {
        self.rounds.is_empty()
    }

    /// How it stands: its median, since single rounds of a busy machine say little.
    pub(crate) fn verdict(&self) -> Verdict {
        self.row.target.judge(self.judged().median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_target_is_half_the_rate_or_twice_the_time() {
        let least = Target::RatioAtLeast(0.8);
        assert_eq!(least.judge(0.8), Verdict::Ok);
        assert_eq!(least.judge(0.79), Verdict::Short);
        assert_eq!(least.judge(0.4), Verdict::Short);
        assert_eq!(least.judge(0.39), Verdict::Half);
        let most = Target::RatioAtMost(1.5);
        assert_eq!(most.judge(1.5), Verdict::Ok);
        assert_eq!(most.judge(3.0), Verdict::Short);
        assert_eq!(most.judge(3.1), Verdict::Half);
        assert_eq!(Target::AtMost(15.0).judge(f64::NAN), Verdict::Half);
    }

    #[test]
    fn a_limit_of_several_things_is_their_composite() {
        let parts = || vec![Part::one("a", 100.0), Part::many("b", 2.0, 400.0)];
        assert_eq!(Round::of_rates(1.0, parts()).limit, Some(1.0 / (0.01 + 0.005)));
        assert_eq!(Round::of_times(1.0, parts()).limit, Some(900.0));
    }

    #[test]
    fn the_median_decides() {
        let row = Row {
            name: "x",
            what: "",
            against: "",
            unit: Unit::PerSecond,
            target: Target::RatioAtLeast(0.8),
        };
        let rounds =
            [0.1, 0.9, 0.85].map(|r| Round::of_rates(r * 10.0, vec![Part::one("a", 10.0)]));
        let measured = Measured::new(row, rounds.to_vec());
        assert_eq!(measured.verdict(), Verdict::Ok);
        assert!((measured.judged().min - 0.1).abs() < 1e-9);
        assert_eq!(Spread::of([1.0, 2.0]).median, 1.5);
    }
}
