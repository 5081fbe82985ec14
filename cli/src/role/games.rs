//! The endpoints of `gop dev` whose entities have processes: a clock that every host can run, and
//! each real game server that is installed.
//!
//! Invariant: they are reached from this host only, and nothing of them outlives a temporary
//! folder.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use goperation_launcher::{Look, Process, RunDir, kill_all};
use tracing::{info, warn};

use super::sample::{program, quoted};
use crate::error::Error;

/// Where distributions put games, which is not always in PATH.
const FOLDERS: [&str; 2] = ["/usr/games", "/usr/local/games"];
/// What is being started has a process within this time, or never.
const STARTING: Duration = Duration::from_secs(5);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Prints the time, once a second, until it is told to stop.
const CLOCK: &str = r#"trap 'echo "clock $1 stops"; exit 0' TERM
echo "clock $1 runs"
while :; do
    date -u +%T
    sleep 1 &
    wait $!
done
"#;

/// A game server: its endpoint, its program, and how that is declared.
const GAMES: [(&str, &str, &str, &str); 2] = [
    (
        "teeworlds",
        "teeworlds-server",
        r#", "sv_name gop {number}", "sv_port {port.game}", "bindaddr {ip}", "sv_register 0""#,
        "udp",
    ),
    ("bzflag", "bzfs", r#", "-i", "{ip}", "-p", "{port.game}", "-a", "50", "38""#, "both"),
];

/// The endpoints as an agent's TOML has them; games only when they are wanted and there.
pub(super) fn endpoints(programs: &Path, games: bool) -> Result<String, Error> {
    let clock = quoted(&program(programs, "clock", CLOCK)?)?;
    let mut text = format!(
        "\n[endpoints.clock]\ndriver = \"process\"\n\n[endpoints.clock.process]\n\
         command = [{clock}, \"{{number}}\"]\nready = {{ line = '^clock \\d+ runs$' }}\n\
         stop = {{ grace = \"5s\" }}\n"
    );
    for (endpoint, name, args, protocol) in GAMES {
        let Some(path) = installed(name).filter(|_| games) else { continue };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[endpoints.{endpoint}]\ndriver = \"process\"\n\n[endpoints.{endpoint}.process]\n\
             command = [{}{args}]\nports = [{{ name = \"game\", protocol = {protocol:?} }}]\n\
             ready = {{ port = \"game\" }}\n",
            quoted(&path)?
        );
    }
    Ok(text)
}

/// The path of a program of this host.
fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = FOLDERS.iter().map(PathBuf::from).chain(env::split_paths(&path));
    folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).find(|path| {
        let found = fs::metadata(path);
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// Kills what still runs below a folder of agents that is about to be removed: no later agent could
/// find it again.
pub(super) fn end(agents: &Path) {
    let under = |folder: &Path| {
        let found = fs::read_dir(folder).into_iter().flatten().flatten();
        found.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let data = under(agents).into_iter().map(|agent| agent.join("data/run"));
    for run in data.flat_map(|run| under(&run)).flat_map(|endpoint| under(&endpoint)) {
        let ended = match running(&RunDir::new(&run)) {
            Ok(None) => continue,
            Ok(Some(process)) => kill_all(&process, None).map(|()| process.game.pid),
            Err(error) => Err(error),
        };
        match ended {
            Ok(pid) => info!(pid, "killed: its folder is removed"),
            Err(error) => warn!(run = %run.display(), %error, "a process may be left behind"),
        }
    }
}

/// The process of a run folder, once it is no longer starting.
fn running(dir: &RunDir) -> io::Result<Option<Process>> {
    let until = Instant::now() + STARTING;
    loop {
        match dir.look()? {
            Look::Running(process) | Look::Orphaned(process) => return Ok(Some(process)),
            Look::Starting if Instant::now() < until => thread::sleep(LOOK),
            _ => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_always_there_and_games_when_they_are_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let text = endpoints(folder.path(), false).unwrap();
        let read: toml::Table = toml::from_str(&text).unwrap();
        let names: Vec<_> = read["endpoints"].as_table().unwrap().keys().cloned().collect();
        assert_eq!(names, ["clock"]);
        assert!(folder.path().join("clock").exists());

        let text = endpoints(folder.path(), true).unwrap();
        for (endpoint, name, ..) in GAMES {
            let declared = text.contains(&format!("[endpoints.{endpoint}.process]"));
            assert_eq!(declared, installed(name).is_some(), "{endpoint}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert_eq!(installed("no-such-game-server"), None);
        assert!(installed("sh").is_some_and(|sh| sh.is_absolute()));
    }
}
