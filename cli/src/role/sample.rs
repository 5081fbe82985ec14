//! The agents of `gop dev`: one endpoint `sample` whose methods are shell programs of a few
//! lines, so that a newcomer has something to create, to call and to read.
//!
//! Invariant: every agent has folders and ports of its own.

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt as _, path::Path};

use goperation_agent::Config;

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
        r#"lines=$(cat said.log 2>/dev/null | wc -l)
printf '{"lines": %s, "last": "%s"}' "$lines" "$(tail -n 1 said.log 2>/dev/null)"
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
pub(super) fn agent(folder: &Path, number: u16) -> Result<Config, Error> {
    let host = format!("dev{number}");
    let folder = folder.join(&host);
    let programs = folder.join("programs");
    let failed = |e| Error::Failed(format!("{} cannot be written: {e}", programs.display()));
    fs::create_dir_all(&programs).map_err(failed)?;
    let first = FIRST_PORT.saturating_add((number - 1).saturating_mul(PORTS));
    let mut text = format!(
        "host = {host:?}\naddress = \"127.0.0.1\"\nwork_dir = {}\ndata_dir = {}\n\
         ports_ranges = [\"{first}-{}\"]\n\n[endpoints.sample.methods]\n",
        quoted(&folder.join("work"))?,
        quoted(&folder.join("data"))?,
        first.saturating_add(PORTS - 1),
    );
    for (name, marks, program) in METHODS {
        let path = programs.join(name);
        fs::write(&path, format!("#!/bin/sh\nset -e\n{program}")).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = {{ program = [{}]{marks} }}", quoted(&path)?);
    }
    let file = folder.join("agent.toml");
    fs::write(&file, &text).map_err(failed)?;
    Config::from_toml(&file, &text).map_err(|e| Error::Usage(e.to_string()))
}

/// A path as a TOML string.
fn quoted(path: &Path) -> Result<String, Error> {
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
        let agents = [1, 2].map(|number| agent(folder.path(), number).unwrap());
        let ports = agents.each_ref().map(|a| a.ports_ranges.to_strings().join(","));
        assert_eq!(ports, ["20000-20099", "20100-20199"]);
        assert_eq!(agents[1].host.as_str(), "dev2");
        assert_ne!(agents[0].work_dir, agents[1].work_dir);
        for agent in agents {
            let sample = agent.endpoints.values().next().unwrap();
            assert_eq!(sample.methods.len(), METHODS.len());
        }
    }
}
