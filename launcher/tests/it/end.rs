//! The end of a game is the end of all that it started.

use goperation_launcher::{Look, Signal, kill_all, signal, tree};

use crate::case::{Case, until};

/// Children of every kind: plain, in a session of their own, forked twice, without the output,
/// deaf to SIGTERM. Each writes its pid to a file.
const FAMILY: &str = r#"
    sh -c 'echo $$ > plain; exec sleep 1000' &
    setsid sh -c 'echo $$ > session; exec sleep 1000' &
    (setsid sh -c 'sh -c "echo \$\$ > twice; exec sleep 1000" & exit' &)
    (setsid sh -c 'exec > /dev/null 2>&1; echo $$ > silent; exec sleep 1000' &)
    (setsid sh -c 'trap "" TERM HUP INT; echo $$ > deaf; while :; do sleep 1000; done' &)
    for name in plain session twice silent deaf; do until [ -s $name ]; do sleep 0.01; done; done
    touch up
"#;
const NAMES: [&str; 5] = ["plain", "session", "twice", "silent", "deaf"];

#[test]
fn all_that_a_game_started_ends_with_it() {
    let mut case = Case::sh(&format!("{FAMILY} exec sleep 1000"));
    let process = case.start_up();
    let family = NAMES.map(|name| case.pid(name));
    let found = tree(&process).unwrap();
    assert!(found.contains(&process.game) && !found.contains(&process.launcher));
    for id in &family {
        assert!(found.contains(id) && id.is_alive());
    }
    assert!(signal(&process.game, Signal::TERM).unwrap());
    let exit = case.ended(&process.launcher);
    assert_eq!(exit.signal, Some(15));
    for id in &family {
        assert!(!id.is_alive());
    }
    assert!(tree(&process).unwrap().is_empty());
}

#[test]
fn the_exit_code_is_the_games_not_its_childrens() {
    let mut case = Case::sh(&format!("{FAMILY} exit 5"));
    let launcher = case.start();
    let exit = case.ended(&launcher);
    assert_eq!((exit.code, exit.signal), (Some(5), None));
    for name in NAMES {
        let pid = std::fs::read_to_string(case.home(name)).unwrap();
        let left = goperation_launcher::find_by_token(&case.spec.token).unwrap();
        assert!(left.iter().all(|id| id.pid.to_string() != pid.trim()), "{name} lives");
    }
}

#[test]
fn all_can_be_killed() {
    let mut case = Case::sh(&format!("trap '' TERM; {FAMILY} while :; do sleep 1000; done"));
    let process = case.start_up();
    let family = NAMES.map(|name| case.pid(name));
    kill_all(&process, None).unwrap();
    let exit = case.ended(&process.launcher);
    assert_eq!((exit.code, exit.signal), (None, Some(9)));
    assert!(family.iter().all(|id| !id.is_alive()));
    // There is nothing to be done the second time.
    kill_all(&process, None).unwrap();
}

#[test]
fn an_orphaned_family_can_be_killed() {
    let mut case = Case::sh(&format!("{FAMILY} exec sleep 1000"));
    let process = case.start_up();
    let family = NAMES.map(|name| case.pid(name));
    assert!(signal(&process.launcher, Signal::KILL).unwrap());
    until("the launcher is gone", || !process.launcher.is_alive());
    let found = tree(&process).unwrap();
    assert!(found.contains(&process.game));
    assert!(family.iter().all(|id| found.contains(id)));
    // Without the game its children still hold the folder.
    assert!(signal(&process.game, Signal::KILL).unwrap());
    until("the game is gone", || !process.game.is_alive());
    assert_eq!(case.dir.look().unwrap(), Look::Orphaned(process.clone()));
    kill_all(&process, None).unwrap();
    assert!(family.iter().all(|id| !id.is_alive()));
    assert_eq!(case.dir.look().unwrap(), Look::Vanished(process));
}

#[test]
fn a_game_without_its_launcher_goes_on_speaking() {
    let mut case = Case::sh(
        "touch up; until [ -e go ]; do sleep 0.01; done; echo one; echo two; touch said; \
         head -c 1000000 /dev/zero | tr '\\0' '\\n'; echo ready; exec sleep 1000",
    );
    case.spec.ready_line = Some("^ready$".to_owned());
    let process = case.start_up();
    assert!(signal(&process.launcher, Signal::KILL).unwrap());
    until("the launcher is gone", || !process.launcher.is_alive());
    std::fs::write(case.home("go"), "").unwrap();
    // Nobody reads it.
    until("it has spoken", || case.home("said").exists());
    assert!(process.game.is_alive());
    // It speaks more than has room, so it goes on only when somebody reads.
    let pump = case.pump();
    until("all was read", || case.dir.is_ready(&case.spec.token));
    let log = case.log();
    assert!(log.starts_with("one\ntwo\n"), "{}", log.len());
    until("all was written", || case.log().len() == 8 + 1_000_000 + 6);
    // One reads, not two.
    let another = case.pump();
    until("the other one ends", || !another.is_alive());
    assert!(pump.is_alive());
    kill_all(&process, None).unwrap();
    until("the reader ends with the game", || !pump.is_alive());
    assert_eq!(case.dir.look().unwrap(), Look::Vanished(process));
    let late = case.pump();
    until("there is nothing to read", || !late.is_alive());
}

#[test]
fn a_game_that_closes_everything_is_still_known() {
    let mut case = Case::sh(
        "for fd in /proc/$$/fd/*; do eval \"exec ${fd##*/}>&-\"; done; : > up; exec sleep 1000",
    );
    let process = case.start_up();
    assert!(signal(&process.launcher, Signal::KILL).unwrap());
    until("the launcher is gone", || !process.launcher.is_alive());
    assert_eq!(case.dir.look().unwrap(), Look::Orphaned(process.clone()));
    kill_all(&process, None).unwrap();
    assert_eq!(case.dir.look().unwrap(), Look::Vanished(process));
}

#[test]
fn orphans_are_reaped_while_the_game_runs() {
    let mut case = Case::sh(
        "for i in 1 2 3 4 5 6 7 8; do (sh -c 'exit 0' &); done; touch up; exec sleep 1000",
    );
    let process = case.start_up();
    let children = format!("/proc/{0}/task/{0}/children", process.launcher.pid);
    until("only the game is left", || {
        std::fs::read_to_string(&children).unwrap().trim() == process.game.pid.to_string()
    });
}
