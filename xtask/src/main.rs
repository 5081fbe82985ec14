//! The tasks of the repository, run as `cargo xtask <task>`.
//!
//! Invariant: the exit code is 0 if the task did all that it promises, 2 if the machine lacks
//! something that it needs, and else that of the step that failed.

mod bench;
mod buf;
mod sdk;
mod step;
mod test;
mod tools;
mod tree;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the Goperation repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Checks formatting, lints, protos, SDKs, all tests, doctests and documentation.
    Test(test::Args),
    /// Generates the SDKs from the protos.
    Sdk(sdk::Args),
    /// Measures our programs, built for release, beside the limit of what they are built on.
    Bench(bench::Args),
}

/// Why a task ended early.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The machine lacks something; the text names it and how to get it.
    #[error("{0}")]
    Missing(String),
    /// A step of the task failed.
    #[error("step \"{step}\" failed after {seconds:.1} s: {what}")]
    Step {
        /// The step's name.
        step: &'static str,
        /// How long it ran.
        seconds: f64,
        /// How it failed.
        what: String,
        /// Its exit code, if it ended by itself.
        code: Option<i32>,
    },
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Missing(_) => 2,
            Self::Step { code, .. } => code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
            Self::Interrupted => 130,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    tokio::spawn(step::watch_for_signals());
    let done = match args.task {
        Task::Test(args) => test::run_task(args).await,
        Task::Sdk(args) => sdk::run_task(args).await,
        Task::Bench(args) => bench::run_task(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ncargo xtask: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
