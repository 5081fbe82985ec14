//! What a run has measured, and on what: for people, for scripts, as plots.
//!
//! Invariant: all forms are of the same figures, and say on which machine they were measured.

pub(crate) mod plot;
pub(crate) mod text;

use std::time::SystemTime;

use goperation_harness::{Processors, RabbitNode};
use procfs::{CpuInfo, Current as _, Meminfo};
use serde::Serialize;

use crate::{Result, bench::Bench, measure::count, row::Measured};

/// All that a run gives.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Of the processor time that something of this machine wanted, the part that its host gave to
    /// others: with more than a few percent the figures are of a busy host.
    pub(crate) stolen_percent: f64,
    pub(crate) measured: Vec<Measured>,
}

impl Report {
    /// Of what was measured since then.
    pub(crate) fn new(machine: Machine, measured: Vec<Measured>, since: Processors) -> Self {
        Self { machine, stolen_percent: 100.0 * (1.0 - since.share_that_ran()), measured }
    }
}

/// Where and with what it was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// The begin of the run, in UTC.
    pub(crate) date: String,
    /// The processor's own name.
    pub(crate) processor: String,
    /// How many of it there are.
    pub(crate) processors: usize,
    /// In GiB.
    pub(crate) memory: f64,
    /// Linux's release.
    pub(crate) kernel: String,
    /// RabbitMQ's version.
    pub(crate) rabbitmq: String,
    /// Erlang's release.
    pub(crate) erlang: String,
    /// Ours.
    pub(crate) goperation: &'static str,
    /// Whether the rounds were fewer and shorter.
    pub(crate) short: bool,
}

impl Machine {
    /// The machine that we are on, with the node that runs.
    pub(crate) async fn look(bench: &Bench) -> Result<Self> {
        let processor = CpuInfo::current()?;
        let memory = Meminfo::current()?.mem_total;
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        Ok(Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            processor: processor.model_name(0).unwrap_or("unknown").to_owned(),
            processors: processor.num_cores(),
            memory: count(memory) / count(1 << 30),
            kernel,
            rabbitmq: version(bench.node(), "rabbit_misc:version()").await?,
            erlang: version(bench.node(), "erlang:system_info(otp_release)").await?,
            goperation: env!("CARGO_PKG_VERSION"),
            short: bench.short,
        })
    }
}

/// What an expression of Erlang says as a list of characters.
async fn version(node: &RabbitNode, expression: &str) -> Result<String> {
    // An atom is printed in one way only.
    let text = node.eval(&format!("list_to_atom({expression})")).await?;
    Ok(text.trim_matches('\'').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Part, Round, Row, Target, Unit};

    fn row(name: &'static str, unit: Unit, target: Target) -> Row {
        Row { name, what: "what it does", against: "what | it is built on", unit, target }
    }

    /// One of each kind.
    pub(super) fn made_up() -> Report {
        let spread = [0.97, 1.0, 1.04];
        let rates = |ours: f64, limit: f64, peer: Option<f64>| {
            let parts =
                || vec![Part::one("lapin", 2.0 * limit), Part::many("commit", 2.0, 4.0 * limit)];
            spread.map(|by| Round::of_rates(ours * by, parts()).beside(peer)).to_vec()
        };
        let times = |ours: f64, limit: f64| {
            spread.map(|by| Round::of_times(ours * by, vec![Part::one("bare", limit)])).to_vec()
        };
        let alone = |ours: f64| spread.map(|by| Round::alone(ours * by)).to_vec();
        let (least, most) = (Target::RatioAtLeast, Target::RatioAtMost);
        let of = |name, unit, target, rounds| Measured::new(row(name, unit, target), rounds);
        let measured = vec![
            of("call", Unit::PerSecond, least(0.8), rates(7400.0, 8600.0, Some(790.0)))
                .noting("p99 12.1 ms"),
            of("call.one", Unit::Millis, most(1.5), times(0.81, 0.62)),
            of("call.journaled", Unit::PerSecond, least(0.75), rates(3100.0, 4400.0, None)),
            of("cast", Unit::PerSecond, least(0.8), rates(5900.0, 6800.0, Some(2500.0))),
            of("request", Unit::Millis, most(1.5), times(440.0, 210.0)),
            of("ports", Unit::PerSecond, least(0.5), rates(900.0, 4100.0, None)),
            of("lock", Unit::Nanos, most(2.0), times(48.0, 31.0)),
            of("idle.memory", Unit::Mebibytes, Target::AtMost(15.0), alone(6.4)),
            of("idle.cpu", Unit::CorePercent, Target::AtMost(0.1), alone(0.02)),
            of("start.agent", Unit::Millis, Target::AtMost(150.0), alone(88.0)),
            of("storm", Unit::Millis, most(1.5), times(61_300.0, 44_000.0)),
            of("broken", Unit::Millis, most(1.5), Vec::new()),
        ];
        let machine = Machine {
            date: "2026-11-23T05:00:00Z".to_owned(),
            processor: "Made Up 3000".to_owned(),
            processors: 2,
            memory: 7.8,
            kernel: "6.1.0".to_owned(),
            rabbitmq: "3.10.8".to_owned(),
            erlang: "25".to_owned(),
            goperation: "0.1.0",
            short: false,
        };
        Report { machine, stolen_percent: 1.25, measured }
    }
}
