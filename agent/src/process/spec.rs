//! What the launcher is told to start: the configuration, filled in for one entity.

use std::{collections::BTreeMap, path::Path, time::Duration};

use goperation::{Error, Reason, Result};
use goperation_launcher::{LogSpec, Spec, User};

use super::{About, cgroup};
use crate::{
    config::process::{ProcessConfig, ReadyCheck},
    endpoint::{base_environment, port_variable},
};

/// Variable in which a game finds its run folder: by this it is told from a game of another agent
/// that works in the same folder.
pub(super) const RUN: &str = "GOP_RUN";

/// The start of an entity's process in that run folder. It reads /proc: do not call it on the async
/// runtime.
///
/// # Errors
/// `STATE_REFUSED` when the entity has no port of a name any more; `INTERNAL`.
pub(crate) fn spec(
    config: &ProcessConfig,
    about: &About<'_>,
    run: &Path,
    token: &str,
) -> Result<Spec> {
    let cgroup = match &config.cgroup {
        Some(_) => Some(cgroup::path(about.endpoint, about.number).map_err(|error| {
            Error::new(Reason::Internal, format!("no cgroup for {}: {error}", about.endpoint))
        })?),
        None => None,
    };
    let ready_line = match config.ready.as_ref().map(|ready| &ready.check) {
        Some(ReadyCheck::Line(line)) => Some(line.clone()),
        _ => None,
    };
    let mut env = environment(config, about)?;
    env.insert(RUN.to_owned(), run.to_string_lossy().into_owned());
    Ok(Spec {
        token: token.to_owned(),
        endpoint: about.endpoint.to_owned(),
        entity: about.number,
        program: config.program.clone(),
        args: config.args.iter().map(|arg| about.expand(arg)).collect::<Result<_>>()?,
        env,
        cwd: about.home.to_owned(),
        user: config.user.as_ref().map(|user| User {
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
        }),
        umask: config.umask,
        limits: config.limits.clone(),
        cgroup,
        log: LogSpec {
            max_size: config.log.max_size,
            max_age_secs: seconds(config.log.max_age),
            keep: config.log.keep,
        },
        ready_line,
    })
}

/// The environment of what runs for an entity: nothing of the agent's own but PATH and LANG.
///
/// # Errors
/// `STATE_REFUSED` when the entity has no port of a name any more.
pub(crate) fn environment(
    config: &ProcessConfig,
    about: &About<'_>,
) -> Result<BTreeMap<String, String>> {
    let home = about.home.to_string_lossy().into_owned();
    let mut env: BTreeMap<String, String> = base_environment()
        .map(|(name, value)| (name.to_owned(), value.to_string_lossy().into_owned()))
        .collect();
    // Where a game looks for its own settings: never those of the agent's user.
    env.insert("HOME".to_owned(), home.clone());
    for (name, value) in &config.env {
        env.insert(name.clone(), about.expand(value)?);
    }
    env.insert("GOP_ENDPOINT".to_owned(), about.endpoint.to_owned());
    env.insert("GOP_ENTITY".to_owned(), about.number.to_string());
    env.insert("GOP_HOME".to_owned(), home);
    for (index, port) in about.ports.iter().enumerate() {
        env.insert(port_variable(index, &port.name), port.port.to_string());
    }
    Ok(env)
}

/// At least one: 0 is no age.
fn seconds(age: Duration) -> u64 {
    age.as_secs().max(1)
}

#[cfg(test)]
mod tests {
    use goperation_launcher::{Limit, Resource};

    use super::*;
    use crate::process::testing::{config, reserved};

    #[test]
    fn a_start_is_the_configuration_filled_in() {
        let config = config(
            r#"
            command = ["sh", "-c", "echo {number} $HOME", "sv_port {port.game}", "{{}"]
            ports = [{ name = "game", protocol = "udp" }]
            umask = "027"
            limits = { nofile = 64, core = 0 }
            ready = { line = "^up$" }
            log = { max_size = "1MiB", max_age = "1h", keep = 2 }
            env = { MAP = "dm{number}", LANG = "de" }
            "#,
        );
        let ports = [reserved("game", 7001), reserved("", 7002)];
        let home = Path::new("/w/tee/3");
        let about = About { endpoint: "tee", number: 3, home, ports: &ports, address: "h" };
        let spec = spec(&config, &about, Path::new("/d/run/tee/3"), "t1").unwrap();
        assert!(spec.program.is_absolute() && spec.program.ends_with("sh"), "{:?}", spec.program);
        assert_eq!(spec.args, ["-c", "echo 3 $HOME", "sv_port 7001", "{}"]);
        assert_eq!((spec.token.as_str(), spec.endpoint.as_str(), spec.entity), ("t1", "tee", 3));
        assert_eq!((spec.cwd.as_path(), spec.umask), (home, Some(0o27)));
        assert_eq!((spec.user, spec.cgroup), (None, None));
        let limit = |resource, value| Limit { resource, soft: Some(value), hard: Some(value) };
        assert_eq!(spec.limits, [limit(Resource::Nofile, 64), limit(Resource::Core, 0)]);
        assert_eq!(spec.log, LogSpec { max_size: 1 << 20, max_age_secs: 3600, keep: 2 });
        assert_eq!(spec.ready_line.as_deref(), Some("^up$"));
        let env = |name: &str| spec.env.get(name).map(String::as_str);
        assert_eq!(
            (env("MAP"), env("LANG"), env("HOME")),
            (Some("dm3"), Some("de"), home.to_str())
        );
        assert_eq!((env("GOP_PORT_GAME"), env("GOP_PORT_2")), (Some("7001"), Some("7002")));
        assert_eq!((env("GOP_ENTITY"), env("GOP_TOKEN")), (Some("3"), None));
        assert_eq!((env("GOP_HOME"), env(RUN)), (home.to_str(), Some("/d/run/tee/3")));
    }

    #[test]
    fn a_lost_port_is_named() {
        let config = config("env = { P = \"{port.game}\" }\nports = [{ name = \"game\" }]");
        let home = Path::new("/w/tee/3");
        let about = About { endpoint: "tee", number: 3, home, ports: &[], address: "h" };
        let error = spec(&config, &about, home, "t").unwrap_err();
        assert_eq!((error.reason, error.metadata["port"].as_str()), (Reason::StateRefused, "game"));
    }
}
