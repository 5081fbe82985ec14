//! The tour of the README.

use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::dev::Dev;

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
    let endpoints = dev.json(&["endpoint", "ls"])["endpoints"].clone();
    let sample = endpoints.as_array().unwrap().iter().find(|e| e["name"] == "sample").unwrap();
    assert!(sample["methods"].to_string().contains("echo"), "{endpoints}");

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
