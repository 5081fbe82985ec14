//! What the kernel counts, made into rates by two readings.
//!
//! Invariant: a rate is finite and not negative, and percents are at most 100 together. A counter
//! that went backwards or wrapped, or that was not there before, gives 0.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Readings that are closer give the rates of the ones before: the clock of the processors ticks
/// a hundred times a second.
const SHORTEST: Duration = Duration::from_millis(100);

/// Bytes of one interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// Ticks of all processors together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ticks {
    pub(super) user: u64,
    pub(super) nice: u64,
    pub(super) system: u64,
    pub(super) idle: u64,
    pub(super) iowait: u64,
    pub(super) irq: u64,
    pub(super) soft_irq: u64,
    pub(super) steal: u64,
}

impl Ticks {
    fn since(self, before: Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            nice: self.nice.saturating_sub(before.nice),
            system: self.system.saturating_sub(before.system),
            idle: self.idle.saturating_sub(before.idle),
            iowait: self.iowait.saturating_sub(before.iowait),
            irq: self.irq.saturating_sub(before.irq),
            soft_irq: self.soft_irq.saturating_sub(before.soft_irq),
            steal: self.steal.saturating_sub(before.steal),
        }
    }

    fn sum(self) -> f64 {
        let all = [self.user, self.nice, self.system, self.idle, self.iowait, self.irq];
        all.into_iter().chain([self.soft_irq, self.steal]).map(float).sum()
    }
}

/// Counters at one moment; none of those that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) at: Instant,
    pub(super) ticks: Option<Ticks>,
    pub(super) context: Option<u64>,
    pub(super) interrupts: Option<u64>,
    pub(super) soft_interrupts: Option<u64>,
    pub(super) interfaces: BTreeMap<String, Traffic>,
}

/// Rates between two moments: events and bytes a second, and percents of all processors.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) context: f64,
    pub(super) interrupts: f64,
    pub(super) soft_interrupts: f64,
    pub(super) user: f64,
    pub(super) nice: f64,
    pub(super) system: f64,
    pub(super) iowait: f64,
    pub(super) irq: f64,
    pub(super) soft_irq: f64,
    pub(super) received: f64,
    pub(super) sent: f64,
}

#[expect(clippy::cast_precision_loss, reason = "a rate need not be exact beyond 2^53")]
fn float(number: u64) -> f64 {
    number as f64
}

impl Rates {
    fn between(before: &Counters, now: &Counters, gap: Duration) -> Self {
        let a_second = |count: u64| float(count) / gap.as_secs_f64();
        let counted = |before: Option<u64>, now: Option<u64>| {
            a_second(before.zip(now).map_or(0, |(before, now)| now.saturating_sub(before)))
        };
        let ticks = match (before.ticks, now.ticks) {
            (Some(before), Some(now)) => now.since(before),
            _ => Ticks::default(),
        };
        let all = ticks.sum().max(1.0);
        let percent = |ticks: u64| float(ticks) * 100.0 / all;
        let mut traffic = Traffic::default();
        for (name, now) in &now.interfaces {
            let before = before.interfaces.get(name).copied().unwrap_or(*now);
            let received = now.received.saturating_sub(before.received);
            traffic.received = traffic.received.saturating_add(received);
            traffic.sent = traffic.sent.saturating_add(now.sent.saturating_sub(before.sent));
        }
        Self {
            context: counted(before.context, now.context),
            interrupts: counted(before.interrupts, now.interrupts),
            soft_interrupts: counted(before.soft_interrupts, now.soft_interrupts),
            user: percent(ticks.user),
            nice: percent(ticks.nice),
            system: percent(ticks.system),
            iowait: percent(ticks.iowait),
            irq: percent(ticks.irq),
            soft_irq: percent(ticks.soft_irq),
            received: a_second(traffic.received),
            sent: a_second(traffic.sent),
        }
    }
}

/// Makes rates of readings.
#[derive(Debug, Default)]
pub(super) struct Meter {
    last: Option<(Counters, Rates)>,
}

impl Meter {
    /// Whether nothing was read yet.
    pub(super) fn is_new(&self) -> bool {
        self.last.is_none()
    }

