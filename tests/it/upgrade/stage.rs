//! A site with one agent that runs from a file of its own, with a game and a package command that
//! waits until it is let go, and then is what the package says.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use goperation::{
    Error, JsonObject, Reason,
    v1::{self, AgentState, UpgradeState, bridge_service_client::BridgeServiceClient},
};
use goperation_harness::{Ledger, gop, guard::Swept, is_alive, poll_for, poll_until};
use serde_json::json;
use tokio::{task::JoinHandle, time::sleep};
use tonic::Request;

use crate::{
    fleet::{SOON, script, target, to_struct},
    procs::{AgentProcess, Site},
};

/// Longer than all that an upgrade takes here on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(180);
/// CASTs that are held.
const CASTS: usize = 5;

pub(super) type Upgrading = JoinHandle<Result<v1::AgentUpgrade, Error>>;

/// The site.
pub(super) struct Stage {
    pub(super) agent: AgentProcess,
    /// The agent's program.
    program: PathBuf,
    /// A line per run of the endpoint's method `note`: the id of its message.
    notes: Ledger,
    /// A line per start of the package command: its pid.
    packages: Ledger,
    /// The game: its number, its process, and when that was started.
    game: (i32, u32, String),
    // Last, so that nothing is left to write into the folder that goes.
    _swept: Swept,
    site: Site,
}

/// Messages that were sent while the agent upgrades.
pub(super) struct Held {
    casts: Vec<String>,
    call: JoinHandle<Result<JsonObject, Error>>,
    call_id: String,
}

impl Stage {
    /// With this in `[package]`.
    pub(super) async fn start(package: &str) -> Self {
        Self::start_with(package, |_, waits| format!("[{waits:?}, \"{{file}}\"]")).await
    }

    /// With a package command that is made of the stage's folder and the program that waits.
    pub(super) async fn start_with(
        package: &str,
        command: impl FnOnce(&Path, &Path) -> String,
    ) -> Self {
        let site = Site::start().await;
        let folder = site.path().to_owned();
        let swept = Swept::folder(&folder);
        let (notes, packages) = (Ledger::create(), Ledger::create());
        let program = folder.join("root/usr/bin/gop");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        // Not a symbolic link: /proc must say which file is run.
        fs::hard_link(gop(), &program).or_else(|_| fs::copy(gop(), &program).map(drop)).unwrap();
        let toml = format!(
            "[package]\ncommand = {}\n{package}\n\
             [endpoints.tt.methods]\nnote = {{ program = [{:?}] }}\n\
             [endpoints.game]\ndriver = \"process\"\n[endpoints.game.process]\ncommand = [{:?}]\n",
            command(&folder, &waits(&folder, &packages)),
            script(&folder, "note", &note(&notes)),
            script(&folder, "play", "exec sleep 1000"),
        );
        let mut agent = site.agent("h1", &toml);
        agent.program.clone_from(&program);
        agent.start().await;
        site.activate(agent.id).await;
        let game = start_game(&site, agent.id).await;
        Self { agent, program, notes, packages, game, _swept: swept, site }
    }

    /// A package: what its installation does, and where it is.
    pub(super) fn package(&self, name: &str, body: &str) -> String {
        script(self.site.path(), name, body).display().to_string()
    }

    /// Puts another file in the place of the agent's program.
    pub(super) fn installs(&self) -> String {
        let (gop, program) = (gop(), &self.program);
        format!("cp {gop:?} {program:?}.new && mv {program:?}.new {program:?} && echo installed")
    }

    /// Never ends, with another process of its group.
    pub(super) fn hangs(&self) -> String {
        let pids = self.site.path().join("hung");
        format!("sleep 600 & echo $$ $! > {pids:?}.new; mv {pids:?}.new {pids:?}; wait")
    }

