//! A reserved port that somebody else holds.

use std::{fs, net::UdpSocket};

use goperation::Reason;
use goperation_harness::guard::Guarded;
use serde_json::json;

use crate::stage::{Stage, ranges, server, until};

fn toml(stage: &Stage, repick: bool) -> String {
    let program = server(stage);
    format!(
        "{}[endpoints.game]\ndriver = \"process\"\n[endpoints.game.process]\n\
         command = [{program:?}, \"udp:{{port.game}}\"]\nrepick = {repick}\n\
         ports = [{{ name = \"game\", protocol = \"udp\" }}]\n\
         files = [{{ path = \"conf/port\", template = \"{{port.game}}\" }}]\n\
         ready = {{ port = \"game\", timeout = \"50s\" }}\n",
        ranges(3)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_says_who_has_it() {
    let stage = Stage::start().await;
    let agent = stage.agent(&toml(&stage, false)).await;
    let number = stage.create(&agent).await;
    let port = stage.port(&agent, number).await;
    // In a process that never forks: one of ours in the middle of a start has the socket too.
    let mut command = std::process::Command::new(server(&stage));
    let foreign = Guarded::spawn(command.arg(format!("udp:{port}"))).unwrap();
    until("it is bound", || UdpSocket::bind(("127.0.0.1", port)).is_err()).await;
    let error = stage.call(&agent, "start_entity", number).await.unwrap_err();
    assert_eq!(error.reason, Reason::PortTaken, "{error}");
    assert_eq!(error.metadata["port"], port.to_string());
    assert_eq!(error.metadata["name"], "game");
    let holder = format!("pid {} ", foreign.id());
    assert!(error.metadata["holder"].starts_with(&holder), "{error:?}");
    let status = stage.status(&agent, number).await;
    assert_eq!(status["state"], "CRASHED");
    let bound = &status["bound"][0];
    assert_eq!((&bound["own"], &bound["pid"]), (&json!(false), &json!(foreign.id())));
    assert_eq!(stage.games(), [0; 0]);
    drop(foreign);
    assert_eq!(stage.does(&agent, "start_entity", number).await["state"], "RUNNING");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_one_is_reserved_where_that_is_allowed() {
    let stage = Stage::start().await;
    let agent = stage.agent(&toml(&stage, true)).await;
    let number = stage.create(&agent).await;
    let port = stage.port(&agent, number).await;
    let foreign = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let started = stage.does(&agent, "start_entity", number).await;
    assert_eq!(started["state"], "RUNNING");
    let bound = &started["bound"][0];
    assert_eq!((&bound["own"], &bound["name"]), (&json!(true), &json!("game")));
    let new = bound["port"].as_u64().unwrap();
    assert_ne!(new, u64::from(port));
    let file = agent.work_dir.join(format!("game/{number}/conf/port"));
    assert_eq!(std::fs::read_to_string(file).unwrap(), new.to_string());
    // On record too, by the next sync.
    goperation_harness::poll_until(crate::stage::LONG, "the record has the new port", async || {
        u64::from(stage.port(&agent, number).await) == new
    })
    .await;
    drop(foreign);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_could_not_be_written_for_the_other_port_are_written_by_the_next_start() {
    let stage = Stage::start().await;
    let toml = toml(&stage, true);
    let agent = stage.agent(&toml).await;
    let number = stage.create(&agent).await;
    let port = stage.port(&agent, number).await;
    let home = agent.work_dir.join(format!("game/{number}"));
    let (conf, aside) = (home.join("conf"), home.join("aside"));
    fs::rename(&conf, &aside).unwrap();
    fs::write(&conf, "no folder").unwrap();
    let foreign = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let error = stage.call(&agent, "start_entity", number).await.unwrap_err();
    assert_eq!(error.reason, Reason::Internal, "{error}");
    assert!(error.message.contains("conf/port"), "{error}");
    assert_eq!(stage.games(), [0; 0]);
    // The new port is reserved, and the file has the old one: also the next agent knows that.
    agent.stop().await;
    fs::remove_file(&conf).unwrap();
    fs::rename(&aside, &conf).unwrap();
    assert_eq!(fs::read_to_string(conf.join("port")).unwrap(), port.to_string());
    let agent = stage.fleet.agent("h1", &toml).await;
    let started = stage.does(&agent, "start_entity", number).await;
    assert_eq!(started["state"], "RUNNING");
    let new = started["bound"][0]["port"].as_u64().unwrap();
    assert_ne!(new, u64::from(port));
    assert_eq!(fs::read_to_string(conf.join("port")).unwrap(), new.to_string());
    // Once: from then on they are the game's.
    fs::write(conf.join("port"), "mine").unwrap();
    stage.does(&agent, "restart_entity", number).await;
    agent.stop().await;
    let agent = stage.fleet.agent("h1", &toml).await;
    stage.does(&agent, "restart_entity", number).await;
    assert_eq!(fs::read_to_string(conf.join("port")).unwrap(), "mine");
    drop(foreign);
}
