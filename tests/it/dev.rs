//! `gop dev` as a newcomer meets it: the README's tour, pasted, and grpcurl on both transports.

use std::{process::Stdio, time::Duration};

use goperation_harness::{GopProcess, RabbitNode, gop, grpcurl, poll_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    clients::run,
    fleet::SOON,
    recipes::{lines_match, matches},
    shown::{Ids, Shown, blurred, commands, file},
};

/// A `gop dev` on a free port, the same whether or not game servers are installed here.
pub(crate) async fn dev(args: &[&str]) -> (GopProcess, String) {
    dev_as_it_is(&[&["--no-games"], args].concat()).await
}

/// A `gop dev` on a free port.
async fn dev_as_it_is(args: &[&str]) -> (GopProcess, String) {
    let args = [&["dev", "--listen", "127.0.0.1:0"], args].concat();
    let process = GopProcess::spawn(args).await;
    let address = process
        .ready_line()
        .split_whitespace()
        .find_map(|word| word.strip_prefix("http://"))
        .expect("the ready line has the address")
        .to_owned();
    (process, address)
}

/// The console blocks of a section of the README.
fn shown(section: &str) -> Vec<Shown> {
    let readme = file("README.md");
    let section = readme.split(&format!("\n## {section}\n")).nth(1).expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let mut inside = false;
    let lines = section.lines().filter(|line| {
        if line.starts_with("```") {
            inside = *line == "```console";
        }
        inside
    });
    commands(lines.filter(|line| !line.starts_with("```")))
}

