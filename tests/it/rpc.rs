//! CAST, CALL and NOTIFY as the contract's §3 has them, on both transports.

use std::time::{Duration, Instant};

use goperation::{Reason, now_millis, v1};
use goperation_bridge::{QueueName, rabbit::CastQueue};
use goperation_harness::{Ledger, poll_until};
use serde_json::json;

use crate::fleet::{Fleet, On, SOON, everybody, script, target, to_struct};

/// An endpoint whose `note` appends its message id to a ledger, and whose `hang` says that it
/// started and then does not end.
fn endpoint(fleet: &Fleet, ledger: &Ledger) -> String {
    let file = ledger.path().display();
    let note = script(
        fleet.path(),
        "note",
        &format!("cat >/dev/null; echo \"$GOP_MESSAGE_ID\" >> {file}; echo '{{\"noted\":1}}'"),
    );
    let hang = script(
        fleet.path(),
        "hang",
        &format!("cat >/dev/null; echo \"$GOP_MESSAGE_ID\" >> {file}; exec sleep 600"),
    );
    format!(
        "[endpoints.t.methods.note]\nprogram = [{note:?}]\n\
         [endpoints.t.methods.look]\nprogram = [{note:?}]\nread_only = true\n\
         [endpoints.t.methods.hang]\nprogram = [{hang:?}]\ntimeout = \"20m\"\n"
    )
    .replace("endpoints.t.", "endpoints.tt.")
}

async fn kinds(on: On) {
    let fleet = Fleet::start(on).await;
    let ledger = Ledger::create();
    let toml = endpoint(&fleet, &ledger);
    let agent = fleet.agent("h1", &toml).await;
    fleet.activate(&agent).await;
    let wait = Duration::from_secs(10);

    // To a queue that never was.
    let error = fleet.cast(target("nobody", "tt"), "note", json!({}), None).await.unwrap_err();
    assert_eq!(error.reason, Reason::QueueNotFound, "{error}");
    let error = fleet.call(target("nobody", "tt"), "note", json!({}), wait).await.unwrap_err();
    assert_eq!(error.reason, Reason::QueueNotFound, "{error}");
    let error = fleet.cast(everybody("nothing"), "note", json!({}), None).await.unwrap_err();
    assert_eq!(error.reason, Reason::QueueNotFound, "{error}");

    // CALL is point to point only.
    let error = fleet.call(everybody("tt"), "note", json!({}), wait).await.unwrap_err();
    assert_eq!(error.reason, Reason::FanoutCall, "{error}");

    // What the agent lacks.
    let error = fleet.call(agent.target("none"), "note", json!({}), wait).await.unwrap_err();
    assert_eq!(error.reason, Reason::NamespaceNotFound, "{error}");
    let error = fleet.call(agent.target("tt"), "none", json!({}), wait).await.unwrap_err();
    assert_eq!(error.reason, Reason::MethodNotFound, "{error}");

    // The same id gets the stored answer, and the effect happens once.
    let first = fleet.call_as(agent.target("tt"), "note", json!({}), wait, "again").await.unwrap();
    let second = fleet.call_as(agent.target("tt"), "note", json!({}), wait, "again").await.unwrap();
    assert_eq!(first, second);
    assert_eq!(ledger.counts().get("again"), Some(&1));

    // A broadcast reaches those that have the endpoint.
    let sent = fleet.cast(everybody("tt"), "note", json!({}), None).await.unwrap();
    poll_until(SOON, "the broadcast runs", async || ledger.counts().contains_key(&sent)).await;

    // A CAST whose time is over is not run.
    let late = fleet.cast(agent.target("tt"), "note", json!({}), Some(now_millis() - 1)).await;
    match late {
        Ok(id) => {
            let sent = fleet.cast(agent.target("tt"), "note", json!({}), None).await.unwrap();
            poll_until(SOON, "the later one runs", async || ledger.counts().contains_key(&sent))
                .await;
            assert!(!ledger.counts().contains_key(&id), "a late CAST was run");
        }
        Err(error) => assert_eq!(error.reason, Reason::OverFinishtime, "{error}"),
    }

    // A stopped agent is offline at once, and its CAST queue waits for it.
    let queue = QueueName::Call(agent.address());
    agent.stop().await;
    // A broker needs a moment to see that a connection has been closed.
    poll_until(SOON, "its CALL queue is gone", async || {
        matches!(fleet.transport.queue(&queue).await, Ok(None))
    })
    .await;
    let before = Instant::now();
    let error = fleet.call(target("h1", "tt"), "note", json!({}), wait).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentOffline, "{error}");
    assert!(before.elapsed() < Duration::from_secs(5), "offline was said late");
    let waiting = fleet.cast(target("h1", "tt"), "note", json!({}), None).await.unwrap();
    let agent = fleet.agent("h1", &toml).await;
    poll_until(SOON, "the CAST that waited runs", async || ledger.counts().contains_key(&waiting))
        .await;
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_embedded() {
    kinds(On::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_rabbit_classic() {
    kinds(On::Rabbit(CastQueue::Classic)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_rabbit_quorum() {
    kinds(On::Rabbit(CastQueue::Quorum)).await;
}

async fn notify(on: On) {
    let fleet = Fleet::start(on).await;
    let notify = v1::NotifyRequest {
        queue: "news".to_owned(),
        payload: Some(to_struct(json!({"n": 1}))),
        message_id: String::new(),
    };
    let sent = fleet.bridge().notify(notify).await.unwrap().into_inner().message_id;

    // Unacknowledged, it comes again.
    for redelivered in [false, true] {
        let request =
            v1::ReceiveRequest { queue: "news".to_owned(), ..v1::ReceiveRequest::default() };
        let mut stream = fleet.bridge().receive(request).await.unwrap().into_inner();
        let got = tokio::time::timeout(SOON, stream.message()).await.unwrap().unwrap().unwrap();
        assert_eq!((got.message_id.as_str(), got.redelivered), (sent.as_str(), redelivered));
        if redelivered {
            let ack = v1::AcknowledgeRequest {
                queue: "news".to_owned(),
                ack_tokens: vec![got.ack_token],
                requeue: false,
            };
            let unknown = fleet.bridge().acknowledge(ack).await.unwrap().into_inner().unknown;
            assert!(unknown.is_empty());
        }
    }
    poll_until(SOON, "the queue is empty", async || {
        let show = v1::ShowQueueRequest { name: "notify.news".to_owned() };
        let queue = fleet.bridge().show_queue(show).await.unwrap().into_inner().queue.unwrap();
        queue.exists && queue.depth == 0 && queue.consumers == 0
    })
    .await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notify_waits_for_a_receiver_embedded() {
    notify(On::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notify_waits_for_a_receiver_rabbit() {
    notify(On::Rabbit(CastQueue::Classic)).await;
}
