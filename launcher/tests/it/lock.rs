//! A run folder has one game, and a token runs once.

use std::{
    fs, io,
    process::Child,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use goperation_launcher::{BUSY, Look, REFUSED, Signal, find_by_token, kill_all, reap, signal};

use crate::case::{Case, until};

/// Says in a file that it ran.
const COUNT: &str = "echo run >> runs; touch up; exec sleep 1000";

fn runs(case: &Case) -> usize {
    fs::read_to_string(case.home("runs")).map_or(0, |runs| runs.lines().count())
}

#[test]
fn another_token_is_refused() {
    let case = Case::sh(COUNT);
    assert_eq!(case.code("early"), i32::from(REFUSED));
    case.dir.write_spec(&case.spec).unwrap();
    assert_eq!(case.code("another"), i32::from(REFUSED));
    assert_eq!(case.dir.look().unwrap(), Look::Nothing);
    assert_eq!(runs(&case), 0);
}

#[test]
fn a_token_is_used_once() {
    let mut case = Case::sh("echo run >> runs");
    case.play();
    assert_eq!(case.code(&case.spec.token), i32::from(REFUSED));
    assert_eq!(runs(&case), 1);
    case.spec.token.push('2');
    case.play();
    assert_eq!(runs(&case), 2);
}

#[test]
fn a_launcher_that_comes_late_is_refused() {
    let case = Case::sh(COUNT);
    case.dir.write_spec(&case.spec).unwrap();
    case.dir.revoke().unwrap();
    assert_eq!(case.code(&case.spec.token), i32::from(REFUSED));
    case.dir.write_spec(&case.spec).unwrap();
    case.dir.remove().unwrap();
    assert_eq!(case.code(&case.spec.token), i32::from(REFUSED));
    case.dir.remove().unwrap();
    case.dir.revoke().unwrap();
    assert_eq!(case.dir.look().unwrap(), Look::Nothing);
    assert_eq!(runs(&case), 0);
}

#[test]
fn of_twenty_at_once_one_runs() {
    let mut case = Case::sh(COUNT);
    case.dir.write_spec(&case.spec).unwrap();
    let launcher = case.spawn();
    let mut others: Vec<Child> = (0..20).map(|_| case.child(&case.spec.token)).collect();
    until("one runs", || runs(&case) > 0);
    let process = case.running();
    let winner = others.iter().position(|child| child.id() == process.launcher.pid);
    let winner = winner.map(|index| others.remove(index));
    for mut other in others {
        assert_eq!(other.wait().unwrap().code(), Some(i32::from(BUSY)));
    }
    until("the one of ours ends, or it runs", || winner.is_none() || !launcher.is_alive());
    assert!(process.game.is_alive());
    kill_all(&process, None).unwrap();
    until("it ends", || !process.launcher.is_alive());
    if let Some(mut winner) = winner {
        winner.wait().unwrap();
    }
    assert_eq!(runs(&case), 1);
}

/// Tells others to stop, also when a test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn who_looks_is_in_nobodys_way() {
    let case = Case::sh("true");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    case.dir.look().unwrap();
                }
            });
        }
        let mut spec = case.spec.clone();
        for run in 0..20 {
            spec.token = format!("{}-{run}", case.spec.token);
            case.dir.write_spec(&spec).unwrap();
            assert_eq!(case.code(&spec.token), 0);
        }
    });
}

#[test]
fn what_runs_is_left_alone() {
    let mut case = Case::sh(COUNT);
    let process = case.start_up();
    let busy = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    };
    busy(case.dir.write_spec(&case.spec));
    busy(case.dir.revoke());
    busy(case.dir.remove());
    assert_eq!(case.code(&case.spec.token), i32::from(BUSY));
    assert_eq!(case.dir.look().unwrap(), Look::Running(process.clone()));
    // Also when its launcher is lost.
    assert!(signal(&process.launcher, Signal::KILL).unwrap());
    until("the launcher is gone", || !process.launcher.is_alive());
    busy(case.dir.write_spec(&case.spec));
    busy(case.dir.revoke());
    busy(case.dir.remove());
    assert_eq!(case.code(&case.spec.token), i32::from(BUSY));
    assert_eq!(case.dir.look().unwrap(), Look::Orphaned(process.clone()));
    assert!(process.game.is_alive());
    kill_all(&process, None).unwrap();
    assert_eq!(case.dir.look().unwrap(), Look::Vanished(process.clone()));
    assert_eq!(case.code(&case.spec.token), i32::from(REFUSED));
    assert_eq!(runs(&case), 1);
    case.dir.write_spec(&case.spec).unwrap();
    assert_eq!(case.dir.look().unwrap(), Look::Nothing);
}

/// A pipe in the place of a file holds the launcher there: it waits for a reader.
fn hold(case: &Case, name: &str) {
    let path = case.dir.path().join(name);
    let status = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_launcher_that_dies_before_the_gate_opens_has_run_nothing() {
    let mut case = Case::sh(COUNT);
    case.dir.write_spec(&case.spec).unwrap();
    hold(&case, "process.new");
    let launcher = case.spawn();
    until("stage two waits at its gate", || find_by_token(&case.spec.token).unwrap().len() == 1);
    assert_eq!(case.dir.look().unwrap(), Look::Starting);
    assert!(signal(&launcher, Signal::KILL).unwrap());
    until("stage two ends", || case.dir.look().unwrap() == Look::Nothing);
    assert_eq!(find_by_token(&case.spec.token).unwrap(), []);
    assert_eq!(runs(&case), 0);
    // The token was not used.
    case.dir.write_spec(&case.spec).unwrap();
    case.start_up();
    assert_eq!(runs(&case), 1);
}

#[test]
fn a_launcher_killed_at_any_moment_leaves_one_game_or_none() {
    let mut case = Case::sh(COUNT);
    let token = case.spec.token.clone();
    for run in 0..60_u64 {
        let _ = fs::remove_file(case.home("runs"));
        case.spec.token = format!("{token}-{run}");
        let launcher = case.start();
        // Each run a little later in its life.
        thread::sleep(Duration::from_micros(run * 150));
        signal(&launcher, Signal::KILL).unwrap();
        until("the launcher is gone", || !launcher.is_alive());
        reap(launcher.pid);
        until("it is known", || case.dir.look().unwrap() != Look::Starting);
        match case.dir.look().unwrap() {
            Look::Nothing => {
                assert_eq!(runs(&case), 0);
                case.dir.revoke().unwrap();
            }
            // Stage two may be seen before it finds its gate closed.
            Look::Vanished(process) | Look::Orphaned(process) => {
                kill_all(&process, None).unwrap();
                assert!(runs(&case) <= 1);
                assert_eq!(case.dir.look().unwrap(), Look::Vanished(process));
            }
            look => panic!("{look:?}"),
        }
        assert_eq!(find_by_token(&case.spec.token).unwrap(), []);
        assert_eq!(case.code(&case.spec.token), i32::from(REFUSED));
    }
}
