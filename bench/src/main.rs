//! Measures our real programs beside the limit of what they are built on, in one run, on a RabbitMQ
//! node of its own: `cargo xtask bench [row…]`.
//!
//! Ratios are judged, absolute figures only shown: they are this machine's. Invariant: nothing in
//! the product knows of this program; it is measured from outside, as built for release.

mod bench;
mod limit;
mod measure;
mod peer;
mod process;
mod report;
mod row;
mod rows;
mod simulate;
mod site;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use goperation_harness::Processors;

use crate::{bench::Bench, limit::Role, row::Verdict};

/// What went wrong, for a person.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Measures Goperation beside the limit of what it is built on.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Args {
    /// Rows to measure, or the first words of their names: `call` is call, call.one, …
    #[arg(value_name = "ROW")]
    rows: Vec<String>,
    /// Name the rows and their targets, and measure nothing
    #[arg(long)]
    list: bool,
    /// Fewer and shorter rounds; fails when a row is worse than half its target or not measured
    #[arg(long)]
    short: bool,
    /// Also write everything that was measured here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the plots into this folder, as SVG
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Also write the table and its parts here, as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Python that has oslo.messaging, to measure it beside us
    #[arg(long, value_name = "PROGRAM")]
    peer: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The storm after a broker's restart, from measured costs
    Simulate(simulate::Storm),
    /// One process of the limit
    #[command(hide = true)]
    Role {
        #[command(subcommand)]
        role: Role,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Some(Command::Role { role }) => {
            limit::play(role).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Simulate(storm)) => {
            print!("{}", storm.run());
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    let wanted = rows::wanted(&args.rows, args.short)?;
    if args.list {
        print!("{}", report::text::list(&wanted));
        return Ok(ExitCode::SUCCESS);
    }
    let bench = Bench::start(args.short, args.peer).await?;
    let machine = report::Machine::look(&bench).await?;
    let since = Processors::now();
    let keep = |measured: &[row::Measured]| {
        let report = report::Report::new(machine.clone(), measured.to_vec(), since);
        if let Some(file) = &args.json {
            std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
        }
        if let Some(folder) = &args.plots {
            report::plot::draw(&report, folder)?;
        }
        if let Some(file) = &args.markdown {
            std::fs::write(file, report::text::markdown(&report))?;
        }
        Ok(())
    };
    let measured = rows::measure(&bench, &wanted, keep).await?;
    let report = report::Report::new(machine, measured, since);
    print!("{}", report::text::table(&report));
    if report.measured.iter().any(row::Measured::is_missing) {
        return Ok(ExitCode::FAILURE);
    }
    let worst = report.measured.iter().map(row::Measured::verdict).max();
    Ok(match worst {
        Some(Verdict::Half) if args.short => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}
