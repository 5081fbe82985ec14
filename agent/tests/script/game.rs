//! An endpoint whose one method is a program of the test's, and looks at its processes.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use goperation::{Error, JsonObject, MessageId, Reason, Result};
use goperation_agent::{
    Config,
    endpoint::{Endpoints, Invocation},
};
use procfs::process::Process;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than any test may take, so that a program that is waited for is noticed.
pub(crate) const FOREVER: &str = "sleep 1000";

/// An endpoint `game` with one method `run` and, under other names, the programs of the tests.
pub(crate) struct Game {
    pub(crate) dir: TempDir,
    pub(crate) endpoints: Endpoints,
    pub(crate) message_id: MessageId,
    /// By which the agent's programs are known to be its own.
    pub(crate) data_dir: PathBuf,
}

/// `options` go into the method's TOML table.
pub(crate) fn game(script: &str, options: &str) -> Game {
    let dir = TempDir::new().unwrap();
    let program = dir.path().join("run.sh");
    fs::write(&program, script).unwrap();
    let work = dir.path().join("work");
    let text = format!(
        r#"
            work_dir = {work:?}
            host = "h"
            [endpoints.game]
            env = {{ MODE = "fast" }}
            [endpoints.game.methods]
            run = {{ program = ["/bin/sh", {program:?}, "a b", "$HOME"] {options} }}
            create = {{ program = ["/bin/true"] }}
            status = {{ program = ["/bin/true"] }}
        "#
    );
    let config = Config::from_toml(Path::new("agent.toml"), &text).unwrap();
    let endpoints = Endpoints::new(&config);
    Game { dir, endpoints, message_id: MessageId::generate(), data_dir: config.data_dir }
}

impl Game {
    pub(crate) fn invocation(&self, args: Value) -> Invocation {
        Invocation {
            method: "run".to_owned(),
            message_id: self.message_id.clone(),
            subject: None,
            args: args.as_object().unwrap().clone(),
            progress: None,
        }
    }

    pub(crate) async fn run_with(&self, invocation: Invocation) -> Result<JsonObject> {
        self.endpoints.get("game").unwrap().run(invocation).await
    }

    pub(crate) async fn run(&self) -> Result<JsonObject> {
        self.run_with(self.invocation(json!({}))).await
    }

    pub(crate) async fn fails(&self) -> Error {
        let error = self.run().await.unwrap_err();
        assert_eq!(error.reason, Reason::MethodFailed, "{error:?}");
        assert_eq!(error.metadata["message_id"], self.message_id.as_str());
        assert_eq!(
            (error.metadata["endpoint"].as_str(), error.metadata["method"].as_str()),
            ("game", "run")
        );
        assert!(error.encode().len() < 8 * 1024, "it crosses gRPC in a header");
        error
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("work/game").join(name)
    }

    /// The pid that the program wrote into a file of its folder.
    pub(crate) async fn pid(&self, name: &str) -> i32 {
        let path = self.path(name);
        let read = || fs::read_to_string(&path).ok()?.trim().parse().ok();
        let mut pid = None;
        until("a pid is written", || {
            pid = read();
            pid.is_some()
        })
        .await;
        pid.unwrap()
    }
}

pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process is there and not dead.
pub(crate) fn runs(pid: i32) -> bool {
    Process::new(pid)
        .and_then(|process| process.stat())
        .is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// Whether a pid is there at all: a zombie is.
pub(crate) fn exists(pid: i32) -> bool {
    Process::new(pid).and_then(|process| process.stat()).is_ok()
}

pub(crate) fn text(object: &JsonObject, key: &str) -> String {
    object[key].as_str().unwrap().to_owned()
}

/// Ends what a test left running on purpose.
pub(crate) fn end(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
