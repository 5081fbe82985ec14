//! The npm packages of the tests.
//!
//! Invariant: their stamp is written last, so half an installation is not taken for a whole one.
//! No package runs a script of its own while it is installed.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::same;
use crate::step::{Failure, command, run};

const LOCK: &str = "package-lock.json";

/// True if `folder` holds what the lock file in `wanted` says now.
pub(super) fn is_installed(folder: &Path, wanted: &Path) -> bool {
    same(&stamp(folder), &wanted.join(LOCK)) && folder.join("node_modules").is_dir()
}

/// Installs the packages of the lock file in `wanted` into `folder`.
pub(super) async fn install(folder: &Path, wanted: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    for file in ["package.json", LOCK] {
        std::fs::copy(wanted.join(file), folder.join(file))?;
    }
    let mut npm = command("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    npm.args(["--no-update-notifier", "--loglevel=error"]);
    npm.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    run(npm).await?;
    std::fs::copy(wanted.join(LOCK), stamp(folder))?;
    Ok(())
}

/// How a person does it.
pub(super) fn advice(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "npm packages: `mkdir -p {folder} && cp tests/clients/node/*.json {folder} && npm ci \
         --ignore-scripts --prefix {folder} && cp {folder}/{LOCK} {folder}/installed.json`"
    )
}

fn stamp(folder: &Path) -> PathBuf {
    folder.join("installed.json")
}
