//! `cargo xtask test`: everything that must hold before a commit.
//!
//! Invariant: the shared RabbitMQ node ends with this task, however it ends.

use std::time::Instant;

use goperation_harness::{GOP_ENV, RabbitNode, SHARED_BROKER_ENV, profile_folder, target_folder};

use crate::step::{cargo, run, step, unless_interrupted};
use crate::tools::{self, Tools};
use crate::{Error, bench, buf, sdk};

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Install nothing: if something is missing, name it and exit with 2.
    #[arg(long)]
    no_install: bool,

    /// Only build and run the tests: no format check, lints, checks of protos and SDKs, doctests,
    /// documentation or bench.
    #[arg(long)]
    only_tests: bool,

    /// Goes to the test runner: names of tests, or its own options.
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
}

/// Runs the whole task.
pub(crate) async fn run_task(args: Args) -> Result<(), Error> {
    let began = Instant::now();
    let target = target_folder();
    let tools = tools::ensure(&target, !args.no_install).await?;
    if !args.only_tests {
        step("format", run(cargo(["fmt", "--all", "--check"]))).await?;
        let lint = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        step("lint", run(cargo(lint))).await?;
        step("protos: lint", buf::lint(&tools.sdk.node_modules)).await?;
        step("protos: clients of the last release", buf::breaking(&tools.sdk.node_modules)).await?;
        step("SDKs are up to date", sdk::check(&tools.sdk, &target)).await?;
        step("types of the SDKs", sdk::check_types(&tools.sdk)).await?;
    }
    // Together: alone, the programs would be built with the features that they need, and all of it
    // again with those that the tests need.
    step("build", run(cargo(["build", "--workspace", "--bins", "--tests"]))).await?;
    tests(&args, &tools).await?;
    if !args.only_tests {
        step("doctests", run(cargo(["test", "--doc", "--workspace"]))).await?;
        let mut doc = cargo(["doc", "--no-deps", "--workspace"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        step("documentation", run(doc)).await?;
        bench::short(args.no_install).await?;
    }
    eprintln!("\nall done in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Runs all tests with one RabbitMQ node for those that only want a virtual host.
async fn tests(args: &Args, tools: &Tools) -> Result<(), Error> {
    let mut runner = if tools.nextest {
        cargo(["nextest", "run", "--workspace"])
    } else {
        eprintln!("cargo-nextest is not here: running the tests with cargo test");
        cargo(["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"])
    };
    let start = async { Ok(RabbitNode::try_start().await?) };
    let node = step("start RabbitMQ", unless_interrupted(start)).await?;
    runner
        .args(&args.filter)
        .env(SHARED_BROKER_ENV, node.describe())
        .env(GOP_ENV, profile_folder().join("gop"));
    tools.tell(&mut runner);
    let tested = step("tests", run(runner)).await;
    // Before the failure is reported, and before the steps that need no broker.
    drop(node);
    tested
}
