//! Each role as a service manager starts it: the units that are shipped, and what the roles tell
//! through the socket of `sd_notify`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use goperation::v1::{UpgradeAgentRequest, UpgradeState};
use goperation_harness::{GopProcess, RabbitNode, find_program, gop, poll_until};
use tempfile::TempDir;
use tokio::{net::UnixDatagram, task::JoinHandle};
use tonic::Request;

use crate::{fleet::SOON, procs::Site};

/// The service manager's side of `sd_notify`.
struct Notified {
    path: PathBuf,
    told: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
    _folder: TempDir,
}

impl Notified {
    fn listen() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let messages = Arc::clone(&told);
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer).await {
                let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                messages.lock().unwrap().push(message);
            }
        });
        Self { path, told, reader, _folder: folder }
    }

    /// What systemd adds to the environment of a service that has a watchdog.
    fn env(&self) -> Vec<(&'static str, String)> {
        let socket = self.path.display().to_string();
        vec![("NOTIFY_SOCKET", socket), ("WATCHDOG_USEC", "200000".to_owned())]
    }

    /// The messages that have that line, and what else each says.
    fn with(&self, line: &str) -> Vec<String> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|message| message.lines().any(|l| l == line)).cloned().collect()
    }

    async fn wait(&self, line: &str, count: usize) {
        let what = format!("{line} {count} times");
        poll_until(SOON, &what, async || self.with(line).len() >= count).await;
    }

    /// Ready, alive, and then stopping as it is asked to.
    async fn lives_and_stops(&self, process: &mut GopProcess) {
        self.wait("READY=1", 1).await;
        assert!(self.with("READY=1")[0].contains("\nSTATUS="), "{:?}", self.with("READY=1"));
        self.wait("WATCHDOG=1", 3).await;
        assert_eq!(self.with("STOPPING=1").len(), 0);
        process.term();
        assert!(process.wait(SOON).await.success());
        self.wait("STOPPING=1", 1).await;
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Starts a role with its configuration.
async fn start(role: &str, folder: &Path, toml: &str, notified: &Notified) -> GopProcess {
    let config = folder.join(format!("{role}.toml"));
    fs::write(&config, toml).unwrap();
    let env = notified.env();
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    GopProcess::spawn_with([role.as_ref(), "--config".as_ref(), config.as_os_str()], &env).await
}

#[tokio::test(flavor = "multi_thread")]
async fn manager_and_bridge_say_how_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let notified = Notified::listen();
    let data = folder.path().join("data");
    let toml = format!("listen = \"127.0.0.1:0\"\ndata_dir = {data:?}\n");
    let mut manager = start("manager", folder.path(), &toml, &notified).await;
    notified.lives_and_stops(&mut manager).await;

    let notified = Notified::listen();
    let uri = RabbitNode::shared().await.new_vhost().await.uri;
    let toml = format!("listen = \"127.0.0.1:0\"\n[broker]\nuri = {uri:?}\n");
    let mut bridge = start("bridge", folder.path(), &toml, &notified).await;
    notified.lives_and_stops(&mut bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_ready_when_it_works_with_or_without_its_manager() {
    let mut site = Site::start().await;
    let notified = Notified::listen();
    let mut agent = site.agent("h1", "");
    agent.env = notified.env();
    agent.start().await;
    notified.lives_and_stops(agent.process()).await;

    // The next start finds no manager: what it looks after it looks after.
    site.kill_manager();
    let notified = Notified::listen();
    agent.env = notified.env();
    let manager_later = async {
        notified.wait("READY=1", 1).await;
        assert!(notified.with("READY=1")[0].contains("not online yet"));
        site.start_manager().await;
    };
    tokio::join!(agent.start(), manager_later);
    notified.wait("READY=1", 2).await;
    assert!(notified.with("READY=1")[1].contains("ready agent="));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_becomes_another_program_is_the_same_service() {
    let site = Site::start().await;
    let notified = Notified::listen();
    let mut agent = site.agent("h1", "[package]\ncommand = [\"/bin/true\"]\n");
    agent.env = notified.env();
    agent.start().await;
    let pid = agent.process().pid();
    // One when it works, one when it is online.
    notified.wait("READY=1", 2).await;
    let mut request = Request::new(UpgradeAgentRequest { id: agent.id, ..Default::default() });
    request.set_timeout(Duration::from_secs(120));
    let upgraded = site.agents().upgrade_agent(request).await.unwrap().into_inner();
    assert_eq!(upgraded.upgrade.unwrap().state(), UpgradeState::Succeeded);
    notified.wait("READY=1", 4).await;
    assert_eq!(notified.with("STATUS=starting again after an upgrade").len(), 1);
    assert_eq!(notified.with("STOPPING=1").len(), 0, "systemd would take it for a stop");
    assert!(agent.runs());
    assert_eq!(agent.process().pid(), pid);
    // The watchdog goes on with the new program.
    let before = notified.with("WATCHDOG=1").len();
    notified.wait("WATCHDOG=1", before + 3).await;
    site.stop().await;
}

/// The files that are shipped in a folder.
fn packaged(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// The units that are shipped.
fn units() -> Vec<PathBuf> {
    packaged("systemd")
}

/// The settings of a section, in order.
fn settings(unit: &str, section: &str) -> Vec<(String, String)> {
    let mut now = "";
    let mut found = Vec::new();
    for line in unit.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => now = name,
            None if now == section => {
                let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
                found.push((name.to_owned(), value.to_owned()));
            }
            None => {}
        }
    }
    found
}

#[test]
fn units_start_each_role_and_leave_games_alone() {
    let units = units();
    assert_eq!(units.len(), 3);
    for path in units {
        let text = fs::read_to_string(&path).unwrap();
        let service = settings(&text, "Service");
        let of = |name: &str| {
            let values = service.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
            values.collect::<Vec<_>>()
        };
        let file = path.file_name().unwrap().to_str().unwrap();
        let role = file.trim_start_matches("gop-").split(['.', '@']).next().unwrap();
        assert_eq!(of("Type"), ["notify"], "{file}");
        assert_eq!(of("Restart"), ["on-failure"], "{file}");
        assert!(
            of("ExecStart")[0].starts_with(&format!("/usr/bin/gop {role} --config ")),
            "{file}"
        );
        if role == "agent" {
            assert_eq!(of("KillMode"), ["process"]);
            assert_eq!(of("OOMPolicy"), ["continue"]);
            assert_eq!(
                (of("RestartPreventExitStatus"), of("RestartForceExitStatus")),
                (vec!["3"], vec!["4"])
            );
            // Whatever it is confined by, games and package scripts would be too.
            let confines = ["Protect", "Private", "Restrict", "System", "Lock", "Capability"];
            let confined = |name: &str| confines.iter().any(|begin| name.starts_with(begin));
            assert!(!service.iter().any(|(name, _)| confined(name)), "{service:?}");
        }
    }
}

#[test]
fn units_are_what_systemd_reads() {
    let Some(analyze) = find_program("systemd-analyze", &[]) else {
        eprintln!("no systemd-analyze here: not run");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for path in units() {
        // The program is not installed where the tests run.
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("/usr/bin/gop ", &format!("{} ", gop().display()));
        let unit = folder.path().join(path.file_name().unwrap());
        fs::write(&unit, text).unwrap();
        let output =
            Command::new(&analyze).args(["verify", "--man=no"]).arg(&unit).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // Older ones do not know it: the unit says so.
        let bad: Vec<_> = said.lines().filter(|l| !l.contains("'DelegateSubgroup'")).collect();
        assert!(output.status.success() && bad.is_empty(), "{}: {said}", unit.display());
    }
}

#[test]
fn users_of_units_are_made() {
    let config: String =
        packaged("sysusers.d").iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let lines = config.lines().map(str::split_whitespace);
    let made: Vec<_> =
        lines.filter_map(|mut words| (words.next()? == "u").then(|| words.next())?).collect();
    let mut users = Vec::new();
    for path in units() {
        let service = settings(&fs::read_to_string(path).unwrap(), "Service");
        // A user's group is made with it.
        let of = service.into_iter().filter(|(name, _)| name == "User" || name == "Group");
        users.extend(of.map(|(_, name)| name));
    }
    assert!(users.contains(&"goperation".to_owned()), "{users:?}");
    assert!(users.iter().all(|user| made.contains(&user.as_str())), "{users:?} {made:?}");

    let Some(sysusers) = find_program("systemd-sysusers", &[]) else {
        eprintln!("no systemd-sysusers here: only read");
        return;
    };
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    let mut command = Command::new(sysusers);
    command.arg("--root").arg(root.path()).args(packaged("sysusers.d"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in ["passwd", "group"] {
        let there = fs::read_to_string(root.path().join("etc").join(file)).unwrap();
        let there: Vec<_> = there.lines().filter_map(|line| line.split(':').next()).collect();
        assert!(users.iter().all(|user| there.contains(&user.as_str())), "{file}: {there:?}");
    }
}
