//! A venv with Python packages: that of the tests, that of the bench's peer.
//!
//! Invariant: its stamp is written last, so half an installation is not taken for a whole one.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{same, succeeds};
use crate::step::{Failure, command, run, workspace};

/// True if the venv runs and holds what `requirements` says now.
pub(super) async fn is_installed(venv: &Path, requirements: &Path) -> bool {
    same(&stamp(venv), requirements) && succeeds(&python(venv), &["-c", ""]).await
}

/// Makes the venv anew.
pub(super) async fn install(venv: &Path, requirements: &Path) -> Result<(), Failure> {
    let mut make = command("python3", ["-m", "venv", "--clear"]);
    make.arg(venv).stdin(Stdio::null());
    run(make).await?;
    let mut pip = pip_install(venv);
    pip.arg("--requirement").arg(requirements);
    run(pip).await?;
    std::fs::copy(requirements, stamp(venv))?;
    Ok(())
}

/// `pip install` of the venv, quiet.
pub(super) fn pip_install(venv: &Path) -> tokio::process::Command {
    let mut pip = command(python(venv), ["-m", "pip", "install", "--quiet"]);
    pip.args(["--disable-pip-version-check", "--root-user-action=ignore"]).stdin(Stdio::null());
    pip
}

/// How a person makes it.
pub(super) fn advice(venv: &Path, requirements: &Path) -> String {
    let requirements = requirements.strip_prefix(workspace()).unwrap_or(requirements).display();
    let (venv, stamp) = (venv.display(), stamp(venv));
    format!(
        "Python packages: `python3 -m venv --clear {venv} && {venv}/bin/pip install -r \
         {requirements} && cp {requirements} {}`",
        stamp.display()
    )
}

pub(super) fn python(venv: &Path) -> PathBuf {
    venv.join("bin/python")
}

fn stamp(venv: &Path) -> PathBuf {
    venv.join("installed.txt")
}
