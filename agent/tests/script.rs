//! The script driver against real programs, each doing its worst.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use goperation::{EndpointName, Error, JsonObject, MessageId, Reason, Result};
use goperation_agent::{
    Config, EntityKey,
    endpoint::{
        Endpoints, Invocation, RunRecord, Subject, group_alive, kill_orphan, kill_orphans_of,
    },
    ports::{Protocol, Reserved},
};
use procfs::process::Process;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than any test may take, so that a program that is waited for is noticed.
const FOREVER: &str = "sleep 1000";

/// An endpoint `game` with one method `run` and, under other names, the programs of the tests.
struct Game {
    dir: TempDir,
    endpoints: Endpoints,
    message_id: MessageId,
}

/// `options` go into the method's TOML table.
fn game(script: &str, options: &str) -> Game {
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
            create = {{ program = ["/bin/true"], idempotent = true }}
            status = {{ program = ["/bin/true"] }}
        "#
    );
    let config = Config::from_toml(Path::new("agent.toml"), &text).unwrap();
    Game { dir, endpoints: Endpoints::new(&config), message_id: MessageId::generate() }
}

impl Game {
    fn invocation(&self, args: Value) -> Invocation {
        Invocation {
            method: "run".to_owned(),
            message_id: self.message_id.clone(),
            subject: None,
            args: args.as_object().unwrap().clone(),
        }
    }

    async fn run_with(&self, invocation: Invocation) -> Result<JsonObject> {
        self.endpoints.get("game").unwrap().run(invocation).await
    }

    async fn run(&self) -> Result<JsonObject> {
        self.run_with(self.invocation(json!({}))).await
    }

    async fn fails(&self) -> Error {
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

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("work/game").join(name)
    }

