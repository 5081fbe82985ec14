//! The package command: its words, its log, its limit.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use goperation::{MessageId, Reason};
use goperation_agent::{
    Config,
    package::{Plan, Ran},
};
use tempfile::TempDir;

struct Upgrade {
    dir: TempDir,
    config: Config,
}

fn upgrade(command: &[&str], timeout: &str) -> Upgrade {
    let dir = TempDir::new().unwrap();
    let work = dir.path().join("work");
    let text = format!(
        "work_dir = {work:?}\nhost = \"h\"\n[package]\ncommand = {command:?}\ntimeout = {timeout:?}\n"
    );
    let config = Config::from_toml(Path::new("agent.toml"), &text).unwrap();
    Upgrade { dir, config }
}

/// Plans, starts and waits.
async fn run(config: &Config, file: &str) -> goperation::Result<Ran> {
    Ok(Plan::new(config, file)?.start(&MessageId::generate()).await?.end().await)
}

async fn ran(upgrade: &Upgrade, file: &str) -> Ran {
    run(&upgrade.config, file).await.unwrap()
}

#[tokio::test]
async fn the_file_is_one_argument_whatever_is_in_it() {
    let script = "printf '<%s>' \"$@\"; echo oops >&2";
    let upgrade = upgrade(&["/bin/sh", "-c", script, "sh", "-U", "pkg={file}", "{file}"], "60s");
    let file = "/tmp/a b; touch $HOME '\"*.rpm";
    let ran = ran(&upgrade, file).await;
    assert!(ran.ok, "{ran:?}");
    assert_eq!(ran.exit, "exit code 0");
    assert_eq!(ran.tail, format!("<-U><pkg={file}><{file}>oops\n"));
    assert_eq!(fs::read_to_string(&ran.log).unwrap(), ran.tail);
    assert_eq!(ran.log.parent().unwrap(), upgrade.config.data_dir);
    let name = ran.log.file_name().unwrap().to_str().unwrap();
    let time = name.strip_prefix("upgrade.").and_then(|n| n.strip_suffix(".log")).unwrap();
    assert!(goperation::now_millis() - time.parse::<u64>().unwrap() < 60_000);
}

#[tokio::test]
async fn a_failure_is_told_with_the_end_of_its_output() {
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exit 7";
    let upgrade = upgrade(&["/bin/sh", "-c", script], "60s");
    let ran = ran(&upgrade, "").await;
    assert!(!ran.ok);
    assert_eq!(ran.exit, "exit code 7");
    assert!(ran.tail.ends_with("line 1999\n") && ran.tail.len() <= 4096);
    assert!(fs::read_to_string(&ran.log).unwrap().starts_with("line 0\n"), "the log has all");
}

#[tokio::test]
async fn a_signal_is_told() {
    let upgrade = upgrade(&["/bin/sh", "-c", "kill -9 $$"], "60s");
    let ran = ran(&upgrade, "").await;
    assert_eq!((ran.ok, ran.exit.as_str()), (false, "signal 9"));
}

#[tokio::test]
async fn the_limit_kills_the_whole_group() {
    let script = "trap '' TERM; sleep 1000 & echo $! >{file}; wait";
    let upgrade = upgrade(&["/bin/sh", "-c", script], "3s");
    let pids = upgrade.dir.path().join("pid");
    let began = Instant::now();
    let ran = ran(&upgrade, pids.to_str().unwrap()).await;
    assert_eq!((ran.ok, ran.exit.as_str()), (false, "timed out after 3s and was killed"));
    assert!(began.elapsed() < Duration::from_secs(30));
    let pid: i32 = fs::read_to_string(pids).unwrap().trim().parse().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while runs(pid) {
        assert!(Instant::now() < until, "the child lives");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn runs(pid: i32) -> bool {
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat());
    stat.is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

#[tokio::test]
async fn a_file_that_does_not_fit_is_refused() {
    let with = upgrade(&["/bin/true", "{file}"], "60s");
    let without = upgrade(&["/bin/true"], "60s");
    for (upgrade, file) in [(&with, ""), (&with, "--root=/"), (&with, "a\0b"), (&without, "a.rpm")]
    {
        let error = run(&upgrade.config, file).await.unwrap_err();
        assert_eq!(error.reason, Reason::InvalidArgument, "{file:?}");
        assert_eq!(error.violations[0].field, "args.file");
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_an_error() {
    let mut upgrade = upgrade(&["/bin/true"], "60s");
    upgrade.config.package.command = vec!["/nowhere/rpm".to_owned()];
    let error = run(&upgrade.config, "").await.unwrap_err();
    assert_eq!(error.reason, Reason::MethodFailed);
    assert!(error.message.contains("/nowhere/rpm could not be started"), "{error}");
}

#[tokio::test]
async fn old_logs_go() {
    let upgrade = upgrade(&["/bin/true"], "60s");
    let logs = || {
        let names = fs::read_dir(&upgrade.config.data_dir).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for time in 100..120 {
        fs::write(upgrade.config.data_dir.join(format!("upgrade.{time}.log")), "").unwrap();
    }
    fs::write(upgrade.config.data_dir.join("upgrade.txt"), "not ours").unwrap();
    let ran = ran(&upgrade, "").await;
    let logs = logs();
    assert_eq!(logs.len(), 11, "{logs:?}");
    assert_eq!(logs[0], "upgrade.111.log");
    assert!(ran.log.exists());
}
