//! The agents of `gop dev`: an endpoint `sample` whose methods are shell programs of a few lines,
//! so that a newcomer has something to create, to call and to read, and those of [`games`].
//!
//! Invariant: every agent has folders and ports of its own.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use goperation_agent::Config;

use super::games;
use crate::error::Error;

/// First port of the first agent; each has this many.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 100;

/// Method, its marks, and its program. A program gets one line of JSON and answers with JSON.
const METHODS: [(&str, &str, &str); 7] = [
    ("create", "", "cat > created.json\nprintf '{\"created\": true}'\n"),
    ("delete", "", "printf '{\"deleted\": true}'\n"),
    ("status", "", "printf '{\"alive\": true, \"pid\": %s}' \"$$\"\n"),
    // Answers with all that a program is given.
    ("echo", ", read_only = true", "cat\n"),
    (
        "say",
        "",
        r#"text=$(sed -n 's/.*"text":"\([^"]*\)".*/\1/p')
printf '%s\n' "${text:-hello}" >> said.log
printf '{"lines": %s}' "$(wc -l < said.log)"
"#,
    ),
    (
        "said",
        ", read_only = true",
        // Read once: it may be written meanwhile.
        r#"log=$(cat said.log 2>/dev/null || true)
if [ -n "$log" ]; then lines=$(printf '%s\n' "$log" | wc -l); else lines=0; fi
printf '{"lines": %s, "last": "%s"}' "$lines" "$(printf '%s' "$log" | tail -n 1)"
"#,
    ),
    (
        "sleep",
        ", timeout = \"1h\"",
        r#"seconds=$(sed -n 's/.*"seconds":\([0-9.]*\).*/\1/p')
sleep "${seconds:-1}"
printf '{"slept": %s}' "${seconds:-1}"
"#,
    ),
];

/// Agent number `number`, with its programs and folders below `folder`.
pub(super) fn agent(folder: &Path, number: u16, games: bool) -> Result<Config, Error> {
    let host = format!("dev{number}");
    let folder = folder.join(&host);
    let programs = folder.join("programs");
    fs::create_dir_all(&programs).map_err(|e| unwritable(&programs, &e))?;
    let first = FIRST_PORT.saturating_add((number - 1).saturating_mul(PORTS));
    let mut text = format!(
        "host = {host:?}\naddress = \"127.0.0.1\"\nwork_dir = {}\ndata_dir = {}\n\
         ports_ranges = [\"{first}-{}\"]\n\n[endpoints.sample.methods]\n",
        quoted(&folder.join("work"))?,
        quoted(&folder.join("data"))?,
        first.saturating_add(PORTS - 1),
    );
    for (name, marks, program) in METHODS {
        let path = self::program(&programs, name, &format!("set -e\n{program}"))?;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = {{ program = [{}]{marks} }}", quoted(&path)?);
    }
    text += &games::endpoints(&programs, games)?;
    let package =
        program(&programs, "package", "echo \"a real package command would install $1\"\n")?;
    let _ = writeln!(text, "\n[package]\ncommand = [{}, \"{{file}}\"]", quoted(&package)?);
    let file = folder.join("agent.toml");
    fs::write(&file, &text).map_err(|e| unwritable(&file, &e))?;
    Config::from_toml(&file, &text).map_err(|e| Error::Usage(e.to_string()))
}

/// Writes a program of the shell, and gives its path.
pub(super) fn program(folder: &Path, name: &str, text: &str) -> Result<PathBuf, Error> {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}")).map_err(|e| unwritable(&path, &e))?;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&path, executable).map_err(|e| unwritable(&path, &e))?;
    Ok(path)
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::Failed(format!("{} cannot be written: {error}", path.display()))
}

/// A path as a TOML string.
pub(super) fn quoted(path: &Path) -> Result<String, Error> {
    let text = path
        .to_str()
        .ok_or_else(|| Error::Usage(format!("--data-dir: `{}` is not UTF-8", path.display())))?;
    Ok(toml::Value::String(text.to_owned()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_has_its_own_ports_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let agents = [1, 2].map(|number| agent(folder.path(), number, true).unwrap());
        let ports = agents.each_ref().map(|a| a.ports_ranges.to_strings().join(","));
        assert_eq!(ports, ["20000-20099", "20100-20199"]);
        assert_eq!(agents[1].host.as_str(), "dev2");
        assert_ne!(agents[0].work_dir, agents[1].work_dir);
        for agent in agents {
            let mut methods = agent.endpoints.values().map(|endpoint| endpoint.methods.len());
            assert!(methods.any(|methods| methods == METHODS.len()));
        }
    }
}
