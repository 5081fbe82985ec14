//! The tables of the driver `process`: defaults, every key, and errors that name line and field.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, path::Path, time::Duration};

use goperation::EndpointName;
use goperation_agent::{
    Config,
    config::{
        Strays,
        process::{Log, ReadyCheck, Restart, RestartPolicy, Stop},
    },
    ports::Protocol,
};
use rustix::process::Signal;
use tempfile::TempDir;

/// The error of a text in which `{dir}` is a folder of the test's own; the text is put below a
/// line that sets `work_dir`.
fn error(dir: &TempDir, text: &str) -> String {
    let dir = dir.path().display().to_string();
    let text = format!("work_dir = \"{dir}/work\"\n{}", text.replace("{dir}", &dir));
    let error = Config::from_toml(Path::new("agent.toml"), &text).unwrap_err().to_string();
    error.replace(&dir, "{dir}")
}

/// A process endpoint with these lines in `[endpoints.tee.process]`, which begins at line 5.
fn process(lines: &str) -> String {
    let command = if lines.contains("command =") { "" } else { "command = [\"/bin/true\"]\n" };
    format!(
        "ports_ranges = [\"7000-7009\"]\n[endpoints.tee]\ndriver = \"process\"\n\
         [endpoints.tee.process]\n{command}{lines}"
    )
}

fn load(dir: &TempDir, text: &str) -> Config {
    let text = format!("work_dir = \"{}/work\"\n{text}", dir.path().display());
    Config::from_toml(Path::new("agent.toml"), &text).unwrap()
}

#[test]
fn the_least_process_has_good_defaults() {
    let dir = TempDir::new().unwrap();
    let config = load(&dir, &process(""));
    assert_eq!(config.strays, Strays::Report);
    let endpoint = &config.endpoints[&EndpointName::parse("name", "tee").unwrap()];
    assert_eq!(endpoint.driver.as_str(), "process");
    let process = endpoint.process.as_ref().unwrap();
    assert_eq!(process.program, Path::new("/bin/true"));
    assert!(process.args.is_empty() && process.env.is_empty() && process.ports.is_empty());
    assert!(process.user.is_none() && process.umask.is_none() && process.limits.is_empty());
    assert!(process.cgroup.is_none() && process.files.is_empty() && process.ready.is_none());
    assert_eq!(process.stop, Stop { signal: Signal::TERM, grace: Duration::from_secs(10) },);
    let minute = Duration::from_secs(60);
    assert_eq!(
        process.restart,
        Restart {
            policy: RestartPolicy::OnFailure,
            delay: Duration::from_secs(1),
            max_delay: minute,
            max: 5,
            within: 10 * minute,
        }
    );
    let week = Duration::from_secs(7 * 24 * 3600);
    assert_eq!(process.log, Log { max_size: 10 << 20, max_age: week, keep: 5 });
    assert!(!process.repick);
}

#[test]
fn everything_of_a_process_can_be_set() {
    let dir = TempDir::new().unwrap();
    let from = dir.path().join("from");
    fs::write(&from, "{home}").unwrap();
    let text = format!(
        r#"
            strays = "kill"
            ports_ranges = ["7000-7009"]
            [endpoints.tee]
            driver = "process"
            env = {{ A = "{{number}}", B = "b" }}
            [endpoints.tee.methods]
            save = {{ program = ["true"] }}
            status = {{ program = ["true"] }}
            [endpoints.tee.process]
            command = ["sh", "sv_port {{port.game}}"]
            ports = [{{ name = "game", protocol = "udp" }}, {{ name = "rcon" }}]
            umask = "027"
            limits = {{ nofile = 64, core = 0, fsize = "1GiB", cpu = 60 }}
            files = [
                {{ path = "a/b", template = "{{number}}" }},
                {{ path = "c", from = {from:?}, mode = "600" }},
            ]
            ready = {{ script = ["sh", "{{home}}"], interval = "1s", timeout = "2s" }}
            stop = {{ signal = "SIGINT", grace = "1s" }}
            restart = {{ policy = "always", delay = "2m" }}
            log = {{ max_size = "1MiB", max_age = "365d", keep = 0 }}
            repick = true
            [endpoints.tee.process.env]
            B = "{{port.rcon}}"
        "#
    );
    let config = load(&dir, &text);
    assert_eq!(config.strays, Strays::Kill);
    let endpoint = &config.endpoints[&EndpointName::parse("name", "tee").unwrap()];
    assert_eq!(endpoint.methods.len(), 2);
    let process = endpoint.process.as_ref().unwrap();
    assert!(process.program.is_absolute() && process.program.ends_with("sh"));
    assert_eq!(process.args[0].to_string(), "sv_port {port.game}");
    let env = |name: &str| process.env[name].to_string();
    assert_eq!((env("A"), env("B")), ("{{number}".to_owned(), "{port.rcon}".to_owned()));
    let ports: Vec<_> = process.ports.iter().map(|p| (p.name.as_str(), p.protocol)).collect();
    assert_eq!(ports, [("game", Protocol::Udp), ("rcon", Protocol::Both)]);
    assert_eq!((process.umask, process.limits.len(), process.repick), (Some(0o27), 4, true));
    let files: Vec<_> =
        process.files.iter().map(|f| (f.path.as_str(), f.template.to_string(), f.mode)).collect();
    let expected = [("a/b", "{number}".to_owned(), 0o640), ("c", "{home}".to_owned(), 0o600)];
    assert_eq!(files, expected);
    let ready = process.ready.as_ref().unwrap();
    assert_eq!(ready.timeout, Duration::from_secs(2));
    assert!(matches!(&ready.check, ReadyCheck::Script { args, interval, .. }
        if args.len() == 1 && *interval == Duration::from_secs(1)));
    assert_eq!((process.stop.signal, process.log.keep), (Signal::INT, 0));
    let restart = &process.restart;
    assert_eq!(restart.max_delay, restart.delay, "the default does not go below");
}

