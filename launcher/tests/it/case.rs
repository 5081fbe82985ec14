//! One run folder and all that runs in it, until the end of the test.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use goperation_launcher::{
    Exit, LogSpec, Look, Process, ProcessId, RunDir, Signal, Spec, find_by_token, reap, signal,
    spawn, spawn_pump,
};
use tempfile::TempDir;

/// No wait takes this long, on any machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A run folder whose processes are dead when it is dropped.
pub(crate) struct Case {
    _folder: TempDir,
    pub(crate) dir: RunDir,
    pub(crate) spec: Spec,
    launchers: Vec<ProcessId>,
}

impl Case {
    /// A game that is a shell script. It runs in `home`.
    pub(crate) fn sh(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        fs::create_dir(&home).unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy().into_owned();
        let spec = Spec {
            token: format!("token-{}-{name}", std::process::id()),
            endpoint: "tetris".to_owned(),
            entity: 7,
            program: "/bin/sh".into(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            cwd: home,
            user: None,
            umask: None,
            limits: Vec::new(),
            cgroup: None,
            log: LogSpec { max_size: 1 << 20, max_age_secs: 0, keep: 2 },
            ready_line: None,
        };
        let dir = RunDir::new(folder.path().join("run/tetris/7"));
        Self { _folder: folder, dir, spec, launchers: Vec::new() }
    }

    /// The launcher of this package, as a command.
    pub(crate) fn launcher() -> Vec<OsString> {
        vec![env!("CARGO_BIN_EXE_launcher-test-launcher").into()]
    }

    /// Writes the spec and starts a launcher.
    pub(crate) fn start(&mut self) -> ProcessId {
        self.dir.write_spec(&self.spec).unwrap();
        self.spawn()
    }

    /// Starts a launcher.
    pub(crate) fn spawn(&mut self) -> ProcessId {
        let id = spawn(&Self::launcher(), &self.dir, &self.spec.token).unwrap();
        self.launchers.push(id.clone());
        id
    }

    /// Starts a reader for a game whose launcher was lost.
    pub(crate) fn pump(&mut self) -> ProcessId {
        let id = spawn_pump(&Self::launcher(), &self.dir).unwrap();
        self.launchers.push(id.clone());
        id
    }

    /// Starts a launcher as a child, for its exit code.
    pub(crate) fn child(&self, token: &str) -> Child {
        Command::new(env!("CARGO_BIN_EXE_launcher-test-launcher"))
            .arg(self.dir.path())
            .arg(token)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Runs a launcher to its end, for its exit code.
    pub(crate) fn code(&self, token: &str) -> i32 {
        self.child(token).wait().unwrap().code().unwrap()
    }

    /// Starts it and waits until its script has made the file `up`.
    pub(crate) fn start_up(&mut self) -> Process {
        self.start();
        until("the game is up", || self.home("up").exists());
        self.running()
    }

    /// The process of a game that runs.
    pub(crate) fn running(&self) -> Process {
        match self.dir.look().unwrap() {
            Look::Running(process) => process,
            look => panic!("{look:?}"),
        }
    }

    /// Runs it to its end, and until the launcher has ended.
    pub(crate) fn play(&mut self) -> Exit {
        let launcher = self.start();
        self.ended(&launcher)
    }

    /// Waits for the end of a launcher.
    pub(crate) fn ended(&self, launcher: &ProcessId) -> Exit {
        until("the launcher ends", || !launcher.is_alive());
        reap(launcher.pid);
        match self.dir.look().unwrap() {
            Look::Ended(exit) => exit,
            look => panic!("{look:?}"),
        }
    }

    /// A path in the game's home.
    pub(crate) fn home(&self, name: &str) -> PathBuf {
        self.spec.cwd.join(name)
    }

    /// A number that the game has written to a file in its home.
    pub(crate) fn pid(&self, name: &str) -> ProcessId {
        let read = || fs::read_to_string(self.home(name)).ok()?.strip_suffix('\n')?.parse().ok();
        until(name, || read().is_some());
        ProcessId::of(read().unwrap()).unwrap().unwrap()
    }

    /// What the game has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.log("tetris")).unwrap()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        for launcher in &self.launchers {
            let _ = signal(launcher, Signal::KILL);
        }
        let deadline = Instant::now() + DEADLINE;
        while let Ok(left) = find_by_token(&self.spec.token)
            && !left.is_empty()
            && Instant::now() < deadline
        {
            for id in left {
                let _ = signal(&id, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(5));
        }
        for launcher in &self.launchers {
            reap(launcher.pid);
        }
    }
}

/// Waits for something that must come to be.
#[track_caller]
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
