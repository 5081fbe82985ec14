//! A fleet with agents whose endpoint `game` has processes, and the ways to them.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use goperation::{Error, JsonObject, v1};
use goperation_harness::{free_ports, guard::Swept, poll_until};
use serde_json::{Value, json};

use crate::fleet::{Fleet, On, SOON, TestAgent, script};

/// Longer than any step of a test may take on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A game that lives until it is told to end, and says its pid.
pub(crate) const LIVES: &str = "echo up; exec sleep 1000";

/// A manager and its agents; nothing that they start outlives it.
pub(crate) struct Stage {
    /// First, so that what runs is killed before its folders go.
    swept: Swept,
    pub(crate) fleet: Fleet,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        let fleet = Fleet::start(On::Embedded).await;
        Self { swept: Swept::folder(fleet.path()), fleet }
    }

    /// Writes a game as a shell script, for a `command`.
    pub(crate) fn game(&self, body: &str) -> PathBuf {
        script(self.fleet.path(), "game", body)
    }

    /// An ACTIVE agent.
    pub(crate) async fn agent(&self, toml: &str) -> TestAgent {
        let agent = self.fleet.agent("h1", toml).await;
        self.fleet.activate(&agent).await;
        agent
    }

    /// An ACTIVE agent whose entities run that script, and one entity on it.
    pub(crate) async fn with(&self, body: &str, process: &str) -> (TestAgent, i32) {
        let agent = self.agent(&toml(&self.game(body), process)).await;
        let number = self.create(&agent).await;
        (agent, number)
    }

    /// An entity of the endpoint `game`; its number.
    pub(crate) async fn create(&self, agent: &TestAgent) -> i32 {
        let request = v1::CreateEntityRequest {
            endpoint: "game".to_owned(),
            agent_id: agent.wire_id(),
            ..v1::CreateEntityRequest::default()
        };
        let answer = self.fleet.entities().create_entity(request).await.unwrap().into_inner();
        answer.entity.unwrap().number
    }

    /// CALLs a method of the endpoint about an entity.
    pub(crate) async fn call(
        &self,
        agent: &TestAgent,
        method: &str,
        number: i32,
    ) -> Result<JsonObject, Error> {
        self.call_with(agent, method, json!({"entity": number})).await
    }

    pub(crate) async fn call_with(
        &self,
        agent: &TestAgent,
        method: &str,
        args: Value,
    ) -> Result<JsonObject, Error> {
        self.fleet.call(agent.target("game"), method, args, LONG).await
    }

    /// As [`Self::call`]: the process of the answer.
    pub(crate) async fn does(&self, agent: &TestAgent, method: &str, number: i32) -> Value {
        match self.call(agent, method, number).await {
            Ok(mut answer) => answer.remove("process").expect("a process"),
            Err(error) => panic!("{method}: {error:?}"),
        }
    }

    /// What its process does now.
    pub(crate) async fn status(&self, agent: &TestAgent, number: i32) -> Value {
        self.does(agent, "status_entity", number).await
    }

    /// Waits until its process does that.
    pub(crate) async fn until(
        &self,
        agent: &TestAgent,
        number: i32,
        what: &str,
        is: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut seen = Value::Null;
        poll_until(LONG, what, async || {
            seen = self.status(agent, number).await;
            is(&seen)
        })
        .await;
        seen
    }

    /// Waits until the agent has noted that state: a CALL could not get through to it.
    pub(crate) async fn until_row(&self, agent: &TestAgent, number: i32, state: &str) {
        // `status_entity` reads, and so waits for no other method but has a place of its own.
        self.until(agent, number, state, |seen| seen["state"] == state).await;
    }

    /// The first port that the record says the entity has.
    pub(crate) async fn port(&self, _agent: &TestAgent, number: i32) -> u16 {
        let request = v1::ShowEntityRequest { endpoint: "game".to_owned(), number };
        let answer = self.fleet.entities().show_entity(request).await.unwrap().into_inner();
        answer.entity.unwrap().ports[0].port.try_into().unwrap()
    }

    /// Processes of this test that run a script of that name with that word in its arguments.
    pub(crate) fn games(&self) -> Vec<i32> {
        let is_game = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&words).contains("GOP_TOKEN=")
        };
        self.swept.processes().into_iter().filter(is_game).collect()
    }

    /// The launcher of a process.
    pub(crate) fn launcher(&self, agent: &TestAgent, number: i32) -> i32 {
        let path = self.run(agent, number).join("process.json");
        let process: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        process["launcher"]["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// The run folder of an entity.
    pub(crate) fn run(&self, agent: &TestAgent, number: i32) -> PathBuf {
        agent.work_dir.join(format!(".gop/run/game/{number}"))
    }

    /// What it wrote.
    pub(crate) fn log(&self, agent: &TestAgent, number: i32) -> String {
        fs::read_to_string(self.run(agent, number).join("log/game.log")).unwrap_or_default()
    }
}

/// An endpoint `game` with that program; `process` goes into its table.
pub(crate) fn toml(program: &Path, process: &str) -> String {
    format!(
        "[endpoints.game]\ndriver = \"process\"\n[endpoints.game.process]\ncommand = [{program:?}]\n{process}\n"
    )
}

/// A game that binds `udp:PORT` and `tcp:PORT` on the loopback, as its arguments say.
pub(crate) fn server(stage: &Stage) -> PathBuf {
    let path = stage.fleet.path().join("server.pl");
    let body = r#"#!/usr/bin/perl
use strict;
use IO::Socket::INET;
my @sockets;
for (@ARGV) {
    my ($protocol, $port) = split /:/;
    my @listen = $protocol eq 'tcp' ? (Listen => 5, ReuseAddr => 1) : ();
    push @sockets, IO::Socket::INET->new(
        Proto => $protocol, LocalAddr => '127.0.0.1', LocalPort => $port, @listen,
    ) || die "bind $_: $!";
}
sleep while 1;
"#;
    fs::write(&path, body).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Some ports for entities.
pub(crate) fn ranges(count: u16) -> String {
    let row = free_ports(count);
    format!("ports_ranges = [\"{}-{}\"]\n", row[0], row[row.len() - 1])
}

pub(crate) fn pid(process: &Value) -> i32 {
    process["pid"].as_i64().expect("a pid").try_into().unwrap()
}

/// Whether a process is there and not dead.
pub(crate) fn runs(pid: i32) -> bool {
    procfs::process::Process::new(pid)
        .and_then(|process| process.stat())
        .is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    poll_until(SOON, what, async || done()).await;
}

/// The store of an agent that is down, as it was.
pub(crate) struct Backup {
    store: PathBuf,
    copy: PathBuf,
}

impl Backup {
    pub(crate) fn of(work_dir: &Path) -> Self {
        let (store, copy) = (work_dir.join(".gop/store"), work_dir.join(".gop/backup"));
        let copied = Command::new("cp").arg("-a").arg(&store).arg(&copy).status().unwrap();
        assert!(copied.success());
        Self { store, copy }
    }

    pub(crate) fn restore(self) {
        fs::remove_dir_all(&self.store).unwrap();
        fs::rename(&self.copy, &self.store).unwrap();
    }
}

/// Kills one process.
pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
