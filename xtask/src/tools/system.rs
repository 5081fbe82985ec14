//! What comes with the system's package manager.
//!
//! Invariant: the system's RabbitMQ service is not started by an installation made here; the tests
//! start nodes of their own.

use std::path::PathBuf;
use std::process::Stdio;

use goperation_harness::{CHROMIUM_NAMES, find_program};

use super::{attempt, succeeds};
use crate::Error;
use crate::step::{Failure, command, run, step};

/// One thing that is needed.
pub(super) struct Need {
    /// Its name for people.
    name: &'static str,
    /// Its program, under any of these names.
    programs: &'static [&'static str],
    /// Where it may lie besides PATH.
    folders: &'static [&'static str],
    /// Arguments with which it must succeed; none: to be there is enough.
    probe: &'static [&'static str],
    /// Debian's packages of it.
    packages: &'static [&'static str],
}

const RABBITMQ: Need = Need {
    name: "RabbitMQ",
    programs: &["rabbitmq-server"],
    folders: &["/usr/lib/rabbitmq/bin", "/usr/sbin"],
    probe: &[],
    packages: &["rabbitmq-server"],
};

const CHROMIUM: Need = Need {
    name: "Chromium",
    programs: &CHROMIUM_NAMES,
    folders: &[],
    probe: &[],
    packages: &["chromium"],
};

const CURL: Need =
    Need { name: "curl", programs: &["curl"], folders: &[], probe: &[], packages: &["curl"] };

const NODE: Need = Need {
    name: "Node.js 18.14.1 or later",
    programs: &["node"],
    folders: &[],
    probe: &[
        "-e",
        "const [a, b] = process.versions.node.split('.').map(Number);\
         process.exit(a > 18 || (a === 18 && b > 14) ? 0 : 1)",
    ],
    packages: &["nodejs"],
};

const NPM: Need =
    Need { name: "npm", programs: &["npm"], folders: &[], probe: &[], packages: &["npm"] };

const PYTHON: Need = Need {
    name: "Python 3.10 or later with venv",
    programs: &["python3"],
    folders: &[],
    probe: &["-c", "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))"],
    packages: &["python3", "python3-venv"],
};

/// Where Debian puts games.
const GAMES: [&str; 1] = ["/usr/games"];

/// A real game server on UDP.
const TEEWORLDS: Need = Need {
    name: "teeworlds-server",
    programs: &["teeworlds-server"],
    folders: &GAMES,
    probe: &[],
    packages: &["teeworlds-server"],
};

/// A real game server on one port of TCP and UDP.
const BZFLAG: Need = Need {
    name: "bzfs",
    programs: &["bzfs"],
    folders: &GAMES,
    probe: &[],
    packages: &["bzflag-server"],
};

/// What the SDKs are generated with.
pub(super) const FOR_SDK: [Need; 3] = [NODE, NPM, PYTHON];

/// What the bench needs.
pub(super) const FOR_BENCH: [Need; 1] = [RABBITMQ];

/// What its peer needs.
pub(super) const FOR_PEER: [Need; 1] = [PYTHON];

/// What all tests need.
pub(super) const FOR_TESTS: [Need; 8] =
    [RABBITMQ, CHROMIUM, CURL, NODE, NPM, PYTHON, TEEWORLDS, BZFLAG];

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

/// Installs what is missing if `install` allows it; returns how to get what is missing then.
pub(super) async fn ensure(needs: &[Need], install: bool) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    for need in needs {
        if need.is_met().await {
            continue;
        }
        if install {
            eprintln!("\n{} is missing", need.name);
            attempt(step("install it (apt-get)", apt_install(need.packages)).await)?;
        }
        if !install || !need.is_met().await {
            let packages = need.packages.join(" ");
            missing.push(format!("{}: `sudo apt-get install {packages}`", need.name));
        }
    }
    Ok(missing)
}

/// The Chromium to use.
pub(super) fn chromium() -> Option<PathBuf> {
    CHROMIUM.find()
}

impl Need {
    fn find(&self) -> Option<PathBuf> {
        self.programs.iter().find_map(|name| find_program(name, self.folders))
    }

    async fn is_met(&self) -> bool {
        match self.find() {
            Some(_) if self.probe.is_empty() => true,
            Some(program) => succeeds(&program, self.probe).await,
            None => false,
        }
    }
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