    /// The processes of a package command that hangs.
    pub(super) async fn hung_group(&self) -> Vec<u32> {
        let pids = self.site.path().join("hung");
        poll_for(SOON, "the command hangs", async || {
            let pids = fs::read_to_string(&pids).ok()?;
            Some(pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect())
        })
        .await
    }

    /// Asks for an upgrade.
    pub(super) fn upgrade(&self, file: &str, message_id: &str) -> Upgrading {
        self.upgrade_within(file, message_id, LONG)
    }

    /// As [`Self::upgrade`], by a caller who waits so long.
    pub(super) fn upgrade_within(&self, file: &str, id: &str, wait: Duration) -> Upgrading {
        let mut request = Request::new(v1::UpgradeAgentRequest {
            id: self.agent.id,
            file: file.to_owned(),
            message_id: id.to_owned(),
            finish_time: None,
        });
        request.set_timeout(wait);
        let mut agents = self.site.agents();
        tokio::spawn(async move {
            let answer = agents.upgrade_agent(request).await.map_err(|s| Error::from_status(&s))?;
            Ok(answer.into_inner().upgrade.unwrap())
        })
    }

    /// Another upgrade while one runs is refused, naming it.
    pub(super) async fn repeat_is_refused(&self, id: &str, running: &str) {
        let error = self.upgrade("/other", id).await.unwrap().unwrap_err();
        assert_eq!(error.reason, Reason::StateRefused, "{error:?}");
        assert_eq!(error.metadata["upgrade"], running);
    }

    pub(super) async fn show(&self) -> v1::Agent {
        self.site.show(self.agent.id).await.unwrap()
    }

    /// Waits until the manager says that the agent is HARDBUSY for that upgrade, and its package
    /// command runs.
    pub(super) async fn is_upgrading(&self, message_id: &str) -> v1::AgentUpgrade {
        let upgrade = poll_for(SOON, "the manager tells of the upgrade", async || {
            let agent = self.show().await;
            let upgrade = agent.upgrade.clone()?;
            (agent.state() == AgentState::Hardbusy && upgrade.message_id == message_id)
                .then_some(upgrade)
        })
        .await;
        assert_eq!(upgrade.state(), UpgradeState::Running, "{upgrade:?}");
        assert_eq!((upgrade.end_time, &*upgrade.version_after), (None, ""), "{upgrade:?}");
        poll_until(SOON, "the package command runs", async || {
            fs::read_to_string(&upgrade.log).is_ok_and(|log| log.contains("package "))
        })
        .await;
        upgrade
    }

    /// Lets package commands be what the package says.
    pub(super) fn let_go(&self) {
        fs::write(self.site.path().join("go"), "").unwrap();
    }

    /// Lets the next ones wait again.
    pub(super) fn stop_going(&self) {
        fs::remove_file(self.site.path().join("go")).unwrap();
    }

    /// How often the package command was started.
    pub(super) fn package_runs(&self) -> usize {
        self.packages.lines().len()
    }

    /// The pid of the package command that was started last.
    pub(super) fn package_pid(&self) -> u32 {
        self.packages.lines().last().unwrap().parse().unwrap()
    }

