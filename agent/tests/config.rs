//! A bad configuration is one error that names file, line and field, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, path::Path, time::Duration};

use goperation::{EndpointName, MethodName};
use goperation_agent::Config;
use tempfile::TempDir;

/// The error of a text in which `{dir}` is a folder of the test's own; the text is put below a
/// line that sets `work_dir`.
fn error(dir: &TempDir, text: &str) -> String {
    let dir = dir.path().display().to_string();
    let text = format!("work_dir = \"{dir}/work\"\n{}", text.replace("{dir}", &dir));
    let error = Config::from_toml(Path::new("agent.toml"), &text).unwrap_err().to_string();
    error.replace(&dir, "{dir}")
}

#[test]
fn the_least_has_good_defaults() {
    let dir = TempDir::new().unwrap();
    let work = dir.path().join("made/for/us");
    let text = format!("work_dir = {work:?}\nhost = \"H1\"\n");
    let config = Config::from_toml(Path::new("agent.toml"), &text).unwrap();
    assert_eq!((config.host.as_str(), config.agent_type.as_str()), ("h1", "application"));
    assert_eq!(config.manager, "http://127.0.0.1:7999");
    assert_eq!(config.address, "127.0.0.1");
    assert_eq!(config.data_dir, work.join(".gop"));
    assert!(config.data_dir.is_dir(), "made");
    assert_eq!(fs::read_dir(&config.data_dir).unwrap().count(), 0, "the probe is removed");
    assert_eq!(config.ports_ranges.count(), 0);
    assert_eq!(config.report_interval, Duration::from_secs(300));
    assert_eq!(config.hold, Duration::from_millis(500));
    assert_eq!(
        (config.max_in_flight, config.max_journal, config.max_entity_locks),
        (256, 10_000, 100)
    );
    assert_eq!(config.package.command, ["rpm", "-Uvh", "{file}"]);
    assert!(config.broker.is_none() && config.endpoints.is_empty());
}

#[test]
fn everything_can_be_set() {
    let dir = TempDir::new().unwrap();
    let text = format!(
        r#"
            work_dir = "{dir}/work"
            data_dir = "{dir}/data"
            host = "h1.example.com"
            type = "scheduler"
            address = "10.0.0.7"
            manager = "http://manager:7999"
            ports_range = ["7000-7999", "9000"]
            durability = "power"
            report_interval = "1m 30s"
            precommit_lapse = "10s"
            hold = "20ms"
            drain = "3s"
            deleted_linger = "5s"
            max_in_flight = 3
            max_journal = 4
            max_entity_locks = 5
            prefetch = 6

            [broker]
            uri = "amqp://u:p@broker:5672/%2f"
            heartbeat = "2s"

            [metadata]
            zone = "a"
            rack = 7
            external_ips = ["1.2.3.4", "5.6.7.8"]

            [package]
            command = ["/bin/sh", "-c", "echo {{file}}"]
            timeout = "600s"

            [endpoints.Game]
            driver = "script"
            max_entities = 9
            env = {{ MODE = "fast" }}

            [endpoints.Game.methods]
            create = {{ program = ["/bin/sh", "create.sh"], timeout = "5s" }}
            status = {{ program = ["true"] }}
            save = {{ program = ["/bin/true"], idempotent = true, max_output = 10 }}
            look = {{ program = ["/bin/true"], read_only = true }}
        "#,
        dir = dir.path().display()
    );
    let file = dir.path().join("agent.toml");
    fs::write(&file, text).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!((config.host.as_str(), config.agent_type.as_str()), ("h1.example.com", "scheduler"));
    assert_eq!(
        (config.address.as_str(), config.manager.as_str()),
        ("10.0.0.7", "http://manager:7999")
    );
    assert_eq!(config.ports_ranges.to_string(), "7000-7999,9000");
    assert_eq!(config.report_interval, Duration::from_secs(90));
    assert_eq!((config.max_in_flight, config.max_journal, config.max_entity_locks), (3, 4, 5));
    assert_eq!((config.prefetch, config.deleted_linger), (6, Duration::from_secs(5)));
    assert_eq!(config.broker.unwrap().heartbeat, Duration::from_secs(2));
    assert_eq!(config.package.command[2], "echo {file}");
    let metadata: Vec<_> = config.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(metadata, [("external_ips", "1.2.3.4,5.6.7.8"), ("rack", "7"), ("zone", "a")]);
    let game = &config.endpoints[&EndpointName::parse("name", "game").unwrap()];
    assert_eq!((game.max_entities, game.env["MODE"].as_str()), (9, "fast"));
    let method = |name| &game.methods[&MethodName::parse("name", name).unwrap()];
    assert_eq!(method("create").program, ["/bin/sh", "create.sh"]);
    assert_eq!(method("create").timeout, Duration::from_secs(5));
    assert_eq!(method("create").max_output, 1 << 20);
    assert!(!method("create").read_only && method("status").read_only && method("look").read_only);
    assert!(method("save").idempotent && !method("look").idempotent);
}

