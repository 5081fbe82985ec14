//! What is refused before anything is started, and how.

use std::{fs, process::Stdio};

use crate::dev::{command, gop, refused, text};

#[test]
fn help_is_on_stdout_and_has_the_exit_codes() {
    let output = gop(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for word in
        ["dev", "manager", "bridge", "agent", "entity", "request", "Exit codes:", "GOP_SERVER"]
    {
        assert!(help.contains(word), "{word}");
    }
    let call = text(&gop(&["call", "--help"]).stdout);
    assert!(call.contains("any:TYPE[/ENDPOINT]"), "{call}");
}

#[test]
fn wrong_usage_is_two() {
    for args in [
        &["nonsense"][..],
        &["agent", "show", "0"],
        &["call", "1/a-b", "echo"],
        &["entity", "create", "sample", "--on", "1", "--port", "game/sctp"],
        &["port", "reserve", "sample", "1"],
        &["agent", "--config", "x.toml", "ls"],
        &["dev", "--agents", "0"],
        &["dev", "--broker", "http://127.0.0.1"],
        &["queue", "ls", "--server", "https://127.0.0.1"],
        &["cache", "flush"],
        &["cache", "set", "--etag", "x"],
        &["entity", "create", "sample", "--on", "1", "--number", "0"],
        &["entity", "create", "sample"],
        &["entity", "create", "sample", "--on", "1", "--choose"],
        &["entity", "create", "sample", "--on", "1", "--dry-run"],
        &["entity", "start"],
        &["entity", "create", "sample", "--on", "1", "--include", "cpu>1"],
        &["entity", "stop", "sample:1", "--grace", "2h"],
        &["endpoint", "choose"],
        &["queue", "ls", "--log-level", "a=b=c"],
        &["request", "run", "echo"],
        &["request", "run", "--on", "all"],
        &["request", "run", "echo", "--on", "sample"],
        &["request", "run", "echo", "--on", "all", "--batch", "101%"],
        &["request", "run", "echo", "--on", "all", "--max-fail", "some"],
        &["request", "run", "echo", "--on", "all", "--canary", "0"],
        &["request", "run", "echo", "--on", "all", "--plan", "--watch"],
        &["request", "run", "echo", "--on", "all", "--detach", "--jsonl"],
        &["request", "watch"],
        &["agent", "upgrade"],
        &["agent", "upgrade", "1", "next.rpm", "--canary", "1"],
        &["agent", "upgrade", "--on", "all", "1", "next.rpm"],
        &["agent", "status"],
        &["request", "ls", "-n", "1001"],
    ] {
        let (code, said) = refused(args);
        assert_eq!(code, 2, "{args:?}: {said}");
        assert!(said.starts_with("error: "), "{said}");
    }
}

#[test]
fn an_address_that_others_reach_is_refused() {
    let (code, said) = refused(&["dev", "--listen", "0.0.0.0:0"]);
    assert_eq!(code, 2);
    assert!(said.starts_with("error: 0.0.0.0:0 is reachable from other hosts"), "{said}");
    assert!(said.contains("--insecure"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.toml");
    let store = folder.path().join("data");
    fs::write(&file, format!("listen = '[::]:0'\ndata_dir = '{}'\n", store.display())).unwrap();
    let (code, said) = refused(&["manager", "--config", file.to_str().unwrap()]);
    assert_eq!((code, said.contains("--insecure")), (2, true), "{said}");
    assert!(!store.exists());
}

#[test]
fn a_bad_configuration_is_one_line_and_two() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let work = folder.path().join("work").display().to_string();
    let agent = |rest: &str| format!("work_dir = '{work}'\n{rest}\n");
    for (role, name, content, place) in [
        ("manager", "m.toml", "\nlease = 'x'".to_owned(), ":2: lease: "),
        ("manager", "n.toml", "nonsense = 1".to_owned(), ":1: nonsense: "),
        ("bridge", "b.toml", "[broker]\nheartbeat = '1h'".to_owned(), ": broker.heartbeat: "),
        ("bridge", "c.toml", "listen = '127.0.0.1:0'".to_owned(), ": missing field `broker`"),
        ("agent", "d.toml", agent("ports_range = ['80-90']"), ":2: ports_range[0]: "),
        ("agent", "e.toml", agent("ports_ranges = ['7000-7010', '7010']"), ":2: ports_ranges[1]: "),
        ("agent", "f.toml", agent(""), ": broker: is missing"),
    ] {
        let file = write(name, &content);
        let (code, said) = refused(&[role, "--config", &file]);
        assert_eq!(code, 2, "{said}");
        assert!(said.starts_with(&format!("error: {file}{place}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let nowhere = folder.path().join("nowhere.toml").display().to_string();
    for role in ["manager", "bridge", "agent"] {
        let (code, said) = refused(&[role, "--config", &nowhere]);
        assert_eq!((code, said.lines().count()), (2, 1), "{said}");
    }
    let file = write("g.toml", "work_dir = 1");
    let (code, said) = refused(&["dev", "--listen", "127.0.0.1:0", "--config", &file]);
    assert_eq!((code, said.lines().count()), (2, 1), "{said}");
}

#[test]
fn a_missing_manager_is_said_with_what_to_do() {
    // Nobody listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (code, said) = refused(&["agent", "ls", "--server", &format!("127.0.0.1:{port}")]);
    assert_eq!(code, 1);
    assert!(said.contains("(UNAVAILABLE)\nhint: `gop dev`"), "{said}");
}

#[test]
fn a_closed_stdout_is_no_failure() {
    let mut child = command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(text(&gop(&["completions", shell]).stdout).contains("gop"), "{shell}");
    }
}
