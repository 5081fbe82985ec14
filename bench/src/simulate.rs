//! The storm after a broker's restart, as a discrete-event simulation: every agent connects anew, and
//! a broker that is asked by too many at once works for those that have given up meanwhile.
//!
//! Invariant: the costs are given, measured elsewhere; the same seed gives the same figures.

use std::{cmp::Reverse, collections::BinaryHeap, fmt::Write as _};

use clap::Args;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::measure::{count, count_of};

/// Microseconds since the broker is back.
type Micros = u64;

/// What is simulated. Times in milliseconds are the broker's processor time.
#[derive(Debug, Clone, Args)]
pub(crate) struct Storm {
    /// Agents of all brokers
    #[arg(long, default_value_t = 100_000)]
    agents: u32,
    /// Brokers that share them evenly
    #[arg(long, default_value_t = 1)]
    shards: u32,
    /// Processors of each broker
    #[arg(long, default_value_t = 8)]
    processors: u32,
    /// Seconds over which agents spread their first try
    #[arg(long, default_value_t = 0.0)]
    splay: f64,
    /// Connecting costs the broker so much, in ms
    #[arg(long)]
    connect: f64,
    /// An agent's queues, bindings and consumers cost the broker so much, in ms
    #[arg(long)]
    setup: f64,
    /// A connection whose other side has given up costs the broker so much, in ms
    #[arg(long, default_value_t = 0.2)]
    given_up: f64,
    /// Seconds after which an agent gives a step up
    #[arg(long, default_value_t = 5.0)]
    patience: f64,
    /// Of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What became of one shard.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    /// When each agent was back, ascending.
    back: Vec<Micros>,
    /// Tries of all agents.
    tries: u64,
    /// Processor time that went to agents that had given up.
    wasted: Micros,
    /// Processor time in all.
    busy: Micros,
}

/// The steps of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Connect,
    Setup,
}

impl Storm {
    /// A table for people: one shard stands for all, which are alike.
    pub(crate) fn run(&self) -> String {
        let outcome = self.shard();
        let seconds = |micros: Micros| count(micros) / 1e6;
        let quantile =
            |q: usize| outcome.back.get((outcome.back.len() * q / 100).saturating_sub(1));
        let mut text = String::new();
        for (name, value) in [
            ("half of the agents are back after s", quantile(50)),
            ("99 of 100 after s", quantile(99)),
            ("all after s", outcome.back.last()),
        ] {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:40} {:10.1}", value.map_or(f64::NAN, |&at| seconds(at)));
        }
        let tries = count(outcome.tries) / count_of(outcome.back.len());
        let wasted = 100.0 * seconds(outcome.wasted) / seconds(outcome.busy);
        let _ = writeln!(text, "{:40} {tries:10.2}", "tries of an agent");
        let _ = writeln!(text, "{:40} {wasted:10.1}", "% of the broker's time wasted");
        text
    }

    fn shard(&self) -> Outcome {
        let mut random = StdRng::seed_from_u64(self.seed);
        let agents = self.agents.div_ceil(self.shards.max(1));
        let patience = micros(self.patience * 1e3);
        let mut free: BinaryHeap<Reverse<Micros>> =
            (0..self.processors.max(1)).map(|_| Reverse(0)).collect();
        let mut events: BinaryHeap<Reverse<(Micros, Step, u32)>> = (0..agents)
            .map(|agent| {
                let first = micros(self.splay * 1e3 * random.random_range(0.0..=1.0));
                Reverse((first, Step::Connect, agent))
            })
            .collect();
        let mut failures = vec![0_u32; usize::try_from(agents).unwrap_or(0)];
        let mut out = Outcome { back: Vec::new(), tries: 0, wasted: 0, busy: 0 };
        while let Some(Reverse((now, step, agent))) = events.pop() {
            let Some(failed) = usize::try_from(agent).ok().and_then(|i| failures.get_mut(i)) else {
                continue;
            };
            out.tries += u64::from(step == Step::Connect);
            // First come, first served: the broker's processors take what waits in its order.
            let Some(Reverse(earliest)) = free.pop() else { break };
            let start = now.max(earliest);
            let in_time = start < now + patience;
            let cost = match step {
                _ if !in_time => self.given_up,
                Step::Connect => self.connect,
                Step::Setup => self.setup,
            };
            let end = start + micros(cost);
            free.push(Reverse(end));
            out.busy += end - start;
            if end > now + patience {
                out.wasted += end - start;
                let back_off = back_off(*failed, random.random_range(0.5..=1.0));
                *failed = failed.saturating_add(1);
                events.push(Reverse((now + patience + back_off, Step::Connect, agent)));
            } else if step == Step::Connect {
                events.push(Reverse((end, Step::Setup, agent)));
            } else {
                out.back.push(end);
            }
        }
        out.back.sort_unstable();
        out
    }
}

/// As `bridge/src/rabbit/link.rs` has it.
fn back_off(failures: u32, jitter: f64) -> Micros {
    const FIRST: f64 = 100.0;
    const LAST: f64 = 2000.0;
    micros(jitter * (FIRST * f64::from(1_u32 << failures.min(8))).min(LAST))
}

/// Of milliseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times of a simulation are small and not negative"
)]
fn micros(millis: f64) -> Micros {
    (millis.max(0.0) * 1e3).round() as Micros
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storm(agents: u32, splay: f64) -> Storm {
        Storm {
            agents,
            shards: 1,
            processors: 2,
            splay,
            connect: 2.0,
            setup: 6.0,
            given_up: 0.2,
            patience: 5.0,
            seed: 1,
        }
    }

    #[test]
    fn few_take_what_they_cost() {
        let out = storm(100, 0.0).shard();
        assert_eq!((out.back.len(), out.tries, out.wasted), (100, 100, 0));
        // 8 ms each on two processors.
        assert_eq!(out.back.last(), Some(&400_000));
        assert_eq!(out.busy, 800_000);
    }

    #[test]
    fn too_many_at_once_waste_the_brokers_time_and_splay_does_not() {
        let at_once = storm(20_000, 0.0).shard();
        let spread = storm(20_000, 120.0).shard();
        assert_eq!((at_once.back.len(), spread.back.len()), (20_000, 20_000));
        assert!(at_once.wasted > 0 && at_once.tries > 20_000);
        assert_eq!((spread.wasted, spread.tries), (0, 20_000));
    }

    #[test]
    fn a_seed_gives_the_same_again() {
        assert_eq!(storm(3000, 10.0).shard(), storm(3000, 10.0).shard());
        assert_ne!(storm(3000, 10.0).shard(), Storm { seed: 2, ..storm(3000, 10.0) }.shard());
    }
}