#[test]
fn every_error_names_file_line_and_field() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("plain"), "").unwrap();
    let method = "[endpoints.game.methods]\n";
    let m = |rest: &str| format!("{method}{rest}");
    let cases = [
        (
            "ports_ranges = [\"7000\",\n\"500-600\"]".to_owned(),
            "3: ports_ranges[1]: `500-600` reaches below 1024",
        ),
        ("ports_range = [\"80\"]".to_owned(), "2: ports_range[0]: `80` reaches below 1024"),
        (
            "ports_ranges = [\"7000-7010\", \"7010\"]".to_owned(),
            "2: ports_ranges[1]: `7010` overlaps",
        ),
        ("ports_ranges = [\"a\"]".to_owned(), "2: ports_ranges[0]: `a` is neither"),
        ("ports_ranges = [7000]".to_owned(), "2: ports_ranges[0]: invalid type"),
        ("port_ranges = []".to_owned(), "2: port_ranges: unknown field"),
        ("hold = \"5\"".to_owned(), "2: hold: invalid value: string \"5\", expected a duration"),
        ("\nhold = 5".to_owned(), "3: hold: invalid type: integer `5`, expected a duration"),
        ("drain = \"0s\"".to_owned(), "2: drain: `0s` must be above 0"),
        ("max_in_flight = 0".to_owned(), "2: max_in_flight: invalid value"),
        ("durability = \"none\"".to_owned(), "2: durability: unknown variant"),
        ("host = \"a_b\"".to_owned(), "2: host: must be a host name"),
        ("type = \"4\"".to_owned(), "2: type: must be a letter"),
        ("address = \"a b\"".to_owned(), "2: address: `a b` is neither"),
        ("manager = \"127.0.0.1:7999\"".to_owned(), "2: manager: must be http://host:port"),
        ("manager = \"https://h\"".to_owned(), "2: manager: must be http://host:port"),
        ("[broker]\nuri = \"nonsense\"".to_owned(), "3: broker.uri: must be amqp://"),
        ("[broker]\n\nheartbeat = \"9s\"".to_owned(), "4: broker.heartbeat: must be whole seconds"),
        ("[package]\ncommand = []".to_owned(), "3: package.command: must name a program"),
        (
            "[package]\ncommand = [\"no-such-program\"]".to_owned(),
            "3: package.command[0]: no-such-program is not in PATH",
        ),
        ("[metadata]\n\"a b\" = 1".to_owned(), "3: metadata.a b: a key has 1 to 63"),
        ("[metadata]\nx = {}".to_owned(), "3: metadata.x: must be a text, a number"),
        ("[metadata]\nx = [[1]]".to_owned(), "3: metadata.x: must be a text, a number"),
        ("[metadata]\nx = \"a\\nb\"".to_owned(), "3: metadata.x: "),
        ("[endpoints.manager]".to_owned(), "2: endpoints.manager: must be a letter"),
        ("[endpoints.a-b]".to_owned(), "2: endpoints.a-b: must be a letter"),
        (
            "[endpoints.game]\n[endpoints.Game]".to_owned(),
            "2: endpoints.game: endpoint game stands twice",
        ),
        (
            "[endpoints.game]\ndriver = \"docker\"".to_owned(),
            "3: endpoints.game.driver: unknown variant",
        ),
        (
            "[endpoints.game]\nenv = { GOP_X = \"1\" }".to_owned(),
            "3: endpoints.game.env.GOP_X: variables that begin",
        ),
        (
            m("a-b = { program = [\"/bin/true\"] }"),
            "3: endpoints.game.methods.a-b: must be a letter",
        ),
        (
            m("entity_token = { program = [\"/bin/true\"] }"),
            "3: endpoints.game.methods.entity_token: is the agent's own",
        ),
        (
            m("create_entity = { program = [\"/bin/true\"] }"),
            "3: endpoints.game.methods.create_entity: is the agent's own: name it create",
        ),
        (
            m("create = { program = [\"/bin/true\"], read_only = true }"),
            "3: endpoints.game.methods.create.read_only: create changes things",
        ),
        (
            m("create = { program = [\"/bin/true\"], idempotent = true }"),
            "3: endpoints.game.methods.create.idempotent: an interrupted create is not run again",
        ),
        (m("x = {}"), "3: endpoints.game.methods.x: missing field `program`"),
        (m("x = { program = [] }"), "3: endpoints.game.methods.x.program: must name a program"),
        (
            m("x = { program = [\"/nowhere\"] }"),
            "3: endpoints.game.methods.x.program[0]: /nowhere cannot be run: No such file",
        ),
        (
            m("x = { program = [\"{dir}/plain\"] }"),
            "3: endpoints.game.methods.x.program[0]: {dir}/plain cannot be run: Permission denied",
        ),
        (
            m("x = { program = [\"/tmp\"] }"),
            "3: endpoints.game.methods.x.program[0]: /tmp cannot be run: it is not a file",
        ),
        (
            m("x = { program = [\"bin/x\"] }"),
            "3: endpoints.game.methods.x.program[0]: `bin/x` must be an absolute path",
        ),
        (
            m("x = { program = [\"/bin/true\"], timeout = \"0s\" }"),
            "3: endpoints.game.methods.x.timeout: `0s` must be above 0",
        ),
        (
            m("x = { program = [\"/bin/true\"], out = 1 }"),
            "3: endpoints.game.methods.x.out: unknown field",
        ),
        (
            "data_dir = \"{dir}/plain/x\"".to_owned(),
            "2: data_dir: folder {dir}/plain/x cannot be used: Not a directory",
        ),
        ("hold = ".to_owned(), "2: hold: "),
        ("nonsense".to_owned(), "2: key with no value, expected `=`"),
    ];
    for (text, said) in cases {
        let said = format!("agent.toml:{said}");
        let error = error(&dir, &text);
        assert!(error.starts_with(&said), "{text}\n said {error}\n  not {said}");
    }
}

#[test]
fn folders_are_made_only_when_all_else_is_good() {
    let dir = TempDir::new().unwrap();
    error(&dir, "[endpoints.game.methods]\nx = { program = [\"/nowhere\"] }");
    assert!(!dir.path().join("work").exists());
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let text = "host = \"h\"\n\nwork_dir = \"/proc/gop\"\n";
    let error = Config::from_toml(Path::new("agent.toml"), text).unwrap_err().to_string();
    assert!(
        error.starts_with("agent.toml:3: work_dir: folder /proc/gop cannot be used: "),
        "{error}"
    );
}

#[test]
fn a_missing_file_and_a_missing_field_are_named() {
    let error = Config::load(Path::new("/nowhere/agent.toml")).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/agent.toml: cannot be read: "), "{error}");
    let error = Config::from_toml(Path::new("agent.toml"), "host = \"h\"\n").unwrap_err();
    assert_eq!(error.to_string(), "agent.toml: missing field `work_dir`");
}

#[test]
fn the_password_of_the_broker_is_never_printed() {
    let dir = TempDir::new().unwrap();
    let error = error(&dir, "[broker]\nuri = \"amqps://u:hush@h\"");
    assert!(error.contains("broker.uri") && !error.contains("hush"), "{error}");
}
