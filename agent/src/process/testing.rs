//! What the tests of this folder share.

use std::path::Path;

use goperation::EndpointName;

use crate::{
    Config, EntityKey,
    config::ProcessConfig,
    ports::{Protocol, Reserved},
};

/// A configuration with these lines beside the command.
pub(super) fn config(lines: &str) -> ProcessConfig {
    try_config(lines).unwrap()
}

pub(super) fn try_config(lines: &str) -> Result<ProcessConfig, String> {
    let dir = tempfile::tempdir().unwrap();
    let command = if lines.contains("command =") { "" } else { "command = [\"/bin/true\"]" };
    let text = format!(
        "work_dir = {:?}\nports_ranges = [\"7000\"]\n[endpoints.tee]\ndriver = \"process\"\n\
         [endpoints.tee.process]\n{command}\n{lines}\n",
        dir.path()
    );
    let config = Config::from_toml(Path::new("a.toml"), &text).map_err(|e| e.to_string())?;
    Ok(config.endpoints.into_values().next().unwrap().process.unwrap())
}

/// A port of the entity tee 3.
pub(super) fn reserved(name: &str, port: u16) -> Reserved {
    let endpoint = EndpointName::parse("endpoint", "tee").unwrap();
    Reserved {
        port,
        protocol: Protocol::Udp,
        entity: EntityKey { endpoint, number: 3 },
        name: name.to_owned(),
        since: 1,
    }
}
