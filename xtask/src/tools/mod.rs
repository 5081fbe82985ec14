//! The programs that the tests and the bench need beyond Rust: found, installed, or named.
//!
//! Invariant: the repository says which versions: `tests/clients/` and `bench/peer/` pin all that is
//! not the system's, and an installation is made again when those files change.

mod grpcurl;
mod node;
mod python;
mod system;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use goperation_harness::{
    CHROMIUM_ENV, GRPCURL_ENV, NODE_MODULES, NODE_MODULES_ENV, VENV, VENV_ENV, find_program,
};
use tokio::process::Command;

use crate::Error;
use crate::step::{command, run, step, workspace};

/// What the tests need.
#[derive(Debug)]
pub(crate) struct Tools {
    /// What the SDKs are generated and checked with.
    pub(crate) sdk: SdkTools,
    /// The grpcurl program.
    grpcurl: PathBuf,
    /// The Chromium program.
    chromium: PathBuf,
    /// True if cargo-nextest is there.
    pub(crate) nextest: bool,
}

/// What the SDKs are generated and checked with.
#[derive(Debug)]
pub(crate) struct SdkTools {
    /// The venv that holds `tests/clients/requirements.txt`.
    pub(crate) venv: PathBuf,
    /// The packages of `tests/clients/node`.
    pub(crate) node_modules: PathBuf,
}

impl Tools {
    /// Tells the tests where the tools are.
    pub(crate) fn tell(&self, tests: &mut Command) {
        tests
            .env(GRPCURL_ENV, &self.grpcurl)
            .env(CHROMIUM_ENV, &self.chromium)
            .env(VENV_ENV, &self.sdk.venv)
            .env(NODE_MODULES_ENV, &self.sdk.node_modules);
    }
}

/// Finds what the tests need; installs what is missing if `install` allows it.
///
/// An installation that fails is reported and then named among what is missing.
pub(crate) async fn ensure(target: &Path, install: bool) -> Result<Tools, Error> {
    let mut missing = system::ensure(&system::FOR_TESTS, install).await?;
    let sdk = packages(target, install, &mut missing).await?;
    let mut grpcurl = grpcurl::working(target).await;
    if install && grpcurl.is_none() {
        attempt(step("install grpcurl (pip)", grpcurl::install(&sdk.venv, target)).await)?;
        grpcurl = grpcurl::working(target).await;
    }
    if grpcurl.is_none() {
        missing.push(grpcurl::advice(&sdk.venv, target));
    }
    match (grpcurl, system::chromium()) {
        (Some(grpcurl), Some(chromium)) if missing.is_empty() => {
            let nextest = find_program("cargo-nextest", &[]).is_some();
            Ok(Tools { sdk, grpcurl, chromium, nextest })
        }
        _ => Err(lacking(&missing)),
    }
}

/// The same for what only the SDKs need.
pub(crate) async fn ensure_for_sdk(target: &Path, install: bool) -> Result<SdkTools, Error> {
    let mut missing = system::ensure(&system::FOR_SDK, install).await?;
    let sdk = packages(target, install, &mut missing).await?;
    if missing.is_empty() { Ok(sdk) } else { Err(lacking(&missing)) }
}

/// The packages that `tests/clients` names, from the package indexes that this machine uses.
async fn packages(
    target: &Path,
    install: bool,
    missing: &mut Vec<String>,
) -> Result<SdkTools, Error> {
    let sdk = SdkTools { venv: target.join(VENV), node_modules: target.join(NODE_MODULES) };
    let requirements = workspace().join("tests/clients/requirements.txt");
    let what = "install tests/clients/requirements.txt (pip)";
    venv(what, &sdk.venv, &requirements, install, missing).await?;
    let (folder, wanted) = (target.join("tools/node"), workspace().join("tests/clients/node"));
    if install && !node::is_installed(&folder, &wanted) {
        let work = node::install(&folder, &wanted);
        attempt(step("install tests/clients/node (npm)", work).await)?;
    }
    if !node::is_installed(&folder, &wanted) {
        missing.push(node::advice(&folder));
    }
    Ok(sdk)
}

/// What the bench needs, and the Python of its peer, if that is wanted.
pub(crate) async fn ensure_for_bench(
    target: &Path,
    install: bool,
    peer: bool,
) -> Result<Option<PathBuf>, Error> {
    let mut missing = system::ensure(&system::FOR_BENCH, install).await?;
    let folder = target.join("tools/peer");
    if peer {
        missing.extend(system::ensure(&system::FOR_PEER, install).await?);
        let requirements = workspace().join("bench/peer/requirements.txt");
        let what = "install bench/peer/requirements.txt (pip)";
        venv(what, &folder, &requirements, install, &mut missing).await?;
    }
    if missing.is_empty() {
        Ok(peer.then(|| python::python(&folder)))
    } else {
        Err(lacking(&missing))
    }
}

/// The venv in `folder` with what `requirements` names.
async fn venv(
    step_name: &'static str,
    folder: &Path,
    requirements: &Path,
    install: bool,
    missing: &mut Vec<String>,
) -> Result<(), Error> {
    if install && !python::is_installed(folder, requirements).await {
        attempt(step(step_name, python::install(folder, requirements)).await)?;
    }
    if !python::is_installed(folder, requirements).await {
        missing.push(python::advice(folder, requirements));
    }
    Ok(())
}

fn lacking(missing: &[String]) -> Error {
    Error::Missing(format!("install what is needed:\n  {}", missing.join("\n  ")))
}

/// Reports a failed installation and goes on; an interruption ends the task.
fn attempt(installed: Result<(), Error>) -> Result<(), Error> {
    match installed {
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => {
            eprintln!("{error}");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

async fn succeeds(program: &Path, args: &[&str]) -> bool {
    let mut command = command(program, args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    run(command).await.is_ok()
}

/// True if the file that says what was installed last says the same as `wanted`.
fn same(stamp: &Path, wanted: &Path) -> bool {
    match (std::fs::read(stamp), std::fs::read(wanted)) {
        (Ok(stamp), Ok(wanted)) => stamp == wanted,
        _ => false,
    }
}
