//! A process is named, and only the one that is named is meant.

use std::process::{Child, Command};

use goperation_launcher::{
    ProcessId, Signal, TOKEN, find_by_token, find_tokens, open_pidfd, reap, signal,
};

use crate::case::until;

/// A child that is dead at the end of the test.
struct Sleep(Child);

impl Sleep {
    fn new(token: &str) -> Self {
        Self(Command::new("sleep").arg("1000").env(TOKEN, token).spawn().unwrap())
    }

    fn id(&self) -> ProcessId {
        ProcessId::of(self.0.id()).unwrap().unwrap()
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_pid_that_was_reused_is_nobody() {
    let sleep = Sleep::new("reused");
    let id = sleep.id();
    assert!(id.is_alive());
    assert!(open_pidfd(&id).unwrap().is_some());
    let former = [
        ProcessId { start_time: id.start_time - 1, ..id.clone() },
        ProcessId { boot_id: "another boot".to_owned(), ..id.clone() },
    ];
    for former in former {
        assert!(!former.is_alive());
        assert!(open_pidfd(&former).unwrap().is_none());
        assert!(!signal(&former, Signal::KILL).unwrap());
    }
    assert!(id.is_alive());
}

#[test]
fn who_has_ended_and_was_not_reaped_is_dead() {
    let mut sleep = Sleep::new("zombie");
    let id = sleep.id();
    assert!(signal(&id, Signal::KILL).unwrap());
    until("it is dead", || !id.is_alive());
    assert!(!signal(&id, Signal::KILL).unwrap());
    assert!(open_pidfd(&id).unwrap().is_none());
    // Its pid is still its own.
    assert_eq!(ProcessId::of(id.pid).unwrap(), Some(id.clone()));
    reap(id.pid);
    assert_eq!(ProcessId::of(id.pid).unwrap().filter(|found| *found == id), None);
    // Reaped here, so not there.
    assert!(sleep.0.wait().is_err());
    reap(id.pid);
    reap(1);
    assert!(ProcessId::of(u32::MAX).unwrap().is_none());
}

#[test]
fn a_token_is_found_whole() {
    let (token, longer) = (format!("t{}", std::process::id()), format!("t{}x", std::process::id()));
    let (one, another) = (Sleep::new(&token), Sleep::new(&longer));
    // The environment is there after the exec.
    until("both are there", || find_by_token(&longer).unwrap() == [another.id()]);
    until("one is found", || find_by_token(&token).unwrap() == [one.id()]);
    let all = find_tokens().unwrap();
    assert!(all.contains(&(token, one.id())) && all.contains(&(longer, another.id())));
}
