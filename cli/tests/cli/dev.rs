//! The real binary, and `gop dev` as a process of its own.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use goperation_launcher::{Look, RunDir, kill_all};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gop"));
    command.args(args).env_remove("GOP_SERVER").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

pub(crate) fn gop(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The code that a command ends with, and what it says on stderr.
pub(crate) fn refused(args: &[&str]) -> (i32, String) {
    let output = gop(args);
    assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
    (output.status.code().unwrap(), text(&output.stderr))
}

/// `gop dev` in a process of its own; killed when a test fails.
pub(crate) struct Dev {
    child: Child,
    pub(crate) server: String,
    pub(crate) data_dir: String,
    rest: mpsc::Receiver<String>,
}

impl Dev {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = command(&["dev", "--listen", "127.0.0.1:0", "--log-level", "warn"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, rest) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut dev = Self { child, server: String::new(), data_dir: String::new(), rest };
        let ready = dev.rest.recv_timeout(PATIENCE).expect("no ready line");
        let words: Vec<_> = ready.split(' ').collect();
        assert_eq!((words.len(), words[0]), (4, "ready"), "{ready}");
        dev.server = words[1].to_owned();
        dev.data_dir = words[2].strip_prefix("data_dir=").unwrap().to_owned();
        assert!(words[3].starts_with("agents="), "{ready}");
        dev
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        command(args).env("GOP_SERVER", &self.server).output().unwrap()
    }

    /// Runs a command that succeeds; gives what it prints.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[&["--json"], args].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// Runs a command that fails; gives what it says.
    pub(crate) fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Asks again until the answer is as it should be.
    pub(crate) fn until(&self, args: &[&str], good: impl Fn(&Value) -> bool) -> Value {
        let late = Instant::now() + PATIENCE;
        loop {
            let value = self.json(args);
            if good(&value) {
                return value;
            }
            assert!(Instant::now() < late, "{args:?}: {value}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Stops it; it has to end with 0 and must have said nothing more on stdout.
    pub(crate) fn stop(mut self, signal: Signal) {
        self.end(signal);
    }

    /// Stops it and leaves its games alone: whoever has the folder ends them.
    pub(crate) fn stop_and_leave(mut self, signal: Signal) {
        self.end(signal);
        self.data_dir.clear();
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        let late = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < late, "it does not end");
            thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(0));
        assert_eq!(self.rest.iter().collect::<Vec<_>>(), Vec::<String>::new());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.data_dir.is_empty() {
            kill_games(Path::new(&self.data_dir));
        }
    }
}

/// Kills the processes that agents below a folder have started: they outlive their agents.
pub(crate) fn kill_games(data_dir: &Path) {
    let under = |folder: &Path| {
        let found = fs::read_dir(folder).into_iter().flatten().flatten();
        found.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let run = under(&data_dir.join("agents")).into_iter().map(|agent| agent.join("data/run"));
    for run in run.flat_map(|run| under(&run)).flat_map(|endpoint| under(&endpoint)) {
        if let Ok(Look::Running(process) | Look::Orphaned(process)) = RunDir::new(run).look() {
            let _ = kill_all(&process, None);
        }
    }
}
