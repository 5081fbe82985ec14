//! The real binary: its exit codes, its words, and the tour of the README on `gop dev`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it goes wrong")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gop"));
    command.args(args).env_remove("GOP_SERVER").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn gop(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The code that a command ends with, and what it says on stderr.
fn refused(args: &[&str]) -> (i32, String) {
    let output = gop(args);
    assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
    (output.status.code().unwrap(), text(&output.stderr))
}

/// `gop dev` in a process of its own; killed when a test fails.
struct Dev {
    child: Child,
    server: String,
    data_dir: String,
    rest: mpsc::Receiver<String>,
}

impl Dev {
    fn start(args: &[&str]) -> Self {
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

    fn run(&self, args: &[&str]) -> Output {
        command(args).env("GOP_SERVER", &self.server).output().unwrap()
    }

    /// Runs a command that succeeds; gives what it prints.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[&["--json"], args].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// Runs a command that fails; gives what it says.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Asks again until the answer is as it should be.
    fn until(&self, args: &[&str], good: impl Fn(&Value) -> bool) -> Value {
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
    fn stop(mut self, signal: Signal) {
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
    }
}

#[test]
fn help_is_on_stdout_and_has_the_exit_codes() {
    let output = gop(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for word in ["dev", "manager", "bridge", "agent", "entity", "Exit codes:", "GOP_SERVER"] {
        assert!(help.contains(word), "{word}");
    }
    let call = text(&gop(&["call", "--help"]).stdout);
    assert!(call.contains("any:TYPE[/ENDPOINT]"), "{call}");
}

#[test]
fn wrong_usage_is_two() {
    for args in [
        &["nonsense"][..],
        &["agent", "show", "0"],
        &["call", "1/a-b", "echo"],
        &["entity", "create", "sample", "--on", "1", "--port", "game/sctp"],
        &["port", "reserve", "sample", "1"],
        &["agent", "--config", "x.toml", "ls"],
        &["dev", "--agents", "0"],
        &["dev", "--broker", "http://127.0.0.1"],
        &["queue", "ls", "--server", "https://127.0.0.1"],
        &["cache", "flush"],
        &["cache", "set", "--etag", "x"],
        &["entity", "create", "sample", "--on", "1", "--number", "0"],
        &["queue", "ls", "--log-level", "a=b=c"],
    ] {
        let (code, said) = refused(args);
        assert_eq!(code, 2, "{args:?}: {said}");
        assert!(said.starts_with("error: "), "{said}");
    }
}

#[test]
fn an_address_that_others_reach_is_refused() {
    let (code, said) = refused(&["dev", "--listen", "0.0.0.0:0"]);
    assert_eq!(code, 2);
    assert!(said.starts_with("error: 0.0.0.0:0 is reachable from other hosts"), "{said}");
    assert!(said.contains("--insecure"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.toml");
    let store = folder.path().join("data");
    fs::write(&file, format!("listen = '[::]:0'\ndata_dir = '{}'\n", store.display())).unwrap();
    let (code, said) = refused(&["manager", "--config", file.to_str().unwrap()]);
    assert_eq!((code, said.contains("--insecure")), (2, true), "{said}");
    assert!(!store.exists());
}

#[test]
fn a_bad_configuration_is_one_line_and_two() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let work = folder.path().join("work").display().to_string();
    let agent = |rest: &str| format!("work_dir = '{work}'\n{rest}\n");
    for (role, name, content, place) in [
        ("manager", "m.toml", "\nlease = 'x'".to_owned(), ":2: lease: "),
        ("manager", "n.toml", "nonsense = 1".to_owned(), ":1: nonsense: "),
        ("bridge", "b.toml", "[broker]\nheartbeat = '1h'".to_owned(), ": broker.heartbeat: "),
        ("bridge", "c.toml", "listen = '127.0.0.1:0'".to_owned(), ": missing field `broker`"),
        ("agent", "d.toml", agent("ports_range = ['80-90']"), ":2: ports_range[0]: "),
        ("agent", "e.toml", agent("ports_ranges = ['7000-7010', '7010']"), ":2: ports_ranges[1]: "),
        ("agent", "f.toml", agent(""), ": broker: is missing"),
    ] {
        let file = write(name, &content);
        let (code, said) = refused(&[role, "--config", &file]);
        assert_eq!(code, 2, "{said}");
        assert!(said.starts_with(&format!("error: {file}{place}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let nowhere = folder.path().join("nowhere.toml").display().to_string();
    for role in ["manager", "bridge", "agent"] {
        let (code, said) = refused(&[role, "--config", &nowhere]);
        assert_eq!((code, said.lines().count()), (2, 1), "{said}");
    }
    let file = write("g.toml", "work_dir = 1");
    let (code, said) = refused(&["dev", "--listen", "127.0.0.1:0", "--config", &file]);
    assert_eq!((code, said.lines().count()), (2, 1), "{said}");
}

#[test]
fn a_missing_manager_is_said_with_what_to_do() {
    // Nobody listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (code, said) = refused(&["agent", "ls", "--server", &format!("127.0.0.1:{port}")]);
    assert_eq!(code, 1);
    assert!(said.contains("(UNAVAILABLE)\nhint: `gop dev`"), "{said}");
}

#[test]
fn a_closed_stdout_is_no_failure() {
    let mut child = command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(text(&gop(&["completions", shell]).stdout).contains("gop"), "{shell}");
    }
}

#[test]
fn the_tour() {
    let dev = Dev::start(&["--agents", "2"]);

    // Agents.
    let agents = dev.ok(&["agent", "ls"]);
    assert!(agents.starts_with("ID   TYPE"), "{agents}");
    assert_eq!(agents.lines().count(), 3, "{agents}");
    let refused = dev.fails(&["entity", "create", "sample", "--on", "1"]);
    assert!(refused.contains("(AGENT_NOT_ACTIVE)"), "{refused}");
    assert!(refused.contains("hint: `gop agent activate 1`"), "{refused}");
    for id in ["1", "2"] {
        assert!(dev.ok(&["agent", "activate", id]).contains("ACTIVE"));
    }
    assert_eq!(dev.json(&["agent", "show", "1"])["agent"]["state"], "AGENT_STATE_ACTIVE");
    assert!(dev.ok(&["agent", "show", "1"]).contains("127.0.0.1"));
    let methods = dev.json(&["endpoint", "ls"])["endpoints"][0]["methods"].clone();
    assert!(methods.to_string().contains("echo"), "{methods}");

    // An entity with ports.
    let created = dev.json(&[
        "entity",
        "create",
        "sample",
        "--on",
        "1",
        "--port",
        "game/udp",
        "--port",
        "web=20050/tcp",
        "--ports",
        "2",
        "--description",
        "first",
        "--arg",
        "map=dust",
    ]);
    assert_eq!(created["entity"]["state"], "ENTITY_STATE_READY", "{created}");
    assert_eq!(created["result"], json!({"created": true}));
    let number = created["entity"]["number"].to_string();
    let name = format!("sample:{number}");
    assert!(dev.ok(&["entity", "ls"]).contains("web=20050/tcp"));
    assert!(dev.ok(&["entity", "show", &name]).contains("first"));
    assert_eq!(dev.json(&["entity", "status", "sample", &number])["result"]["alive"], true);
    let taken = dev.fails(&["entity", "create", "sample", "--on", "1", "--port", "web=20050"]);
    assert!(taken.contains("(PORT_TAKEN)"), "{taken}");
    let low = dev.fails(&["port", "reserve", &name, "--port", "80"]);
    assert!(low.contains("(PORT_OUT_OF_RANGE)"), "{low}");
    dev.ok(&["port", "reserve", &name, "--port", "more"]);
    assert!(dev.ok(&["port", "ls", "1"]).contains("more"));

    // Methods.
    let echo = dev.json(&["call", "1/sample", "echo", "--arg", "x=1", "--arg", "who=me"]);
    assert_eq!(echo["result"]["args"], json!({"x": 1, "who": "me"}));
    let echo = dev.json(&["call", &name, "echo"]);
    assert_eq!(echo["result"]["entity"].to_string(), number);
    assert!(dev.fails(&["call", "1/sample", "nonsense"]).contains("(METHOD_NOT_FOUND)"));
    assert!(dev.fails(&["call", "all/sample", "echo"]).contains("(FANOUT_CALL)"));
    assert!(dev.fails(&["call", "7", "status_agent"]).contains("(AGENT_NOT_FOUND)"));
    assert!(dev.ok(&["call", "any:application/sample", "echo"]).contains("sample"));
    dev.ok(&["cast", &name, "say", "--arg", "text=hello"]);
    dev.until(&["call", &name, "said"], |v| v["result"] == json!({"lines": 1, "last": "hello"}));

    // A broadcast, and one for a single agent; a repeated id has its effect once.
    for _ in 0..2 {
        dev.ok(&["cast", "all/sample", "say", "--arg", "text=all", "--message-id", "tour-1"]);
    }
    let said = |agent: &str, lines: u32, last: &str| {
        let want = json!({"lines": lines, "last": last});
        dev.until(&["call", &format!("{agent}/sample"), "said"], |v| v["result"] == want);
    };
    // Without an entity nothing orders them: wait for the first.
    said("1", 1, "all");
    said("2", 1, "all");
    dev.ok(&["cast", "all/sample", "say", "--arg", "text=two", "--agents", "2"]);
    said("2", 2, "two");
    said("1", 1, "all");

    // Notifications.
    for n in 1..=3 {
        dev.ok(&["notify", "news", "--arg", &format!("n={n}")]);
    }
    let received = dev.ok(&["receive", "news", "-n", "2", "--json"]);
    let numbers: Vec<_> = received
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["payload"]["n"].clone())
        .collect();
    assert_eq!(numbers, [json!(1), json!(2)]);
    assert!(dev.ok(&["receive", "news"]).contains("{\"n\":3}"));
    assert!(dev.fails(&["receive", "news", "--timeout", "300ms"]).contains("no message"));

    // Queues.
    let queues = dev.ok(&["queue", "ls"]);
    assert!(queues.contains("cast.application.dev1"), "{queues}");
    assert!(dev.ok(&["queue", "show", "notify.news"]).contains("notify.news"));
    assert!(dev.ok(&["queue", "dead"]).starts_with("TIME"));

    // The way back.
    let freed = dev.ok(&["port", "free", "1", "20050", "20099"]);
    assert!(freed.contains("freed web=20050/tcp"), "{freed}");
    assert!(freed.contains("not reserved 20099"), "{freed}");
    let remain = dev.fails(&["agent", "delete", "1"]);
    assert!(remain.contains("(ENTITIES_REMAIN)"), "{remain}");
    assert!(dev.ok(&["entity", "delete", "sample", &number]).contains(&format!("deleted {name}")));
    assert!(dev.fails(&["entity", "show", &name]).contains("(ENTITY_NOT_FOUND)"));
    assert_eq!(dev.json(&["port", "ls", "1"])["ports"], json!([]));
    dev.ok(&["agent", "delete", "1"]);
    dev.until(&["agent", "ls"], |v| v["agents"].as_array().unwrap().len() == 1);
    dev.ok(&["agent", "ls", "--all"]);

    let data_dir = dev.data_dir.clone();
    assert!(Path::new(&data_dir).exists());
    dev.stop(Signal::TERM);
    assert!(!Path::new(&data_dir).exists());
}

#[test]
fn a_paused_agent_holds_and_goes_on_when_resumed() {
    let dev = Dev::start(&[]);
    dev.ok(&["agent", "activate", "1"]);
    assert!(dev.ok(&["agent", "pause", "1"]).contains("SOFTBUSY"));
    let busy = dev.fails(&["call", "1/sample", "echo", "--timeout", "2s"]);
    assert!(busy.contains("(AGENT_BUSY)\nhint: `gop agent show 1`"), "{busy}");
    dev.ok(&["cast", "1/sample", "say", "--arg", "text=held"]);
    assert!(dev.ok(&["agent", "resume", "1"]).contains("ACTIVE"));
    dev.until(&["call", "1/sample", "said"], |v| {
        v["result"] == json!({"lines": 1, "last": "held"})
    });
    dev.ok(&["agent", "activate", "1", "--off"]);
    assert!(dev.fails(&["call", "1/sample", "echo"]).contains("(AGENT_NOT_ACTIVE)"));
    dev.stop(Signal::TERM);
}

#[test]
fn caches_are_set_listed_and_removed() {
    let dev = Dev::start(&[]);
    let set = dev.ok(&["cache", "set", "job-1", "--arg", "state=ready", "--arg", "n=3"]);
    assert!(set.starts_with("KEY") && set.contains("job-1"), "{set}");
    let shown = dev.json(&["cache", "show", "job-1"]);
    assert_eq!(shown["cache"]["value"], json!({"state": "ready", "n": 3}));
    assert_eq!(shown["cache"]["ttl"], "30s");
    let etag = shown["cache"]["etag"].as_str().unwrap();
    let set = ["cache", "set", "job-1", "--args", "{}", "--ttl", "1h", "--etag"];
    assert_eq!(dev.json(&[&set[..], &[etag]].concat())["cache"]["ttl"], "3600s");
    assert!(dev.fails(&[&set[..], &[etag]].concat()).contains("(ETAG_MISMATCH)"));
    let made = dev.json(&["cache", "set", "--arg", "x=1"]);
    let made = made["cache"]["key"].as_str().unwrap().to_owned();
    assert!(dev.ok(&["cache", "ls"]).contains(&made));
    let few = dev.ok(&["cache", "ls", "--filter", "key < d"]);
    assert!(few.contains(&made) && !few.contains("job-1"), "{few}");
    assert!(dev.ok(&["cache", "rm", &made]).contains("removed"));
    let gone = dev.fails(&["cache", "show", &made]);
    assert!(gone.contains("(CACHE_NOT_FOUND)\nhint: it has expired"), "{gone}");
    assert_eq!(dev.ok(&["cache", "flush", "job-"]), "removed 1\n");
    assert_eq!(dev.ok(&["cache", "flush", "--all"]), "removed 0\n");
    dev.stop(Signal::TERM);
}

#[test]
fn an_agent_is_reserved_and_its_flags_are_careful() {
    let dev = Dev::start(&[]);
    let reserve = [
        "agent",
        "reserve",
        "--host",
        "h9",
        "--type",
        "scheduler",
        "--endpoint",
        "db",
        "--endpoint",
    ];
    let reserved = dev.ok(&[&reserve[..], &["game"]].concat());
    assert!(reserved.contains("reserved") && reserved.contains("db,game"), "{reserved}");
    assert!(dev.ok(&["agent", "ls"]).contains("reserved"));
    assert!(dev.ok(&["agent", "show", "2"]).contains("reserved"));
    let again = dev.fails(&["agent", "reserve", "--host", "h9", "--type", "scheduler"]);
    assert!(again.contains("(ALREADY_EXISTS)"), "{again}");
    assert!(dev.fails(&["agent", "activate", "2"]).contains("(AGENT_OFFLINE)"));
    assert!(dev.ok(&["agent", "delete", "2"]).contains("DELETED"));

    dev.ok(&["agent", "activate", "1"]);
    let create = ["entity", "create", "sample", "--on", "1", "--port", "web=20050", "--number"];
    let created = dev.json(&[&create[..], &["7"]].concat());
    assert_eq!(created["entity"]["number"], 7, "{created}");
    let used = dev.fails(&[&create[..], &["7"]].concat());
    assert!(used.contains("must be at least 8"), "{used}");
    let strict = dev.fails(&["port", "free", "1", "20050", "20099", "--strict"]);
    assert!(strict.contains("(PORT_NOT_FOUND)") && strict.contains("20099"), "{strict}");
    assert!(dev.ok(&["port", "free", "1", "20050", "--strict"]).contains("freed web=20050"));
    dev.ok(&["call", "1/sample", "entity_token", "--arg", "entity=7", "--arg", "token=mine"]);
    let refused = dev.fails(&["entity", "delete", "sample:7"]);
    assert!(refused.contains("somebody else is deleting it"), "{refused}");
    assert!(dev.ok(&["entity", "delete", "sample:7", "--token", "yours"]).contains("deleted"));
    dev.stop(Signal::TERM);
}

#[test]
fn a_configuration_replaces_the_sample() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    let work = folder.path().join("work");
    let text = format!(
        "host = 'mine'\nwork_dir = '{}'\nports_ranges = ['21000-21009']\n\
         [endpoints.db.methods.fail]\nprogram = ['/bin/sh', '-c', 'echo gone wrong >&2; exit 3']\n",
        work.display()
    );
    fs::write(&file, text).unwrap();
    let dev = Dev::start(&["--config", file.to_str().unwrap()]);
    dev.ok(&["agent", "activate", "1"]);
    let created = dev.json(&["entity", "create", "db", "--on", "1", "--ports", "2"]);
    assert_eq!(created["entity"]["ports"].as_array().unwrap().len(), 2, "{created}");
    let failed = dev.fails(&["call", "db:1", "fail"]);
    assert!(failed.contains("(METHOD_FAILED)\n  stderr: gone wrong\nhint: "), "{failed}");
    dev.stop(Signal::TERM);
}

#[test]
fn a_data_dir_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let dev = Dev::start(&["--data-dir", path]);
    assert_eq!(dev.data_dir, path);
    dev.ok(&["agent", "activate", "1"]);
    dev.ok(&["entity", "create", "sample", "--on", "1", "--port", "game"]);
    let entities = dev.json(&["entity", "ls"]);
    let ports = dev.json(&["port", "ls", "1"]);
    dev.stop(Signal::INT);

    let dev = Dev::start(&["--data-dir", path]);
    assert_eq!(dev.json(&["port", "ls", "1"])["ports"], ports["ports"]);
    let again = dev.json(&["entity", "ls"]);
    assert_eq!(again["entities"][0]["number"], entities["entities"][0]["number"]);
    assert_eq!(
        dev.json(&["entity", "status", "sample:1"])["entity"]["state"],
        "ENTITY_STATE_READY"
    );
    dev.stop(Signal::TERM);
}
