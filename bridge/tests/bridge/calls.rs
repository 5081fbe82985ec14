//! CALL.

use std::time::Duration;

use goperation::{Error, Reason, now_millis, struct_to_json};
use goperation_bridge::{Body, BridgeConfig, Message, PublishError, Route};
use goperation_harness::poll_until;
use prost_types::{Value, value::Kind};
use serde_json::json;
use tokio::time::Instant;

use crate::bed::{SOON, bed, bed_with, call, failure, target};

const LONG: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_call_brings_the_result() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    let mut client = bed.client();
    let played = tokio::spawn(async move {
        let call = agent.message().await;
        agent.answer(&call, Ok(json!({ "players": 3, "load": 0.5 }))).await.unwrap();
        call
    });
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = tonic::Request::new(call(LONG));
    request.metadata_mut().insert("traceparent", trace.parse().unwrap());
    let answer = client.call(request).await.unwrap().into_inner();
    let result = struct_to_json("result", answer.result.as_ref()).unwrap();
    assert_eq!(serde_json::to_string(&result).unwrap(), r#"{"load":0.5,"players":3}"#);

    let sent = played.await.unwrap();
    assert_eq!(answer.message_id, sent.id.as_str());
    assert_eq!((sent.namespace.as_str(), sent.method.as_str()), ("game", "status"));
    assert_eq!(sent.body, Body::Object(json!({ "n": 7 }).as_object().unwrap().clone()));
    assert_eq!(sent.traceparent.as_deref(), Some(trace));
    let end = now_millis() + 15_000;
    for time in [sent.deadline.unwrap(), sent.finish_time.unwrap()] {
        assert!((end - 10_000..=end).contains(&time), "the end of the wait: {time}");
    }
    bed.close().await;
}

#[tokio::test]
async fn a_refusal_arrives_typed() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    tokio::spawn(async move {
        let call = agent.message().await;
        let taken = Error::new(Reason::PortTaken, "port 7001 is game 3's").with("port", 7001);
        agent.answer(&call, Err(taken)).await.unwrap();
    });
    let error = failure(bed.client().call(call(LONG)).await);
    assert_eq!((error.reason, error.metadata["port"].as_str()), (Reason::PortTaken, "7001"));
    bed.close().await;
}

#[tokio::test]
async fn a_busy_agent_is_asked_again_with_the_same_id() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    let played = tokio::spawn(async move {
        let mut calls: Vec<Message> = Vec::new();
        for _ in 0..2 {
            calls.push(agent.message().await);
            agent.busy(&calls[calls.len() - 1]).await;
        }
        calls.push(agent.message().await);
        agent.answer(&calls[2], Ok(json!({}))).await.unwrap();
        calls
    });
    let answer = bed.client().call(call(LONG)).await.unwrap().into_inner();
    let calls = played.await.unwrap();
    assert!(calls.iter().all(|call| call.id.as_str() == answer.message_id));
    assert_ne!(calls[0].correlation, calls[1].correlation, "each attempt has its own reply");
    bed.close().await;
}

#[tokio::test]
async fn an_agent_busy_to_the_end_is_said_in_time() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    let playing = tokio::spawn(async move {
        loop {
            let call = agent.message().await;
            agent.busy(&call).await;
        }
    });
    let start = Instant::now();
    let error = failure(bed.client().call(call(Duration::from_secs(5))).await);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(error.reason, Reason::AgentBusy);
    assert!(error.retry_after.is_some() && error.metadata.contains_key("message_id"));
    playing.abort();
    bed.close().await;
}

#[tokio::test]
async fn an_agent_busy_until_the_finish_time_is_not_waited_for_longer() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    let playing = tokio::spawn(async move {
        loop {
            let call = agent.message().await;
            agent.busy(&call).await;
        }
    });
    let finish = Some(goperation::to_timestamp(goperation::now_millis() + 2000));
    let start = Instant::now();
    let call = goperation::v1::CallRequest { finish_time: finish, ..call(Duration::from_secs(60)) };
    let error = failure(bed.client().call(call).await);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(error.reason, Reason::AgentBusy);
    playing.abort();
    bed.close().await;
}

#[tokio::test]
async fn an_absent_agent_is_offline_and_an_unknown_one_not_found_at_once() {
    let bed = bed().await;
    let start = Instant::now();
    let error = failure(bed.client().call(call(LONG)).await);
    assert_eq!(error.reason, Reason::QueueNotFound);
    bed.known(&[]).await;
    let error = failure(bed.client().call(call(LONG)).await);
    assert_eq!(error.reason, Reason::AgentOffline);
    let mut any = call(LONG);
    any.target.as_mut().unwrap().host.clear();
    assert_eq!(failure(bed.client().call(any.clone()).await).reason, Reason::AgentOffline);
    any.target.as_mut().unwrap().topic = "agent.scheduler".into();
    assert_eq!(failure(bed.client().call(any).await).reason, Reason::QueueNotFound);
    assert!(start.elapsed() < LONG / 2, "at once");
    bed.close().await;
}

