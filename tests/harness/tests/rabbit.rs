//! The RabbitMQ node of the harness does what the other tests rely on.

use std::process::Stdio;
use std::time::{Duration, Instant};

use goperation_harness::{RabbitNode, poll_until};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

async fn connect(uri: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

async fn publish(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), durable, FieldTable::default()).await?;
    channel
        .basic_publish(
            "".into(),
            queue.into(),
            BasicPublishOptions::default(),
            b"kept",
            BasicProperties::default().with_delivery_mode(2),
        )
        .await?
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_node_is_killed_stopped_and_started_again_with_its_data() {
    let began = Instant::now();
    let node = RabbitNode::start().await;
    eprintln!("started in {:?}", began.elapsed());
    let vhost = node.new_vhost().await;
    let (_connection, channel) = connect(&vhost.uri).await.unwrap();
    publish(&channel, "q").await.unwrap();
    node.flush_definitions().await;
    let counters = node.counters().await.unwrap();
    assert_eq!((counters.received, counters.confirmed), (1, 1));
    assert!(node.cpu_time() > Duration::from_millis(100), "{:?}", node.cpu_time());
    assert!(node.resident_bytes() > 20_000_000, "{}", node.resident_bytes());

    node.kill().await;
    assert!(connect(&vhost.uri).await.is_err(), "a killed node took a connection");
    node.eval("ok").await.unwrap_err();
    let began = Instant::now();
    node.start_again().await;
    eprintln!("started after the kill in {:?}", began.elapsed());
    let (_connection, channel) = connect(&vhost.uri).await.unwrap();
    let kept = channel.basic_get("q".into(), BasicGetOptions::default()).await.unwrap();
    assert_eq!(kept.expect("the message survived").data, b"kept");

    node.stop().await;
    assert!(connect(&vhost.uri).await.is_err(), "a stopped node took a connection");
    node.start_again().await;
    connect(&vhost.uri).await.unwrap();
}

#[tokio::test]
async fn virtual_hosts_users_and_policies() {
    let node = RabbitNode::shared().await;
    let (one, other) = (node.new_vhost().await, node.new_vhost().await);
    let (_connection, channel) = connect(&one.uri).await.unwrap();
    publish(&channel, "only-here").await.unwrap();
    let queues = async |vhost: &str| node.ctl(["list_queues", "-p", vhost, "name"]).await.unwrap();
    assert!(queues(&one.name).await.contains("only-here"));
    assert!(!queues(&other.name).await.contains("only-here"));

    let user = format!("u-{}", one.name);
    let uri = node.add_user(&user, "p", &one.name, r"^own\.q$", "", "").await;
    let declare = async |queue: &str| {
        let (_connection, channel) = connect(&uri).await.unwrap();
        channel
            .queue_declare(queue.into(), QueueDeclareOptions::default(), FieldTable::default())
            .await
    };
    declare("own.q").await.unwrap();
    declare("ownxq").await.expect_err("the right is for own.q alone");

    node.set_policy(&one.name, "short", "^only", r#"{"max-length":7}"#).await;
    poll_until(Duration::from_secs(60), "the policy applies", async || {
        node.ctl(["list_queues", "-p", &one.name, "policy"]).await.unwrap().contains("short")
    })
    .await;
    node.ctl(["no-such-command"]).await.expect_err("an unknown command fails");
    node.eval("erlang:error(boo)").await.expect_err("a failing expression fails");
}

#[tokio::test]
async fn a_killed_process_leaves_no_node_and_no_folder_behind() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hold-node"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let started = timeout(Duration::from_secs(120), stdout.read_line(&mut line)).await;
    started.expect("the other process's node starts in time").unwrap();
    let (folder, port) = line.trim().rsplit_once(' ').expect("a folder and a port");
    let listens =
        async || tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_ok();
    assert!(listens().await);

    child.kill().await.unwrap();
    poll_until(Duration::from_secs(60), "the node and its folder are gone", async || {
        !listens().await && !std::path::Path::new(folder).exists()
    })
    .await;
    // Every process of the node had the folder in its environment or arguments.
    poll_until(Duration::from_secs(60), "no process is left", async || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| std::fs::read(entry.path().join("environ")).ok())
            .all(|environ| !String::from_utf8_lossy(&environ).contains(folder))
    })
    .await;
}