#[test]
fn every_error_of_a_process_names_line_and_field() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("bad"), "{x}").unwrap();
    let tee = "endpoints.tee.process";
    let ports = "ports = [{ name = \"game\" }]\n";
    let cases = [
        ("x = 1", "7: {}.x: unknown field"),
        ("command = []", "6: {}.command: must name a program"),
        ("command = [\"/nowhere\"]", "6: {}.command[0]: /nowhere cannot be run"),
        ("command = [\"no-such-program\"]", "6: {}.command[0]: no-such-program is not in PATH"),
        ("command = [\"true\"]\nenv = { PATH = \"/nowhere\" }", "6: {}.command[0]: true is not in"),
        ("command = [\"/bin/true\", \"a\", \"{x}\"]", "6: {}.command[2]: `{x}` is no placeholder"),
        ("command = [\"/bin/true\", \"{\"]", "6: {}.command[1]: a placeholder is not closed"),
        (
            "command = [\"/bin/true\", \"{port.game}\"]",
            "6: {}.command[1]: no port `game` is declared in ports; there are: none",
        ),
        ("env = { GOP_X = \"1\" }", "7: {}.env.GOP_X: variables that begin with GOP_"),
        ("env = { X = \"{port.x}\" }", "7: {}.env.X: no port `x` is declared"),
        ("ports = [{ name = \"a b\" }]", "7: {}.ports[0].name: must be 1 to 64 letters"),
        ("ports = [{ name = \"\" }]", "7: {}.ports[0].name: must be 1 to 64 letters"),
        (
            "ports = [{ name = \"a\" }, { name = \"a\" }]",
            "7: {}.ports[1].name: port a stands twice",
        ),
        (
            "ports = [{ name = \"a\", protocol = \"x\" }]",
            "7: {}.ports[0].protocol: unknown variant",
        ),
        ("ports = [{ name = \"a\", port = 1 }]", "7: {}.ports[0].port: unknown field"),
        ("user = \"no-such-user\"", "7: {}.user: this host has no user `no-such-user`"),
        ("user = \"root:no-such\"", "7: {}.user: this host has no group `no-such`"),
        ("umask = 27", "7: {}.umask: invalid type: integer `27`, expected an octal number"),
        ("umask = \"089\"", "7: {}.umask: invalid value: string \"089\", expected an octal number"),
        ("umask = \"1000\"", "7: {}.umask: invalid value"),
        ("umask = \"+77\"", "7: {}.umask: invalid value"),
        ("limits = { files = 1 }", "7: {}.limits.files: unknown field"),
        ("limits = { nofile = -1 }", "7: {}.limits.nofile: invalid value"),
        ("limits = { as = \"lots\" }", "7: {}.limits.as: invalid value: string \"lots\", expected"),
        ("limits = { nofile = \"unlimited\" }", "7: {}.limits.nofile: is at most "),
        ("cgroup = { memory = 1 }", "7: {}.cgroup.memory: unknown field"),
        ("cgroup = { cpu_max = \"1.5\" }", "7: {}.cgroup.cpu_max: invalid value"),
        ("cgroup = { cpu_max = \"0%\" }", "7: {}.cgroup.cpu_max: invalid value"),
        ("cgroup = { pids_max = 0 }", "7: {}.cgroup.pids_max: invalid value"),
        ("files = [{ path = \"a\" }]", "7: {}.files[0]: needs one of template and from"),
        (
            "files = [{ path = \"a\", template = \"\", from = \"/x\" }]",
            "7: {}.files[0]: needs one of template and from",
        ),
        (
            "files = [{ path = \"/a\", template = \"\" }]",
            "7: {}.files[0].path: must be a path below",
        ),
        ("files = [{ path = \"a/../b\", template = \"\" }]", "7: {}.files[0].path: must be a path"),
        ("files = [{ path = \"\", template = \"\" }]", "7: {}.files[0].path: must be a path"),
        (
            "files = [{ path = \"a\", template = \"\" },\n{ path = \"a/b\", template = \"\" }]",
            "8: {}.files[1].path: stands in the way of a",
        ),
        ("files = [{ path = \"a\", template = \"{y}\" }]", "7: {}.files[0].template: `{y}` is no"),
        (
            "files = [{ path = \"a\", from = \"/nowhere\" }]",
            "7: {}.files[0].from: /nowhere: cannot be read: No such file",
        ),
        ("files = [{ path = \"a\", from = \"x\" }]", "7: {}.files[0].from: x: must be an absolute"),
        (
            "files = [{ path = \"a\", from = \"/dev/zero\" }]",
            "7: {}.files[0].from: /dev/zero: must be",
        ),
        (
            "files = [{ path = \"a\", from = \"{dir}/bad\" }]",
            "7: {}.files[0].from: {dir}/bad: `{x}` is no placeholder",
        ),
        (
            "files = [{ path = \"a\", template = \"\", mode = \"999\" }]",
            "7: {}.files[0].mode: invalid value",
        ),
        ("ready = {}", "7: {}.ready: needs one of port, line and script"),
        ("ready = { line = \"a\", port = \"b\" }", "7: {}.ready: needs one of port"),
        ("ready = { port = \"game\" }", "7: {}.ready.port: no port `game` is declared"),
        ("ready = { line = \"(\" }", "7: {}.ready.line: is no regular expression: unclosed group"),
        ("ready = { script = [\"/nowhere\"] }", "7: {}.ready.script[0]: /nowhere cannot be run"),
        (
            "ready = { line = \"a\", interval = \"1s\" }",
            "7: {}.ready.interval: is the time between two runs",
        ),
        ("ready = { line = \"a\", timeout = \"0s\" }", "7: {}.ready.timeout: `0s` must be above 0"),
        ("stop = { signal = \"SIGNONE\" }", "7: {}.stop.signal: invalid value: string \"SIGNONE\""),
        ("stop = { grace = \"0s\" }", "7: {}.stop.grace: `0s` must be above 0"),
        ("restart = { policy = \"often\" }", "7: {}.restart.policy: unknown variant"),
        ("restart = { max = 0 }", "7: {}.restart.max: must be 1 at least"),
        (
            "restart = { delay = \"5s\", max_delay = \"1s\" }",
            "7: {}.restart.max_delay: must not be below delay",
        ),
        ("log = { max_size = \"1kB\" }", "7: {}.log.max_size: must be 4096 bytes at least"),
        ("log = { max_size = 0 }", "7: {}.log.max_size: invalid value"),
        ("log = { max_age = \"0s\" }", "7: {}.log.max_age: invalid value"),
        ("log = { keep = 5000 }", "7: {}.log.keep: must be 1000 at most"),
        ("repick = \"yes\"", "7: {}.repick: invalid type"),
    ];
    for (lines, said) in cases {
        let said = format!("agent.toml:{}", said.replace("{}", tee));
        let error = error(&dir, &process(lines));
        assert!(error.starts_with(&said), "{lines}\n said {error}\n  not {said}");
    }
    let whole = [
        ("[endpoints.tee]\ndriver = \"process\"".to_owned(), "3: endpoints.tee.driver: needs the"),
        (
            "[endpoints.tee.process]\ncommand = [\"/bin/true\"]".to_owned(),
            "2: endpoints.tee.process: is for driver = \"process\"",
        ),
        (
            process(ports).replace("ports_ranges = [\"7000-7009\"]", ""),
            "7: endpoints.tee.process.ports: no port can be had for it: set ports_ranges",
        ),
        (
            process("[endpoints.tee.methods]\nstop = { program = [\"/bin/true\"] }"),
            "8: endpoints.tee.methods.stop: is the work of the driver process",
        ),
        (
            "[endpoints.game.methods]\nstop_entity = { program = [\"/bin/true\"] }".to_owned(),
            "3: endpoints.game.methods.stop_entity: is the agent's own: name it stop",
        ),
        ("strays = \"x\"".to_owned(), "2: strays: unknown variant"),
    ];
    for (text, said) in whole {
        let said = format!("agent.toml:{said}");
        let error = error(&dir, &text);
        assert!(error.starts_with(&said), "{text}\n said {error}\n  not {said}");
    }
}

/// Whether limits can be had depends on the host; either way it is said when the file is read.
#[test]
fn limits_of_a_cgroup_are_taken_or_refused_at_once() {
    let dir = TempDir::new().unwrap();
    let text = process("cgroup = { memory_max = \"2GiB\", cpu_max = \"150%\", pids_max = 512 }");
    let text = format!("work_dir = \"{}/work\"\n{text}", dir.path().display());
    match Config::from_toml(Path::new("agent.toml"), &text) {
        Ok(config) => {
            let tee = &config.endpoints[&EndpointName::parse("name", "tee").unwrap()];
            let limits = tee.process.as_ref().unwrap().cgroup.as_ref().unwrap();
            let said = (limits.memory_max, limits.cpu_max, limits.pids_max);
            assert_eq!(said, (Some(2 << 30), Some(1500), Some(512)));
        }
        Err(error) => {
            let error = error.to_string();
            let place = "agent.toml:7: endpoints.tee.process.cgroup: ";
            assert!(error.starts_with(place) && error[place.len()..].contains("cgroup"), "{error}");
        }
    }
}
