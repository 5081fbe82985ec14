//! The small helpers of the harness.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use goperation_harness::guard::{Guarded, Swept};
use goperation_harness::{Ledger, free_port, free_ports, poll_until};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn ports_are_given_once() {
    let mut seen: HashSet<u16> = (0..50).map(|_| free_port()).collect();
    assert_eq!(seen.len(), 50);
    let row = free_ports(20);
    assert!(row.windows(2).all(|pair| pair[1] == pair[0] + 1), "{row:?}");
    assert!(row.iter().all(|port| seen.insert(*port)), "{row:?}");
}

#[tokio::test]
async fn a_ledger_holds_the_complete_lines() {
    let ledger = Ledger::create();
    assert!(ledger.lines().is_empty());
    ledger.append("one");
    let script = r#"echo two >> "$1"; echo two >> "$1"; printf half >> "$1""#;
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(ledger.path()).status();
    assert!(status.unwrap().success());
    let lines = ledger.wait_for(3, SOON).await;
    assert_eq!(lines, ["one", "two", "two"]);
    assert_eq!(ledger.counts()["two"], 2);
}

#[tokio::test]
#[should_panic(expected = "not within 50ms: the moon (asked at tests/harness/tests/helpers.rs")]
async fn polling_ends_with_what_was_waited_for() {
    poll_until(Duration::from_millis(50), "the moon", async || false).await;
}

#[tokio::test]
#[should_panic(expected = "not within 50ms")]
async fn polling_ends_even_if_one_check_does_not() {
    poll_until(Duration::from_millis(50), "an answer", async || std::future::pending().await).await;
}

#[tokio::test]
async fn a_guarded_process_is_killed_with_its_children() {
    let ledger = Ledger::create();
    let script = r#"sleep 600 & echo $! >> "$1"; wait"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(ledger.path());
    let parent = Guarded::spawn(&mut command).unwrap();
    let child = ledger.wait_for(1, SOON).await.remove(0);
    let lives = async || {
        // An orphan whose new parent does not wait for it stays as a zombie: that is dead too.
        std::fs::read_to_string(format!("/proc/{child}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    assert!(lives().await);
    drop(parent);
    poll_until(SOON, "the child is gone", async || !lives().await).await;
}

/// Three processes that name a folder, each in a session of its own.
fn name(folder: &Path) {
    // By argument, by environment, by place.
    let script = r#"
        setsid tail -qf /dev/null "$1/x" 2>/dev/null &
        GOP_X="$1/x" setsid sleep 600 &
        cd "$1"; setsid sleep 600 &"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(folder);
    assert!(command.status().is_ok_and(|status| status.success()));
}

#[tokio::test]
async fn what_names_a_swept_folder_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let swept = Swept::folder(folder.path());
    assert!(swept.processes().is_empty());
    name(folder.path());
    poll_until(SOON, "three that name it", async || swept.processes().len() == 3).await;
    swept.kill();
    assert!(swept.processes().is_empty());
}

#[tokio::test]
async fn what_names_a_swept_folder_ends_with_a_killed_process() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::create();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hold-game"));
    command.arg("--swept").arg(folder.path()).arg("--ledger").arg(ledger.path());
    let mut holder = Guarded::spawn(&mut command).unwrap();
    ledger.wait_for(2, SOON).await;
    name(folder.path());
    let watching = Swept::folder(folder.path());
    poll_until(SOON, "three and the holder", async || watching.processes().len() == 4).await;
    holder.kill();
    poll_until(SOON, "none that names it", async || watching.processes().is_empty()).await;
}