/// Runs the `gop` commands of a section, and compares what they print with what is shown.
async fn walked(steps: &[Shown], address: &str) {
    let server = format!("http://{address}");
    let mut ids = Ids::default();
    for step in steps {
        let words = ids.here(step.command.strip_prefix("gop ").expect("a gop command"));
        let shown = step.output.join("\n");
        let (mut wanted, mut got) = (Vec::new(), Vec::new());
        // What a CAST does is seen a moment later, and so is that a receiver has gone or what a
        // process does.
        let reads = words.contains(" said") || ["queue ls", "entity ls"].contains(&&*words);
        poll_until(SOON, &format!("`{}` shows what the README shows", step.command), async || {
            let out = Command::new("sh")
                .args(["-c", &format!("exec \"$GOP\" {words} 2>&1")])
                .env("GOP", gop())
                .env("GOP_SERVER", &server)
                .stdin(Stdio::null())
                .output()
                .await
                .unwrap();
            let printed = String::from_utf8_lossy(&out.stdout);
            ids.learn(&shown, &printed);
            wanted = ids.here(&shown).lines().map(blurred).collect();
            got = printed.lines().map(blurred).collect();
            lines_match(&wanted, &got) || !reads
        })
        .await;
        assert!(lines_match(&wanted, &got), "`{}`: {got:#?}\nshown: {wanted:#?}", step.command);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_of_the_readme_is_true() {
    let (process, address) = dev(&["--agents", "2"]).await;
    let mut tour = shown("A tour");
    assert!(tour.len() > 25, "the tour was not found");
    assert!(tour.remove(0).command.starts_with("cargo run --release -- dev"));
    walked(&tour, &address).await;
    end(process).await;
}

/// `cargo xtask test` installs both game servers that `gop dev` knows.
#[tokio::test(flavor = "multi_thread")]
async fn the_real_game_of_the_readme_is_true() {
    let (process, address) = dev_as_it_is(&[]).await;
    let game = shown("A real game");
    assert!(game.len() >= 5, "the game was not found");
    walked(&game, &address).await;
    end(process).await;
}

/// The same by gRPC, and by REST: what has no output there only has to succeed.
#[tokio::test(flavor = "multi_thread")]
async fn the_other_ways_of_the_readme_are_true() {
    let (process, address) = dev(&[]).await;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = [grpcurl().parent().unwrap().to_owned()];
    let path = std::env::join_paths(tools.into_iter().chain(std::env::split_paths(&path))).unwrap();
    let steps = [shown("The same by gRPC"), shown("The same by REST")].concat();
    assert!(steps.len() >= 6, "the sections were not found");
    for step in steps {
        let here = |text: &str| text.replace("127.0.0.1:7999", &address);
        // What is not answered as it should makes curl fail, too, unless the failure is shown.
        let fail = if step.output.is_empty() { "--fail" } else { "" };
        let command = here(&step.command).replacen("curl", &format!("curl {fail}"), 1);
        let command = if step.command.starts_with("curl") { command } else { here(&step.command) };
        let mut sh = Command::new("sh");
        sh.args(["-c", &format!("exec 2>&1\n{command}")]).env("PATH", &path).kill_on_drop(true);
        let (status, printed) = run(sh, SOON).await;
        assert!(status.success(), "`{}`: {status}\n{printed}", step.command);
        if !step.output.is_empty() {
            let same = matches(&here(&step.output.join("\n")), &printed);
            assert_eq!(same, Ok(()), "`{}`\n{printed}", step.command);
        }
    }
    end(process).await;
}

/// Stops it as a person does, and looks how it ends.
pub(crate) async fn end(mut process: GopProcess) {
    process.signal(Signal::INT);
    let status = process.wait(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0), "gop dev ends with 0: {}", process.log());
}

async fn grpc(address: &str, method: &str, data: Value) -> Result<Value, String> {
    let out = Command::new(grpcurl())
        .args(["-plaintext", "-emit-defaults", "-d", &data.to_string(), address])
        .arg(format!("goperation.v1.{method}"))
        .output()
        .await
        .unwrap();
    if out.status.success() {
        Ok(serde_json::from_slice(&out.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

async fn grpcurl_tour(args: &[&str]) {
    let (process, address) = dev(args).await;
    let list =
        Command::new(grpcurl()).args(["-plaintext", &address, "list"]).output().await.unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    for service in ["Agent", "Bridge", "Cache", "Endpoint", "Entity", "Port", "Request"] {
        assert!(list.contains(&format!("goperation.v1.{service}Service")), "{list}");
    }
    assert!(list.contains("grpc.health.v1.Health"), "{list}");

    let refused = json!({"endpoint": "sample", "agentId": 1});
    let refused = grpc(&address, "EntityService/CreateEntity", refused).await.unwrap_err();
    assert!(refused.contains("AGENT_NOT_ACTIVE"), "{refused}");
    for id in [1, 2] {
        let agent = grpc(&address, "AgentService/ActivateAgent", json!({"id": id})).await.unwrap();
        assert_eq!(agent["agent"]["state"], "AGENT_STATE_ACTIVE");
    }
    let create = json!({"endpoint": "sample", "agentId": 1, "ports": [{"name": "game"}]});
    let created = grpc(&address, "EntityService/CreateEntity", create).await.unwrap();
    let number = created["entity"]["number"].clone();
    assert_eq!(created["entity"]["state"], "ENTITY_STATE_READY");
    assert_eq!(created["entity"]["ports"][0]["name"], "game");

    let target = json!({"topic": "agent.application", "host": "dev1", "namespace": "sample"});
    let call = json!({"target": target, "method": "echo", "args": {"entity": number, "x": 1}});
    let called = grpc(&address, "BridgeService/Call", call).await.unwrap();
    assert_eq!(called["result"]["args"]["x"], 1);

    let all = json!({"topic": "agent.application", "fanout": true, "namespace": "sample"});
    let cast = json!({"target": all, "method": "say", "args": {"text": "everyone"}});
    grpc(&address, "BridgeService/Cast", cast).await.unwrap();
    for host in ["dev1", "dev2"] {
        poll_until(SOON, "the broadcast reached everyone", async || {
            let target = json!({"topic": "agent.application", "host": host, "namespace": "sample"});
            let said = json!({"target": target, "method": "said"});
            let said = grpc(&address, "BridgeService/Call", said).await.unwrap();
            said["result"]["last"] == "everyone"
        })
        .await;
    }
    let delete = json!({"endpoint": "sample", "number": number});
    grpc(&address, "EntityService/DeleteEntity", delete.clone()).await.unwrap();
    let gone = grpc(&address, "EntityService/ShowEntity", delete).await.unwrap_err();
    assert!(gone.contains("ENTITY_NOT_FOUND"), "{gone}");
    end(process).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_on_the_embedded_transport() {
    grpcurl_tour(&["--agents", "2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_on_rabbitmq() {
    let uri = RabbitNode::shared().await.new_vhost().await.uri;
    grpcurl_tour(&["--agents", "2", "--broker", &uri]).await;
}

/// A test that fails leaves no game behind, although `gop dev` is killed and games outlive it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gop_dev_has_started_is_dead_too() {
    let (process, address) = dev(&[]).await;
    grpc(&address, "AgentService/ActivateAgent", json!({"id": 1})).await.unwrap();
    grpc(&address, "EntityService/CreateEntity", json!({"endpoint": "clock"})).await.unwrap();
    let clock = json!({"endpoint": "clock", "number": 1});
    let started = grpc(&address, "EntityService/StartEntity", clock).await.unwrap();
    let pid = i32::try_from(started["process"]["pid"].as_i64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let alive = || rustix::process::test_kill_process(pid).is_ok();
    assert!(alive());
    drop(process);
    poll_until(SOON, "the clock has ended", async || !alive()).await;
}
