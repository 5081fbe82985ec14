//! What a dead agent left running is killed by what names it, and by nothing less.

use std::{fs, os::unix::process::CommandExt as _};

use goperation::MessageId;
use goperation_agent::endpoint::{RunRecord, group_alive, kill_orphan, kill_orphans_of};
use procfs::process::Process;
use serde_json::json;

use crate::game::{FOREVER, Game, end, game, runs, until};

/// Starts a program as the game's agent does, which then dies without killing it, and gives its
/// record.
async fn orphan(game: &Game, script: &str) -> (RunRecord, i32) {
    let mut child = std::process::Command::new("/bin/sh");
    child.args(["-c", script]).current_dir(game.dir.path()).process_group(0);
    child.env("GOP_AGENT", &game.data_dir).env("GOP_MESSAGE_ID", game.message_id.as_str());
    let child = child.spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let start_time = Process::new(pid).unwrap().stat().unwrap().starttime;
    let record = RunRecord { pid: child.id(), start_time, boot_id: boot_id.trim().to_owned() };
    // Reaped by init in life, by this thread here.
    std::thread::spawn(move || {
        let mut child = child;
        child.wait()
    });
    let path = game.dir.path().join("child");
    until("the orphan runs", || fs::read_to_string(&path).is_ok_and(|pid| pid.ends_with('\n')))
        .await;
    let inner = fs::read_to_string(path).unwrap().trim().parse().unwrap();
    (record, inner)
}

#[tokio::test]
async fn the_record_of_a_run_is_that_of_its_process() {
    let game = game(&format!("echo $$ >own; {FOREVER}"), "");
    let endpoint = game.endpoints.get("game").unwrap();
    let running = endpoint.start(game.invocation(json!({}))).await.unwrap();
    let record = running.record().unwrap();
    assert_eq!(i32::try_from(record.pid).unwrap(), game.pid("own").await);
    assert!(group_alive(&record));
    let stored: RunRecord = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(stored, record);
    assert!(kill_orphan(&record).await);
    let error = running.wait().await.unwrap_err();
    assert_eq!(error.metadata["signal"], "9");
    assert!(!group_alive(&record));
    assert!(!kill_orphan(&record).await);
}

#[tokio::test]
async fn an_orphan_is_killed_only_by_its_own_record() {
    let game = game("", "");
    let (record, child) =
        orphan(&game, &format!("trap '' TERM; {FOREVER} & echo $! >child; wait")).await;
    let pid = i32::try_from(record.pid).unwrap();
    for other in [
        RunRecord { start_time: record.start_time + 1, ..record.clone() },
        RunRecord { boot_id: "another boot".to_owned(), ..record.clone() },
    ] {
        assert!(!kill_orphan(&other).await);
    }
    // The child is not the leader of a group: a record never names it.
    let inner = Process::new(child).unwrap().stat().unwrap().starttime;
    let inner =
        RunRecord { pid: u32::try_from(child).unwrap(), start_time: inner, ..record.clone() };
    assert!(!kill_orphan(&inner).await);
    assert!(runs(pid) && runs(child), "a pid alone kills nobody");
    assert!(kill_orphan(&record).await);
    assert!(!runs(pid) && !runs(child), "they are gone when it returns");
}

#[tokio::test]
async fn orphans_without_a_record_are_found_by_their_message() {
    let game = game("", "");
    // The leader has ended, its child goes on.
    let (record, child) = orphan(&game, &format!("{FOREVER} & echo $! >child")).await;
    until("the leader has ended", || !group_alive(&record)).await;
    assert!(!kill_orphan(&record).await);
    assert_eq!(kill_orphans_of(&game.data_dir, &[]).await, 0);
    assert_eq!(kill_orphans_of(&game.data_dir, &[MessageId::generate()]).await, 0);
    assert!(runs(child));
    let ids = [MessageId::generate(), game.message_id.clone()];
    assert_eq!(kill_orphans_of(&game.data_dir, &ids).await, 1);
    assert!(!runs(child));
}

#[tokio::test]
async fn what_another_agent_started_for_the_same_message_goes_on() {
    let one = game("", "");
    let other = Game { message_id: one.message_id.clone(), ..game("", "") };
    let script = format!("{FOREVER} & echo $! >child; wait");
    let (record, own) = orphan(&one, &script).await;
    let (other_record, others) = orphan(&other, &script).await;
    assert_eq!(kill_orphans_of(&one.data_dir, std::slice::from_ref(&one.message_id)).await, 1);
    assert!(!runs(i32::try_from(record.pid).unwrap()) && !runs(own));
    assert!(runs(i32::try_from(other_record.pid).unwrap()) && runs(others));
    assert!(kill_orphan(&other_record).await);
}

#[tokio::test]
async fn what_made_a_session_of_its_own_is_no_orphan() {
    let game = game("", "");
    let script = format!("setsid sh -c 'echo $$ >child; exec {FOREVER}' >/dev/null 2>&1 <&- &");
    let (record, child) = orphan(&game, &script).await;
    until("the leader has ended", || !group_alive(&record)).await;
    let id = std::slice::from_ref(&game.message_id);
    assert_eq!(kill_orphans_of(&game.data_dir, id).await, 0);
    assert!(runs(child));
    end(child);
}