#[tokio::test]
async fn no_reply_in_time_is_an_unknown_outcome_with_the_id() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    let mut request = tonic::Request::new(call(LONG));
    request.get_mut().message_id = "mine-1".into();
    // The caller's own deadline is the nearer one, and the answer comes before it.
    request.set_timeout(Duration::from_secs(4));
    let start = Instant::now();
    let error = failure(bed.client().call(request).await);
    let took = start.elapsed();
    // By how much before it, is what the test of the context looks at.
    assert!(took >= Duration::from_millis(3500) && took < LONG / 2, "{took:?}");
    assert_eq!(error.reason, Reason::OutcomeUnknown);
    assert_eq!(error.metadata["message_id"], "mine-1");
    // It was sent, and sent again after a second of silence.
    let (first, second) = (agent.message().await, agent.message().await);
    assert_eq!((first.id.as_str(), second.id.as_str()), ("mine-1", "mine-1"));
    // A reply that comes too late meets nobody, and harms nobody.
    agent.answer(&first, Ok(json!({}))).await.unwrap();
    bed.close().await;
}

#[tokio::test]
async fn busy_and_then_silence_is_an_unknown_outcome() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    let playing = tokio::spawn(async move {
        let call = agent.message().await;
        agent.busy(&call).await;
        // The second attempt may have run.
        agent.message().await;
        agent
    });
    let error = failure(bed.client().call(call(Duration::from_secs(6))).await);
    assert_eq!(error.reason, Reason::OutcomeUnknown);
    drop(playing.await.unwrap());
    bed.close().await;
}

#[tokio::test]
async fn a_lost_queue_is_found_again() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    let mut client = bed.client();
    let calling = tokio::spawn(async move { client.call(call(LONG)).await });
    let first = agent.message().await;
    // It is gone before it answers, and its queue with it.
    drop(agent);
    poll_until(SOON, "the queue is gone", async || {
        let probe = bed.transport.publish(&Route::Call(crate::bed::h1()), &first).await;
        probe == Err(PublishError::NoQueue)
    })
    .await;
    let mut agent = bed.agent().await;
    let again = agent.message().await;
    assert_eq!(again.id, first.id);
    agent.answer(&again, Ok(json!({ "from": "journal" }))).await.unwrap();
    assert!(calling.await.unwrap().is_ok());
    bed.close().await;
}

#[tokio::test]
async fn a_call_cannot_go_to_many() {
    let bed = bed().await;
    let mut many = call(LONG);
    *many.target.as_mut().unwrap() =
        goperation::v1::Target { fanout: true, host: String::new(), ..target().unwrap() };
    let error = failure(bed.client().call(many).await);
    assert_eq!(error.reason, Reason::FanoutCall);
    bed.close().await;
}

#[tokio::test]
async fn integers_that_would_be_rounded_are_refused_both_ways() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    let mut beyond = call(LONG);
    let number = Value { kind: Some(Kind::NumberValue(9_007_199_254_740_994.0)) };
    beyond.args.as_mut().unwrap().fields.insert("big".into(), number);
    beyond.method = "no method".into();
    let error = failure(bed.client().call(beyond).await);
    assert_eq!(error.reason, Reason::InvalidArgument);
    let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["method", "args.big"], "every bad field is named");

    tokio::spawn(async move {
        let call = agent.message().await;
        agent.answer(&call, Ok(json!({ "big": 9_007_199_254_740_993u64 }))).await.unwrap();
    });
    let error = failure(bed.client().call(call(LONG)).await);
    assert_eq!(error.reason, Reason::InvalidArgument);
    assert_eq!(error.violations[0].field, "result.big");
    bed.close().await;
}

#[tokio::test]
async fn a_cancelled_call_leaves_nothing() {
    let bed = bed().await;
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    let mut client = bed.client();
    let calling = tokio::spawn(async move { client.call(call(LONG)).await });
    let sent = agent.message().await;
    assert_eq!(bed.bridge.waiting_calls(), 1);
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    assert_eq!(bed.bridge.waiting_calls(), 0);
    agent.answer(&sent, Ok(json!({}))).await.unwrap();
    bed.close().await;
}

#[tokio::test]
async fn too_many_calls_are_refused_and_stopping_answers_the_rest() {
    let bed = bed_with(BridgeConfig { max_calls: 1, ..BridgeConfig::default() }).await;
    bed.known(&["game"]).await;
    let mut agent = bed.agent().await;
    let mut client = bed.client();
    let calling = tokio::spawn(async move { client.call(call(LONG)).await });
    agent.message().await;
    let error = failure(bed.client().call(call(LONG)).await);
    assert_eq!(error.reason, Reason::RateLimited);
    bed.bridge.close().await;
    assert_eq!(failure(calling.await.unwrap()).reason, Reason::OutcomeUnknown);
    bed.close().await;
}

#[tokio::test]
async fn bad_waits_are_refused() {
    let bed = bed().await;
    for timeout in [Duration::ZERO, Duration::from_secs(100_000)] {
        let error = failure(bed.client().call(call(timeout)).await);
        assert_eq!(error.violations[0].field, "timeout", "{timeout:?}");
    }
    bed.close().await;
}
