//! How a `gop` process is started, watched and ended; a shell script stands in for the program.

use std::path::Path;
use std::time::{Duration, Instant};

use goperation_harness::{GopProcess, Result};

const WITHIN: Duration = Duration::from_secs(30);

async fn spawn(script: &str) -> Result<GopProcess> {
    let env = [("GREETING", "hello")];
    GopProcess::try_spawn_program(Path::new("/bin/sh"), ["-c", script], &env).await
}

#[tokio::test]
async fn waits_for_the_ready_line_and_for_an_orderly_end() {
    let script = "trap 'echo bye >&2; exit 7' TERM
        echo before; echo \"$GREETING\" >&2
        printf 'ready at '; printf 'there\\n'
        while :; do sleep 0.01; done";
    let mut gop = spawn(script).await.unwrap();
    assert_eq!(gop.ready_line(), "ready at there");
    assert_eq!(gop.stdout_text(), "before\nready at there\n");
    assert_eq!(gop.stderr_text(), "hello\n");
    gop.term();
    gop.wait_for_log("bye", WITHIN).await;
    assert_eq!(gop.wait(WITHIN).await.code(), Some(7));
}

#[tokio::test]
async fn an_end_before_ready_gives_the_log() {
    let began = Instant::now();
    let gop = spawn("echo 'no such port' >&2; echo ready and gone; exit 2").await;
    // A line beginning with `ready` counts even from a process that has ended since.
    assert_eq!(gop.unwrap().ready_line(), "ready and gone");
    let error = spawn("echo 'no such port' >&2; echo not ready; exit 2").await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("exit status: 2") && text.contains("no such port"), "{text}");
    assert!(began.elapsed() < WITHIN, "noticed at once");
}

#[tokio::test]
async fn is_killed_with_its_group() {
    let mut gop = spawn("sleep 600 & echo ready $!; wait").await.unwrap();
    let child: u32 = gop.ready_line().trim_start_matches("ready ").parse().unwrap();
    gop.kill9();
    assert_eq!(gop.wait(WITHIN).await.code(), None, "ended by a signal");
    goperation_harness::poll_until(WITHIN, "the child is gone", async || {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat"));
        !stat.is_ok_and(|stat| !stat.contains(") Z "))
    })
    .await;
}

#[tokio::test]
#[should_panic(expected = "still runs after 50ms")]
async fn waiting_for_an_end_that_does_not_come_fails() {
    spawn("echo ready; sleep 600").await.unwrap().wait(Duration::from_millis(50)).await;
}
