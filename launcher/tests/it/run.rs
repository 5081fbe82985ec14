//! What a game gets, and how its end is told.

use std::{fs, os::unix::fs::PermissionsExt as _};

use goperation_launcher::{Limit, Look, Resource, Signal, TOKEN, User, signal};

use crate::case::{Case, until};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_game_runs_to_its_end() {
    let mut case = Case::sh("echo to stdout; echo to stderr >&2; exit 3");
    assert_eq!(case.dir.look().unwrap(), Look::Nothing);
    let exit = case.play();
    assert_eq!((exit.code, exit.signal, &exit.error), (Some(3), None, &None));
    assert_eq!(exit.token, case.spec.token);
    assert!(exit.time > 1_600_000_000_000);
    assert_eq!(case.log(), "to stdout\nto stderr\n");
    assert_eq!(mode(case.dir.path()), 0o700);
    assert_eq!(mode(&case.dir.log("tetris")), 0o640);
    assert_eq!(mode(&case.dir.path().join("spec.json")), 0o600);
}

#[test]
fn a_signal_is_told() {
    let mut case = Case::sh("kill -SEGV $$");
    let exit = case.play();
    assert_eq!((exit.code, exit.signal, exit.error), (None, Some(11), None));
}

#[test]
fn while_it_runs_it_is_named() {
    let mut case =
        Case::sh("read -r _ _ _ _ _ sid _ < /proc/self/stat; echo $sid; touch up; exec sleep 1000");
    let process = case.start_up();
    assert_eq!(process.token, case.spec.token);
    assert!(process.launcher.is_alive() && process.game.is_alive());
    until("it has spoken", || case.log() == format!("{}\n", process.game.pid));
    // Nothing but SIGKILL ends a launcher.
    for sig in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::PIPE, Signal::USR1] {
        assert!(signal(&process.launcher, sig).unwrap());
    }
    assert!(signal(&process.game, Signal::TERM).unwrap());
    let exit = case.ended(&process.launcher);
    assert_eq!((exit.code, exit.signal), (None, Some(15)));
    assert!(!signal(&process.game, Signal::TERM).unwrap());
}

#[test]
fn what_cannot_be_run_is_told() {
    let mut case = Case::sh("");
    case.spec.program = "/no/such/game".into();
    let exit = case.play();
    assert_eq!((exit.code, exit.signal), (None, None));
    assert_eq!(
        exit.error.unwrap(),
        "cannot run /no/such/game: No such file or directory (os error 2)"
    );
    case.spec.token.push('2');
    case.spec.cwd = "/no/such/home".into();
    let error = case.play().error.unwrap();
    assert!(error.starts_with("cannot go to the folder /no/such/home: "), "{error}");
    case.spec.token.push('3');
    case.spec.cwd = "/".into();
    case.spec.cgroup = Some("/no/such/cgroup".into());
    let error = case.play().error.unwrap();
    assert!(error.starts_with("cannot join the cgroup /no/such/cgroup: "), "{error}");
    case.spec.token.push('4');
    case.spec.cgroup = None;
    case.spec.limits = vec![Limit { resource: Resource::Nofile, soft: Some(20), hard: Some(10) }];
    let error = case.play().error.unwrap();
    assert!(error.starts_with("cannot set the limit Nofile: "), "{error}");
    case.spec.token.push('5');
    case.spec.limits.clear();
    case.spec.ready_line = Some("(".to_owned());
    let error = case.play().error.unwrap();
    assert!(error.starts_with("cannot be launched: ready_line: "), "{error}");
}

#[test]
fn the_environment_and_the_arguments_are_exactly_what_was_said() {
    let mut case = Case::sh("");
    case.spec.program = "/bin/sh".into();
    let script = r#"tr '\0' '\n' < /proc/self/environ; echo; for a in "$@"; do echo "<$a>"; done"#;
    case.spec.args =
        ["-c", script, "name", "a b", "", "$HOME", "{x}", "ä'\""].map(str::to_owned).to_vec();
    case.spec.env.insert("HOME".to_owned(), "/a home".to_owned());
    case.play();
    let log = case.log();
    let (environ, args) = log.split_once("\n\n").unwrap();
    let mut environ: Vec<&str> = environ.lines().collect();
    environ.sort_unstable();
    let token = format!("{TOKEN}={}", case.spec.token);
    assert_eq!(environ, [&token, "HOME=/a home", "PATH=/usr/bin:/bin"]);
    assert_eq!(args, "<a b>\n<>\n<$HOME>\n<{x}>\n<ä'\">\n");
}

#[test]
fn no_other_descriptor_gets_to_the_game() {
    // One that whoever started us left open, in the launcher's case this test itself.
    let stray = fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
    let case = Case::sh("ls -l /proc/$$/fd; true");
    case.dir.write_spec(&case.spec).unwrap();
    assert_eq!(case.code(&case.spec.token), 0);
    let log = case.log();
    let lines: Vec<&str> = log.lines().filter_map(|line| line.split(" -> ").nth(1)).collect();
    let lock = case.dir.path().join("lock").to_string_lossy().into_owned();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines.contains(&&*lock) && lines.contains(&"/dev/null"), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("pipe:")).count(), 2, "{lines:?}");
}

#[test]
fn signals_are_as_a_new_program_has_them() {
    let mut case = Case::sh("while read -r line; do echo \"$line\"; done < /proc/self/status");
    case.play();
    let log = case.log();
    for kind in ["SigBlk:", "SigIgn:"] {
        let set = log.lines().find_map(|line| line.strip_prefix(kind)).unwrap().trim();
        // The upper ones are the C library's own.
        assert_eq!(u64::from_str_radix(set, 16).unwrap() & 0x7fff_ffff, 0, "{kind} {set}");
    }
}

#[test]
fn limits_and_umask_are_set() {
    let mut case = Case::sh("ulimit -Sn; ulimit -Hn; ulimit -c; umask; ulimit -v; pwd");
    case.spec.umask = Some(0o027);
    let limit = |resource, soft, hard| Limit { resource, soft, hard };
    case.spec.limits = vec![
        limit(Resource::Nofile, Some(77), Some(99)),
        limit(Resource::Core, Some(0), Some(0)),
        limit(Resource::As, Some(1 << 30), Some(1 << 30)),
    ];
    assert_eq!(case.play().code, Some(0));
    let cwd = case.spec.cwd.display();
    assert_eq!(case.log(), format!("77\n99\n0\n0027\n1048576\n{cwd}\n"));
}

#[test]
fn a_game_gets_its_user_or_does_not_run() {
    let mut case = Case::sh("grep -E '^(Uid|Gid|Groups)' /proc/self/status | tr -d ' '");
    case.spec.cwd = "/".into();
    case.spec.user = Some(User { uid: 65534, gid: 65533, groups: vec![65531, 65532] });
    let exit = case.play();
    if rustix::process::getuid().is_root() {
        let ids = |id: &str| format!("{id}\t{id}\t{id}\t{id}");
        let (uid, gid) = (ids("65534"), ids("65533"));
        assert_eq!(case.log(), format!("Uid:\t{uid}\nGid:\t{gid}\nGroups:\t6553165532\n"));
    } else {
        assert!(exit.error.unwrap().starts_with("cannot become the user 65534: "));
        assert_eq!(case.log(), "");
    }
}