    /// Sends messages to the endpoint of the agent, which is upgrading.
    pub(super) async fn hold_messages(&self) -> Held {
        let mut casts = Vec::new();
        for _ in 0..CASTS {
            let cast = v1::CastRequest {
                target: Some(target("h1", "tt")),
                method: "note".to_owned(),
                args: Some(to_struct(json!({}))),
                ..Default::default()
            };
            let mut bridge = BridgeServiceClient::new(self.site.channel.clone());
            casts.push(bridge.cast(cast).await.unwrap().into_inner().message_id);
        }
        let call_id = format!("held-{}", casts[0]);
        let (clients, id) = (self.site.clients(), call_id.clone());
        let call = tokio::spawn(async move {
            loop {
                let answer = clients.call_as("h1", "tt", "note", json!({}), LONG, &id).await;
                // Sent only when the agent was away already: that is said at once. Who waits for
                // this task has a deadline.
                match &answer {
                    Err(error) if error.reason == Reason::AgentOffline => {}
                    _ => return answer,
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
        Held { casts, call, call_id }
    }

    /// Waits until all of them have run: each once.
    pub(super) async fn were_delivered(&self, held: Held) {
        let answer = tokio::time::timeout(LONG, held.call).await.unwrap().unwrap().unwrap();
        assert_eq!(answer["noted"], 1);
        let ids: Vec<_> = held.casts.into_iter().chain([held.call_id]).collect();
        poll_until(LONG, "what was held has run", async || {
            let counts = self.notes.counts();
            ids.iter().all(|id| counts.contains_key(id))
        })
        .await;
        let counts = self.notes.counts();
        assert!(ids.iter().all(|id| counts[id] == 1), "{counts:?}");
    }

    /// The game is the same process as at the start.
    pub(super) fn game_goes_on(&self) {
        let (_, pid, since) = &self.game;
        assert!(is_alive(*pid), "the game has ended");
        assert_eq!(&start_time(*pid), since, "another process has the pid of the game");
    }

    /// As [`Self::game_goes_on`]; and the agent minds it, as everybody is told.
    pub(super) async fn game_is_minded(&self) {
        self.game_goes_on();
        let (number, pid, _) = self.game;
        let status = v1::StatusEntityRequest { endpoint: "game".to_owned(), number };
        let status = self.site.entities().status_entity(status).await.unwrap().into_inner();
        let process = status.process.expect("the game has a process");
        assert_eq!(process.state(), v1::ProcessState::Running, "{process:?}");
        assert_eq!((process.pid.cast_unsigned(), process.restarts), (pid, 0), "{process:?}");
    }

    /// Whether a process runs the file that is now in the place of the agent's program, and not
    /// the one that the agent was first started from.
    pub(super) fn runs_new(&self, pid: u32) -> bool {
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let runs = inode(Path::new(&format!("/proc/{pid}/exe")));
        runs == inode(&self.program) && runs != inode(&gop())
    }

    /// The folder of everything.
    pub(super) fn path(&self) -> &Path {
        self.site.path()
    }

    pub(super) async fn end(self) {
        drop(self.agent);
        self.site.stop().await;
    }
}

/// The message id that an error carries.
pub(super) fn id_of(error: &Error) -> &str {
    error.metadata.get("message_id").map_or("", String::as_str)
}

/// When a process was started, in ticks since the boot.
fn start_time(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap();
    fields.split_whitespace().nth(19).unwrap().to_owned()
}

/// A package command that says that it has begun, waits, and becomes what the package says.
fn waits(folder: &Path, packages: &Ledger) -> PathBuf {
    let (go, begun) = (folder.join("go"), packages.path());
    let body = format!(
        "echo $$ >> {begun:?}; echo \"package $1\"\n\
         while [ ! -e {go:?} ]; do sleep 0.1; done\nexec \"$1\""
    );
    script(folder, "package", &body)
}

/// Creates and starts a game.
async fn start_game(site: &Site, agent_id: i32) -> (i32, u32, String) {
    let endpoint = || "game".to_owned();
    let request = v1::CreateEntityRequest { endpoint: endpoint(), agent_id, ..Default::default() };
    let created = site.entities().create_entity(request).await.unwrap().into_inner();
    let number = created.entity.unwrap().number;
    let mut request =
        Request::new(v1::StartEntityRequest { endpoint: endpoint(), number, finish_time: None });
    request.set_timeout(LONG);
    let started = site.entities().start_entity(request).await.unwrap().into_inner();
    let pid = started.process.unwrap().pid.cast_unsigned();
    (number, pid, start_time(pid))
}

fn note(notes: &Ledger) -> String {
    let notes = notes.path();
    format!("cat >/dev/null; echo \"$GOP_MESSAGE_ID\" >> {notes:?}; echo '{{\"noted\":1}}'")
}