    /// The rates since the reading before; 0 for the first.
    pub(super) fn rates(&mut self, now: Counters) -> Rates {
        let rates = match &self.last {
            None => Rates::default(),
            Some((before, rates)) => {
                let gap = now.at.saturating_duration_since(before.at);
                if gap < SHORTEST {
                    return *rates;
                }
                Rates::between(before, &now, gap)
            }
        };
        self.last = Some((now, rates));
        rates
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn counters(at: Instant, count: u64, ticks: Ticks, traffic: &[(&str, u64, u64)]) -> Counters {
        let traffic = traffic
            .iter()
            .map(|&(name, received, sent)| (name.to_owned(), Traffic { received, sent }));
        Counters {
            at,
            ticks: Some(ticks),
            context: Some(count),
            interrupts: Some(count),
            soft_interrupts: Some(count),
            interfaces: traffic.collect(),
        }
    }

    fn close(rate: f64, wanted: f64) -> bool {
        (rate - wanted).abs() < 1e-9
    }

    #[test]
    fn two_readings_make_rates() {
        let begun = Instant::now();
        let before = Ticks { user: 100, idle: 100, ..Ticks::default() };
        let after = Ticks { user: 150, system: 25, iowait: 5, idle: 200, steal: 20, ..before };
        let mut meter = Meter::default();
        let first = counters(begun, 1000, before, &[("eth0", 10, 20), ("eth1", 5, 5)]);
        assert_eq!(meter.rates(first), Rates::default());
        let rates = meter.rates(counters(
            begun + 4 * SECOND,
            1400,
            after,
            &[("eth0", 410, 60), ("eth1", 5, 45)],
        ));
        assert!(close(rates.context, 100.0) && close(rates.soft_interrupts, 100.0), "{rates:?}");
        assert!(close(rates.received, 100.0) && close(rates.sent, 20.0), "{rates:?}");
        assert!(close(rates.user, 25.0) && close(rates.system, 12.5), "{rates:?}");
        assert!(close(rates.iowait, 2.5) && close(rates.nice, 0.0), "{rates:?}");
    }

    #[test]
    fn what_goes_backwards_or_comes_late_is_0() {
        let begun = Instant::now();
        let ticks = |user, iowait| Ticks { user, iowait, idle: 500, ..Ticks::default() };
        let mut meter = Meter::default();
        // A wrapped counter, a network card that came anew and one that came at all.
        meter.rates(counters(begun, u64::MAX - 5, ticks(100, 100), &[("eth0", 1 << 32, 9)]));
        let rates = meter.rates(counters(
            begun + SECOND,
            7,
            ticks(110, 90),
            &[("eth0", 3, 10), ("tun0", 1 << 40, 1 << 40)],
        ));
        assert!(close(rates.context, 0.0) && close(rates.received, 0.0), "{rates:?}");
        assert!(close(rates.sent, 1.0) && close(rates.iowait, 0.0), "{rates:?}");
        assert!(close(rates.user, 100.0), "{rates:?}");
        // What could not be read once.
        let blind = Counters {
            ticks: None,
            context: None,
            ..counters(begun + 2 * SECOND, 9, ticks(0, 0), &[])
        };
        let rates = meter.rates(blind);
        assert!(close(rates.context, 0.0) && close(rates.user, 0.0), "{rates:?}");
        let rates = meter.rates(counters(begun + 3 * SECOND, 1 << 50, ticks(1 << 40, 0), &[]));
        assert!(close(rates.context, 0.0) && close(rates.user, 0.0), "{rates:?}");
        // The clock of the processors stood still.
        let rates = meter.rates(counters(begun + 4 * SECOND, 1 << 50, ticks(1 << 40, 0), &[]));
        assert!(close(rates.user, 0.0), "{rates:?}");
    }

    #[test]
    fn readings_that_are_too_close_give_the_rates_before() {
        let begun = Instant::now();
        let at = |millis, count| {
            counters(begun + Duration::from_millis(millis), count, Ticks::default(), &[])
        };
        let mut meter = Meter::default();
        meter.rates(at(0, 0));
        let rates = meter.rates(at(1000, 10));
        assert!(close(rates.context, 10.0));
        assert_eq!(meter.rates(at(1050, 1_000_000)), rates);
        assert_eq!(meter.rates(at(900, 1_000_000)), rates);
        // The base is still that of the first second.
        assert!(close(meter.rates(at(2000, 30)).context, 20.0));
    }

    proptest! {
        #[test]
        fn rates_are_plausible_whatever_is_counted(
            counts in prop::collection::vec((any::<[u64; 8]>(), any::<[u64; 3]>(), 0_u64..10_000), 2..6),
        ) {
            let (mut meter, mut at) = (Meter::default(), Instant::now());
            for ([user, nice, system, idle, iowait, irq, soft_irq, steal], [count, a, b], gap) in counts {
                at += Duration::from_millis(gap);
                let ticks = Ticks { user, nice, system, idle, iowait, irq, soft_irq, steal };
                let rates = meter.rates(counters(at, count, ticks, &[("a", a, b), ("b", b, a)]));
                let percents = [
                    rates.user, rates.nice, rates.system, rates.iowait, rates.irq, rates.soft_irq,
                ];
                let others = [
                    rates.context, rates.interrupts, rates.soft_interrupts, rates.received, rates.sent,
                ];
                for rate in percents.into_iter().chain(others) {
                    prop_assert!(rate.is_finite() && rate >= 0.0, "{rates:?}");
                }
                prop_assert!(percents.iter().sum::<f64>() <= 100.0 + 1e-6, "{rates:?}");
            }
        }
    }
}