    /// The pid that the program wrote into a file of its folder.
    async fn pid(&self, name: &str) -> i32 {
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

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process is there and not dead.
fn runs(pid: i32) -> bool {
    Process::new(pid)
        .and_then(|process| process.stat())
        .is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// Whether a pid is there at all: a zombie is.
fn exists(pid: i32) -> bool {
    Process::new(pid).and_then(|process| process.stat()).is_ok()
}

fn text(object: &JsonObject, key: &str) -> String {
    object[key].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn input_comes_on_stdin_and_the_result_from_stdout() {
    let game = game("exec cat", "");
    let args = json!({"n": 9_007_199_254_740_992u64, "t": "ü\n", "l": [1.5, null]});
    let result = game.run_with(game.invocation(args.clone())).await.unwrap();
    let home = game.path("");
    assert_eq!(
        Value::Object(result),
        json!({
            "method": "run", "endpoint": "game", "args": args,
            "home": home.to_str().unwrap().trim_end_matches('/'),
            "message_id": game.message_id.as_str(),
        })
    );
}

#[tokio::test]
async fn an_entity_comes_with_its_home_and_ports() {
    let game =
        game("echo \"$(pwd) $GOP_ENTITY $GOP_PORT_QUERY_UDP $GOP_PORT_2\" >&2; exec cat", "");
    let endpoint = game.endpoints.get("game").unwrap();
    endpoint.create_home(7).await.unwrap();
    let key = EntityKey { endpoint: EndpointName::parse("e", "game").unwrap(), number: 7 };
    let port = |port, protocol, name: &str| Reserved {
        port,
        protocol,
        entity: key.clone(),
        name: name.to_owned(),
        since: 0,
    };
    let ports = vec![port(7001, Protocol::Udp, "query-udp"), port(7002, Protocol::Both, "")];
    let subject = Some(Subject { entity: 7, ports });
    let result =
        game.run_with(Invocation { subject: subject.clone(), ..game.invocation(json!({})) }).await;
    let result = result.unwrap();
    assert_eq!(result["entity"], 7);
    assert_eq!(result["home"], game.path("7").to_str().unwrap());
    assert_eq!(
        result["ports"],
        json!([
            {"name": "query-udp", "port": 7001, "protocol": "udp"},
            {"name": "", "port": 7002, "protocol": "both"},
        ])
    );

    let game2 =
        self::game("echo \"$(pwd) $GOP_ENTITY $GOP_PORT_QUERY_UDP $GOP_PORT_2\" >&2; exit 1", "");
    game2.endpoints.get("game").unwrap().create_home(7).await.unwrap();
    let error =
        game2.run_with(Invocation { subject, ..game2.invocation(json!({})) }).await.unwrap_err();
    let home = game2.path("7");
    assert_eq!(error.metadata["stderr"], format!("{} 7 7001 7002\n", home.display()));
    assert_eq!(error.metadata["entity"], "7");
}

#[tokio::test]
async fn arguments_are_not_words_of_a_shell_and_the_environment_is_clean() {
    let game = game("printf '%s|%s\\n' \"$1\" \"$2\" >&2; env | sort >&2; exit 1", "");
    let error = game.fails().await;
    let mut lines = error.metadata["stderr"].lines();
    assert_eq!(lines.next(), Some("a b|$HOME"));
    let names: Vec<_> =
        lines.filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    // PWD is the shell's own.
    let expected = [
        "GOP_ENDPOINT",
        "GOP_HOME",
        "GOP_MESSAGE_ID",
        "GOP_METHOD",
        "HOME",
        "LANG",
        "MODE",
        "PATH",
        "PWD",
    ];
    assert_eq!(
        names
            .into_iter()
            .filter(|name| *name != "_" && *name != "OLDPWD" && *name != "SHLVL")
            .collect::<Vec<_>>(),
        expected
    );
}

#[tokio::test]
async fn no_output_is_an_empty_object() {
    assert!(game("exit 0", "").run().await.unwrap().is_empty());
    assert!(game("echo; echo '  '", "").run().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_exit_code_is_told_with_the_ends_of_both_outputs() {
    let error =
        game("echo '{\"a\":1}'; echo first >&2; echo no disk >&2; exit 3", "").fails().await;
    assert_eq!(error.message, "run of game: ended with exit code 3: no disk");
    assert_eq!(error.metadata["exit_code"], "3");
    assert_eq!(error.metadata["stderr"], "first\nno disk\n");
    assert_eq!(error.metadata["stdout"], "{\"a\":1}\n");
}

#[tokio::test]
async fn a_signal_is_told() {
    let error = game("kill -11 $$", "").fails().await;
    assert_eq!(error.metadata["signal"], "11");
    assert!(error.message.contains("was ended by signal 11"), "{error}");
}

#[tokio::test]
async fn what_is_not_an_object_is_refused() {
    for (output, said) in [
        ("hello", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("{} {}", "is not JSON: trailing"),
        ("{\"a\":", "is not JSON: EOF"),
        ("{\"id\": 9007199254740993}", "cannot be passed on: result.id: is an integer beyond"),
        ("{\"id\": -90071992547409930000000000}", "cannot be passed on: result.id: is an integer"),
    ] {
        let error = game(&format!("printf '%s' '{output}'"), "").fails().await;
        assert!(error.message.contains(said), "{output}: {error}");
        assert!(error.metadata["stdout"].contains(output));
    }
    let error = game("printf '\\377\\376{}'", "").fails().await;
    assert!(error.message.contains("is not JSON"), "{error}");
}

#[tokio::test]
async fn stderr_is_bounded_to_its_end() {
    let script = "i=0; while [ $i -lt 30000 ]; do echo \"line $i\" >&2; i=$((i+1)); done; exit 1";
    let error = game(script, "").fails().await;
    assert!(error.metadata["stderr"].ends_with("line 29999\n"));
    assert!(error.metadata["stderr"].len() <= 4096);
}

#[tokio::test]
async fn input_that_is_not_read_is_no_failure() {
    // More than a pipe holds.
    let args = json!({"big": "x".repeat(1 << 20)});
    let game = game("exec <&-; echo '{\"ok\":true}'", "");
    assert_eq!(game.run_with(game.invocation(args)).await.unwrap()["ok"], true);
}

#[tokio::test]
async fn large_input_and_output_do_not_wait_for_each_other() {
    let args = json!({"big": "x".repeat(900_000)});
    let game = game("exec cat", "");
    let result = game.run_with(game.invocation(args)).await.unwrap();
    assert_eq!(text(result["args"].as_object().unwrap(), "big").len(), 900_000);
}

#[tokio::test]
async fn the_limit_kills_the_whole_group() {
    let script =
        format!("trap '' TERM INT HUP; {FOREVER} & echo $! >child; echo $$ >own; wait; {FOREVER}");
    let game = game(&script, ", timeout = \"1s\"");
    let began = Instant::now();
    let error = game.fails().await;
    assert!(error.message.contains("timed out after 1s and was killed"), "{error}");
    assert!((1..8).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(!exists(game.pid("own").await), "reaped");
    let child = game.pid("child").await;
    until("the child is gone", || !runs(child)).await;
}

#[tokio::test]
async fn a_flood_is_stopped() {
    let game = game("echo $$ >own; exec yes", ", max_output = 100000");
    let error = game.fails().await;
    assert!(error.message.contains("wrote more than 100000 bytes"), "{error}");
    assert!(error.metadata["stdout"].len() <= 1024);
    assert!(!exists(game.pid("own").await), "reaped");
}

#[tokio::test]
async fn output_up_to_the_bound_is_taken() {
    let game = game("printf '{\"a\":\"xy\"}'", ", max_output = 10");
    assert_eq!(text(&game.run().await.unwrap(), "a"), "xy");
    let game = self::game("printf '{\"a\":\"xyz\"}'", ", max_output = 10");
    assert!(game.fails().await.message.contains("wrote more than 10 bytes"));
}

#[tokio::test]
async fn a_child_that_keeps_the_output_does_not_hang_the_method() {
    let game = game(&format!("{FOREVER} & echo $! >child; echo '{{\"ok\":1}}'"), "");
    let began = Instant::now();
    assert_eq!(game.run().await.unwrap()["ok"], 1, "the method itself ended well");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let child = game.pid("child").await;
    until("the child is gone", || !runs(child)).await;
}

#[tokio::test]
async fn a_child_in_its_own_session_that_keeps_the_output_does_not_hang_the_method() {
    let game = game(&format!("setsid {FOREVER} & echo $! >child; echo '{{\"ok\":1}}'"), "");
    let began = Instant::now();
    assert_eq!(game.run().await.unwrap()["ok"], 1);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let child = game.pid("child").await;
    end(child);
}

#[tokio::test]
async fn a_child_that_lets_go_of_the_output_lives_on() {
    let game = game(&format!("{FOREVER} <&- >/dev/null 2>&1 & echo $! >child; echo '{{}}'"), "");
    game.run().await.unwrap();
    let child = game.pid("child").await;
    assert!(runs(child));
    end(child);
}

/// Ends what a test left running on purpose.
fn end(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn dropping_the_run_kills_the_group_and_leaves_no_zombie() {
    let game = game(&format!("{FOREVER} & echo $! >child; echo $$ >own; wait"), "");
    let endpoint = game.endpoints.get("game").unwrap();
    let running = endpoint.start(game.invocation(json!({}))).await.unwrap();
    let (own, child) = {
        // Dropped in the middle of the wait, as a cancelled task does it.
        let waiting = running.wait();
        tokio::select! {
            ended = waiting => panic!("{ended:?}"),
            pids = async { (game.pid("own").await, game.pid("child").await) } => pids,
        }
    };
    until("the child is gone", || !runs(child)).await;
    until("the program is reaped", || !exists(own)).await;
}

#[tokio::test]
async fn no_descriptor_is_inherited() {
    let game = game("ls /proc/self/fd >&2; exit 1", "");
    let _listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _file = fs::File::create(game.dir.path().join("file")).unwrap();
    let _other = game.endpoints.get("game").unwrap();
    // Another method's pipes, at the same time.
    let other = self::game(FOREVER, "");
    let _running =
        other.endpoints.get("game").unwrap().start(other.invocation(json!({}))).await.unwrap();
    let error = game.fails().await;
    // 3 is the folder that ls reads.
    assert_eq!(error.metadata["stderr"], "0\n1\n2\n3\n");
}

#[tokio::test]
async fn many_at_once_leave_nothing() {
    let game = game("echo $$ >>pids; exec cat", "");
    let runs = (0..50).map(|n| game.run_with(game.invocation(json!({"n": n}))));
    for (n, result) in futures::future::join_all(runs).await.into_iter().enumerate() {
        assert_eq!(result.unwrap()["args"]["n"], n);
    }
    let pids = fs::read_to_string(game.path("pids")).unwrap();
    assert_eq!(pids.lines().count(), 50);
    for pid in pids.lines() {
        assert!(!exists(pid.parse().unwrap()), "reaped");
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_told() {
    let game = game("exit 0", "");
    let subject = Some(Subject { entity: 9, ports: Vec::new() });
    let error =
        game.run_with(Invocation { subject, ..game.invocation(json!({})) }).await.unwrap_err();
    assert_eq!(error.reason, Reason::MethodFailed);
    assert!(error.message.contains("could not be started in"), "no home: {error}");
}

#[tokio::test]
async fn what_is_not_declared_is_refused() {
    let game = game("exit 0", "");
    let endpoints = &game.endpoints;
    let reason = |result: Result<bool>| result.unwrap_err().reason;
    assert_eq!(reason(endpoints.is_read_only("db", "run")), Reason::NamespaceNotFound);
    for method in ["other", "create", "status"] {
        assert_eq!(reason(endpoints.is_read_only("game", method)), Reason::MethodNotFound);
    }
    for (method, read_only, idempotent) in [
        ("run", false, false),
        ("create_entity", false, true),
        ("delete_entity", false, true),
        ("status_entity", true, true),
    ] {
        assert_eq!(endpoints.is_read_only("game", method).unwrap(), read_only, "{method}");
        assert_eq!(endpoints.is_idempotent("game", method), idempotent, "{method}");
    }
    let wire = endpoints.to_wire();
    let names: Vec<_> = wire[0].methods.iter().map(|method| method.name.as_str()).collect();
    assert_eq!((wire[0].name.as_str(), wire[0].driver.as_str()), ("game", "script"));
    assert_eq!(names, ["create", "run", "status"]);
}

#[tokio::test]
async fn homes_are_made_and_removed_without_following_links() {
    let game = game("exit 0", "");
    let endpoint = game.endpoints.get("game").unwrap();
    let outside = game.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "").unwrap();
    let link = |at: PathBuf| std::os::unix::fs::symlink(&outside, at).unwrap();

    endpoint.remove_home(1).await.unwrap();
    endpoint.create_home(1).await.unwrap();
    endpoint.create_home(1).await.unwrap();
    fs::create_dir_all(game.path("1/deep/er")).unwrap();
    link(game.path("1/deep/link"));
    link(game.path("2"));
    assert!(endpoint.create_home(2).await.is_err(), "a link is no home");
    endpoint.remove_home(1).await.unwrap();
    endpoint.remove_home(2).await.unwrap();
    assert!(!game.path("1").exists() && !game.path("2").exists());

    fs::remove_dir(game.path("")).unwrap();
    fs::create_dir(outside.join("3")).unwrap();
    link(game.dir.path().join("work/game"));
    assert!(endpoint.remove_home(3).await.is_err());
    assert!(endpoint.create_home(4).await.is_err());
    assert!(outside.join("precious").exists() && outside.join("3").exists());
    assert!(!outside.join("4").exists());
}

/// Starts a program as an agent does that then dies without killing it, and gives its record.
async fn orphan(game: &Game, script: &str) -> (RunRecord, i32) {
    let mut child = std::process::Command::new("/bin/sh");
    use std::os::unix::process::CommandExt as _;
    child.args(["-c", script]).current_dir(game.dir.path()).process_group(0);
    child.env("GOP_MESSAGE_ID", game.message_id.as_str());
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
    assert_eq!(kill_orphans_of(&MessageId::generate()).await, 0);
    assert!(runs(child));
    assert_eq!(kill_orphans_of(&game.message_id).await, 1);
    assert!(!runs(child));
}

#[tokio::test]
async fn what_made_a_session_of_its_own_is_no_orphan() {
    let game = game("", "");
    let script = format!("setsid sh -c 'echo $$ >child; exec {FOREVER}' >/dev/null 2>&1 <&- &");
    let (record, child) = orphan(&game, &script).await;
    until("the leader has ended", || !group_alive(&record)).await;
    assert_eq!(kill_orphans_of(&game.message_id).await, 0);
    assert!(runs(child));
    end(child);
}
