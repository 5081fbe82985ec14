//! `cargo xtask sdk`: what is generated of the SDKs, from `proto/`.
//!
//! Invariant: a generated folder is the generators' whole output for the protos as they are; no
//! file in it is written by hand.

mod generate;
mod types;

use std::path::Path;

use goperation_harness::target_folder;

pub(crate) use types::check_types;

use crate::Error;
use crate::step::{Failure, step, workspace};
use crate::tools::{self, SdkTools};
use crate::tree;

/// Arguments of `cargo xtask sdk`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing: fail if the generated code is not what the protos give, or its types are
    /// wrong.
    #[arg(long)]
    check: bool,

    /// Install nothing: if something is missing, name it and exit with 2.
    #[arg(long)]
    no_install: bool,
}

/// Runs the whole task.
pub(crate) async fn run_task(args: Args) -> Result<(), Error> {
    let target = target_folder();
    let tools = tools::ensure_for_sdk(&target, !args.no_install).await?;
    if args.check {
        step("SDKs are up to date", check(&tools, &target)).await?;
    } else {
        step("generate the SDKs", write(&tools, &target)).await?;
    }
    step("types of the SDKs", check_types(&tools)).await
}

/// Fails if a generated folder is not what the protos give.
pub(crate) async fn check(tools: &SdkTools, target: &Path) -> Result<(), Failure> {
    let mut stale = Vec::new();
    for (folder, wanted) in generate::all(tools, target).await? {
        let there = tree::read(&workspace().join(folder))?;
        let differing = tree::differing(&wanted, &there);
        stale.extend(differing.into_iter().map(|path| format!("{folder}/{}", path.display())));
    }
    if stale.is_empty() {
        return Ok(());
    }
    let stale = stale.join("\n  ");
    Err(format!("not what proto/ gives; run `cargo xtask sdk`:\n  {stale}").into())
}

async fn write(tools: &SdkTools, target: &Path) -> Result<(), Failure> {
    for (folder, wanted) in generate::all(tools, target).await? {
        tree::write(&workspace().join(folder), &wanted)?;
        eprintln!("{folder}: {} files", wanted.len());
    }
    Ok(())
}
