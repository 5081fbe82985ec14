//! The log and the ready line of a game.

use std::fs;

use goperation_launcher::{Look, kill_all};

use crate::case::{Case, until};

#[test]
fn a_flood_is_bounded_and_goes_through() {
    let mut case = Case::sh("head -c 100000000 /dev/zero | tr '\\0' '\\n'; echo the end");
    let exit = case.play();
    assert_eq!(exit.code, Some(0));
    let log = case.dir.log("tetris");
    let files: Vec<fs::DirEntry> =
        fs::read_dir(log.parent().unwrap()).unwrap().map(Result::unwrap).collect();
    assert_eq!(files.len(), 3);
    for file in files {
        assert!(file.metadata().unwrap().len() <= 1 << 20);
    }
    assert!(case.log().ends_with("\nthe end\n"));
}

#[test]
fn the_next_run_goes_on_with_the_log() {
    let mut case = Case::sh("echo run");
    case.play();
    case.spec.token.push('2');
    case.play();
    assert_eq!(case.log(), "run\nrun\n");
}

#[test]
fn a_game_that_cannot_be_logged_runs() {
    let mut case = Case::sh("head -c 10000000 /dev/zero; exit 4");
    case.dir.write_spec(&case.spec).unwrap();
    let log = case.dir.log("tetris");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", log).unwrap();
    let launcher = case.spawn();
    assert_eq!(case.ended(&launcher).code, Some(4));
}

#[test]
fn the_ready_line_is_found_in_pieces() {
    let mut case = Case::sh(
        "printf 'loading\\nserver re'; touch up; until [ -e go ]; do sleep 0.01; done; \
         printf 'ady\\r\\n'; exec sleep 1000",
    );
    case.spec.ready_line = Some("^server ready$".to_owned());
    let process = case.start_up();
    assert!(!case.dir.is_ready(&case.spec.token));
    fs::write(case.home("go"), "").unwrap();
    until("it is ready", || case.dir.is_ready(&case.spec.token));
    assert!(!case.dir.is_ready("another"));
    kill_all(&process, None).unwrap();
    case.ended(&process.launcher);
    // The next run is not ready because the former was.
    case.spec.token.push('2');
    case.dir.write_spec(&case.spec).unwrap();
    assert!(!case.dir.is_ready(&case.spec.token));
}

#[test]
fn a_game_may_close_its_output() {
    let mut case =
        Case::sh("echo bye; exec > /dev/null 2>&1; touch up; until [ -e go ]; do sleep 0.01; done");
    let process = case.start_up();
    until("it has spoken", || case.log() == "bye\n");
    assert!(matches!(case.dir.look().unwrap(), Look::Running(_)));
    fs::write(case.home("go"), "").unwrap();
    assert_eq!(case.ended(&process.launcher).code, Some(0));
}
