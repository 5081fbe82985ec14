//! Commands on `gop dev`.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::dev::Dev;

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
fn an_agent_is_upgraded_once_for_one_message_id() {
    let dev = Dev::start(&[]);
    dev.ok(&["agent", "activate", "1"]);
    let upgrade = ["agent", "upgrade", "1", "next.rpm", "--message-id", "up-1"];
    let told = dev.ok(&upgrade);
    assert!(told.contains("SUCCEEDED") && told.contains("exit code 0"), "{told}");
    assert_eq!(dev.ok(&upgrade), told);
    let agent = dev.ok(&["agent", "show", "1"]);
    assert!(agent.contains("ACTIVE (1)") && agent.contains("SUCCEEDED next.rpm"), "{agent}");
    let refused = dev.fails(&["agent", "upgrade", "1"]);
    assert!(refused.contains("args.file") && refused.contains("(INVALID_ARGUMENT)"), "{refused}");
    dev.stop(Signal::TERM);
}

#[test]
fn facts_are_shown_now_and_as_they_were() {
    let dev = Dev::start(&[]);
    let before = dev.ok(&["agent", "facts", "1"]);
    assert!(before.contains("processors:") && before.contains("kernel:"), "{before}");
    assert!(before.contains("zone:"), "{before}");
    for _ in 0..3 {
        dev.ok(&["call", "1", "flush_report"]);
    }
    let now = dev.ok(&["agent", "facts", "1"]);
    for line in ["load:", "processor time:", "open files:", "TCP:", "network:", "memory now:"] {
        assert!(now.contains(line), "{line}\n{now}");
    }
    assert_eq!(dev.json(&["agent", "facts", "1"])["agent"]["id"], 1);

    // One of the agent's own may have come beside the three.
    let all = dev.json(&["agent", "facts", "1", "--history"]);
    let reports = all["reports"].as_array().unwrap();
    assert!(reports.len() >= 3, "{all}");
    assert!(reports.iter().all(|report| report["snapshot"]["processes"].as_i64() > Some(0)));
    let table = dev.ok(&["agent", "facts", "1", "--since", "1h"]);
    assert!(table.starts_with("TIME") && table.lines().count() > 3, "{table}");
    let gone = dev.fails(&["agent", "facts", "9", "--history"]);
    assert!(gone.contains("(AGENT_NOT_FOUND)\nhint: `gop agent ls --all`"), "{gone}");
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
