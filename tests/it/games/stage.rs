//! A manager and its agents, and the ways to their games.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use goperation::{Error, v1};
use goperation_harness::{
    Ledger, free_ports, guard::Swept, is_alive, poll_until, profile_folder, with_arguments,
};
use tonic::Request;

use crate::{
    fleet::SOON,
    procs::{AgentProcess, Site},
};

/// The longest that a call may take on a machine that is busy with other things.
pub(crate) const LONG: Duration = Duration::from_secs(90);

/// A site on which nothing outlives the test.
pub(crate) struct Stage {
    /// First, so that what runs is killed before its folders go.
    swept: Swept,
    pub(crate) site: Site,
    /// Where each `hold-game` writes down its starts.
    pub(crate) ledger: Ledger,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        let site = Site::start_waiting(LONG).await;
        let swept = Swept::folder(site.path());
        fs::create_dir(site.path().join("locks")).unwrap();
        let ledger = Ledger::at(site.path().join("ledger"));
        Self { swept, site, ledger }
    }

    /// An ACTIVE agent with so many ports.
    pub(crate) async fn agent(&self, host: &str, ports: u16, toml: &str) -> AgentProcess {
        let row = free_ports(ports);
        let range = format!("ports_ranges = [\"{}-{}\"]\n", row[0], row[row.len() - 1]);
        self.site.active_agent(host, &format!("{range}{toml}")).await
    }

    /// Processes of this test whose arguments name the home of that entity.
    pub(crate) fn named(&self, agent: &AgentProcess, endpoint: &str, number: i32) -> Vec<u32> {
        let [home, run] = self.folders(agent, endpoint, number);
        let names = |pid: &i32| {
            let arguments = goperation_harness::arguments(pid.cast_unsigned());
            let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
            arguments.iter().any(|word| [&home, &run].contains(&&PathBuf::from(word)))
                || cwd.is_ok_and(|cwd| cwd.starts_with(&home))
        };
        self.swept.processes().into_iter().filter(names).map(i32::cast_unsigned).collect()
    }

    /// Home and run folder of an entity.
    pub(crate) fn folders(
        &self,
        agent: &AgentProcess,
        endpoint: &str,
        number: i32,
    ) -> [PathBuf; 2] {
        let work = self.site.path().join(&agent.host);
        let place = format!("{endpoint}/{number}");
        [work.join(&place), work.join(".gop/run").join(&place)]
    }

    /// The log of an entity's game, without what was rotated away.
    pub(crate) fn log(&self, agent: &AgentProcess, endpoint: &str, number: i32) -> PathBuf {
        let [_, run] = self.folders(agent, endpoint, number);
        run.join("log").join(format!("{endpoint}.log"))
    }

    /// Lives that the entity's `hold-game` began, as pids in their order.
    pub(crate) fn starts(&self, number: i32) -> Vec<u32> {
        self.told("start", number)
    }

    /// Pids of the lines `what NAME PID`.
    pub(crate) fn told(&self, what: &str, number: i32) -> Vec<u32> {
        let wanted = format!("{what} hold-{number} ");
        let lines = self.ledger.lines();
        lines.iter().filter_map(|l| l.strip_prefix(&wanted)?.parse().ok()).collect()
    }

    /// The `hold-game` of an entity that lives, by the kernel; its children do not count.
    pub(crate) fn games(&self, number: i32) -> BTreeSet<u32> {
        let name = format!("hold-{number}");
        let ledger = self.ledger.path().to_str().unwrap();
        with_arguments(&["--ledger", ledger, "--name", &name])
    }

    /// Waits until nothing of the entity's game runs, not even its launcher.
    pub(crate) async fn ended(&self, agent: &AgentProcess, number: i32) {
        poll_until(SOON, &format!("game {number} has ended"), async || {
            self.games(number).is_empty() && self.named(agent, "hold", number).is_empty()
        })
        .await;
    }

    /// No game ever ran beside another of its entity.
    pub(crate) fn assert_no_violation(&self) {
        let lines = self.ledger.lines();
        let bad: Vec<_> = lines.iter().filter(|line| line.starts_with("VIOLATION")).collect();
        assert!(bad.is_empty(), "{bad:?} in {lines:#?}");
    }

    pub(crate) async fn create(&self, endpoint: &str, agent: i32) -> Result<v1::Entity, Error> {
        let request = v1::CreateEntityRequest {
            endpoint: endpoint.to_owned(),
            agent_id: agent,
            ..v1::CreateEntityRequest::default()
        };
        let answer = self.site.entities().create_entity(within(request)).await;
        Ok(typed(answer)?.entity.unwrap())
    }

    pub(crate) async fn start_entity(&self, e: &v1::Entity) -> Result<v1::EntityProcess, Error> {
        let request = v1::StartEntityRequest {
            endpoint: e.endpoint.clone(),
            number: e.number,
            finish_time: None,
        };
        let answer = self.site.entities().start_entity(within(request)).await;
        Ok(typed(answer)?.process.unwrap())
    }

    pub(crate) async fn stop_entity(&self, e: &v1::Entity) -> Result<v1::EntityProcess, Error> {
        let request = v1::StopEntityRequest {
            endpoint: e.endpoint.clone(),
            number: e.number,
            ..v1::StopEntityRequest::default()
        };
        let answer = self.site.entities().stop_entity(within(request)).await;
        Ok(typed(answer)?.process.unwrap())
    }

    pub(crate) async fn restart_entity(&self, e: &v1::Entity) -> Result<v1::EntityProcess, Error> {
        let request = v1::RestartEntityRequest {
            endpoint: e.endpoint.clone(),
            number: e.number,
            ..v1::RestartEntityRequest::default()
        };
        let answer = self.site.entities().restart_entity(within(request)).await;
        Ok(typed(answer)?.process.unwrap())
    }

    pub(crate) async fn kill_entity(&self, e: &v1::Entity) -> Result<v1::EntityProcess, Error> {
        let request = v1::KillEntityRequest { endpoint: e.endpoint.clone(), number: e.number };
        let answer = self.site.entities().kill_entity(within(request)).await;
        Ok(typed(answer)?.process.unwrap())
    }

    pub(crate) async fn status(&self, e: &v1::Entity) -> Result<v1::EntityProcess, Error> {
        let request = v1::StatusEntityRequest { endpoint: e.endpoint.clone(), number: e.number };
        let answer = self.site.entities().status_entity(within(request)).await;
        Ok(typed(answer)?.process.unwrap())
    }

    pub(crate) async fn delete_entity(&self, e: &v1::Entity) -> Result<(), Error> {
        let request = v1::DeleteEntityRequest {
            endpoint: e.endpoint.clone(),
            number: e.number,
            ..v1::DeleteEntityRequest::default()
        };
        typed(self.site.entities().delete_entity(within(request)).await).map(drop)
    }

    /// What the manager has on record of the ports of an agent.
    pub(crate) async fn ports(&self, agent: &AgentProcess) -> Vec<v1::Port> {
        let request = v1::IndexPortsRequest {
            agent_id: agent.id,
            page_size: 1000,
            ..v1::IndexPortsRequest::default()
        };
        typed(self.site.ports().index_ports(within(request)).await).unwrap().ports
    }

    /// Waits until the record says so of the entity's process.
    pub(crate) async fn recorded(
        &self,
        e: &v1::Entity,
        what: &str,
        mut holds: impl FnMut(&v1::EntityProcess) -> bool,
    ) {
        let what = format!("{} {} on record: {what}", e.endpoint, e.number);
        poll_until(SOON, &what, async || {
            let record = self.site.entity(&e.endpoint, e.number).await;
            record.ok().and_then(|entity| entity.process).is_some_and(|process| holds(&process))
        })
        .await;
    }
}

fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LONG);
    request
}

fn typed<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, Error> {
    answer.map(tonic::Response::into_inner).map_err(|status| Error::from_status(&status))
}

/// Number, protocol and name of each port. Its time is the manager's at first, then the agent's.
pub(crate) fn ports_of(entity: &v1::Entity) -> Vec<(i32, v1::Protocol, &str)> {
    entity.ports.iter().map(|port| (port.port, port.protocol(), port.name.as_str())).collect()
}

/// State and pid, for a comparison; a pid that is not 0 is that of a process that lives.
pub(crate) fn process_of(process: &v1::EntityProcess) -> (v1::ProcessState, u32) {
    let pid = process.pid.cast_unsigned();
    assert!(pid == 0 || is_alive(pid), "not of a living process: {process:?}");
    (process.state(), pid)
}

/// Code, signal and cause of the last end.
pub(crate) fn exit_of(process: &v1::EntityProcess) -> (Option<i32>, Option<i32>, String) {
    let exit = process.last_exit.as_ref();
    let exit = exit.unwrap_or_else(|| panic!("it is not known how it ended: {process:?}"));
    (exit.code, exit.signal, exit.cause.clone())
}

/// The endpoint `hold`: a `hold-game` with one UDP port.
pub(crate) struct Hold<'a> {
    /// What the game is told besides its name and its port.
    pub(crate) flags: &'a [&'a str],
    /// Whether it is told its port.
    pub(crate) port: bool,
    /// Lines of `[endpoints.hold.process]`.
    pub(crate) process: &'a str,
}

impl Hold<'_> {
    /// Its part of an agent's TOML.
    pub(crate) fn toml(&self, stage: &Stage) -> String {
        let ledger = stage.ledger.path();
        let locks = stage.site.path().join("locks");
        let mut command: Vec<&str> = vec![
            "--ledger",
            ledger.to_str().unwrap(),
            "--name",
            "{endpoint}-{number}",
            "--locks",
            locks.to_str().unwrap(),
        ];
        let game = game();
        command.insert(0, game.to_str().unwrap());
        if self.port {
            command.extend(["--udp", "{port.game}"]);
        }
        command.extend(self.flags);
        format!(
            "[endpoints.hold]\ndriver = \"process\"\n[endpoints.hold.process]\n\
             command = {command:?}\nports = [{{ name = \"game\", protocol = \"udp\" }}]\n{}\n",
            self.process
        )
    }
}

/// The built `hold-game`.
fn game() -> PathBuf {
    let path = profile_folder().join("hold-game");
    let built = Path::new(&path).is_file();
    assert!(built, "{path:?} is missing: run `cargo build --package goperation-harness --bins`");
    path
}
