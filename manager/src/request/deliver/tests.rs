use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    sync::Arc,
};

use goperation::struct_to_json;
use goperation_store::{Options, SledStore};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    db::Tx,
    record::{AgentRecord, QueueJob},
};

const REQUEST: &str = "0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77";

fn object(value: serde_json::Value) -> JsonObject {
    value.as_object().cloned().unwrap()
}

fn letter() -> Letter {
    Letter {
        request: REQUEST.to_owned(),
        namespace: "game".to_owned(),
        method: "start".to_owned(),
        args: object(json!({"n": 1})),
        finish_time: now_millis() + 3_600_000,
        traceparent: String::new(),
    }
}

fn host(agent: u32) -> String {
    format!("h{agent}")
}

fn to(agent: u32) -> Addressee {
    let to = To { agent_type: "application".to_owned(), host: host(agent) };
    Addressee { agent, to, args: None }
}

/// The ways of agents whose records allow all.
fn all_ways(to: &[Addressee]) -> Vec<Way> {
    to.iter().map(|to| if to.args.is_some() { Way::Single } else { Way::Any }).collect()
}

/// Delivers over a bridge that answers so; also says what it was asked.
async fn deliver(
    letter: &Letter,
    to: &[Addressee],
    fleet: usize,
    answer: impl Fn(&CastRequest) -> Result<()>,
) -> (Vec<(u32, Sent)>, Vec<CastRequest>) {
    let seen = RefCell::new(Vec::new());
    let post = Post {
        letter,
        to,
        fleet,
        began: Instant::now(),
        stopping: || false,
        send: |cast: CastRequest| {
            let result = answer(&cast);
            seen.borrow_mut().push(cast);
            async move {
                tokio::task::yield_now().await;
                result
            }
        },
    };
    let told = post.deliver(all_ways(to)).await;
    (told, seen.into_inner())
}

fn error(reason: Reason) -> Error {
    Error::new(reason, "scripted")
}

fn is_broadcast(cast: &CastRequest) -> bool {
    cast.target.as_ref().unwrap().fanout
}

#[tokio::test]
async fn few_or_a_minority_are_sent_to_one_by_one() {
    for (agents, fleet) in [(1, 1000), (8, 8), (9, 19), (200, 401)] {
        let agents: Vec<_> = (1..=agents).map(to).collect();
        let (told, casts) = deliver(&letter(), &agents, fleet, |_| Ok(())).await;
        let expected: Vec<_> = agents.iter().map(|to| (to.agent, Sent::Yes)).collect();
        assert_eq!(told, expected);
        let hosts: BTreeSet<_> =
            casts.iter().map(|cast| cast.target.clone().unwrap().host).collect();
        assert_eq!(hosts, agents.iter().map(|to| host(to.agent)).collect());
        assert_eq!(casts.len(), agents.len());
        for cast in casts {
            let target = cast.target.clone().unwrap();
            assert_eq!(
                (target.topic.as_str(), target.fanout, target.namespace.as_str()),
                ("agent.application", false, "game")
            );
            assert_eq!((cast.message_id.as_str(), cast.request_id.as_str()), (REQUEST, REQUEST));
            assert_eq!((cast.method.as_str(), cast.agents.as_str()), ("start", ""));
            assert!(cast.finish_time.is_some());
        }
    }
}

#[tokio::test]
async fn most_of_a_fleet_gets_one_broadcast_and_who_has_its_own_arguments_a_cast() {
    let mut agents: Vec<_> = [1, 2, 3, 5, 6, 7, 8, 9, 12].map(to).into();
    for agent in [4, 10] {
        agents.push(Addressee { args: Some(object(json!({"entities": [agent]}))), ..to(agent) });
    }
    let (told, casts) = deliver(&letter(), &agents, 18, |_| Ok(())).await;
    let numbers: Vec<_> = told.iter().map(|(agent, _)| *agent).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12], "in order of their numbers");
    assert!(told.iter().all(|(_, sent)| *sent == Sent::Yes));
    let (broadcasts, singles): (Vec<_>, Vec<_>) = casts.into_iter().partition(is_broadcast);
    let [broadcast] = broadcasts.as_slice() else { panic!("{broadcasts:?}") };
    assert_eq!(broadcast.agents, "1-3,5-9,12");
    assert_eq!(broadcast.target, Some(everyone("game")));
    assert_eq!((broadcast.message_id.as_str(), broadcast.request_id.as_str()), (REQUEST, REQUEST));
    assert_eq!(struct_to_json("args", broadcast.args.as_ref()).unwrap(), object(json!({"n": 1})));
    let mut own: Vec<_> = singles
        .iter()
        .map(|cast| struct_to_json("args", cast.args.as_ref()).unwrap()["entities"][0].clone())
        .collect();
    own.sort_by_key(serde_json::Value::as_u64);
    assert_eq!(own, [json!(4), json!(10)]);
}

#[tokio::test]
async fn a_broadcast_that_ends_badly_is_told_or_repeated_to_each() {
    let agents: Vec<_> = (1..=10).map(to).collect();
    for (reason, repeated) in [
        (Reason::BrokerUnavailable, false),
        (Reason::RateLimited, false),
        (Reason::TooLarge, false),
        (Reason::InvalidArgument, false),
        (Reason::QueueNotFound, true),
        (Reason::QueueFull, true),
        (Reason::OutcomeUnknown, true),
        (Reason::Internal, true),
    ] {
        let (told, casts) = deliver(&letter(), &agents, 10, |cast| {
            if is_broadcast(cast) { Err(error(reason)) } else { Ok(()) }
        })
        .await;
        assert_eq!(casts.len(), if repeated { 11 } else { 1 }, "{reason}");
        assert!(casts.iter().all(|cast| cast.message_id == REQUEST), "{reason}");
        let expected = if repeated { Sent::Yes } else { Sent::No(error(reason)) };
        assert!(told.iter().all(|(_, sent)| *sent == expected), "{reason}: {told:?}");
    }
}

#[tokio::test]
async fn after_a_doubtful_broadcast_nothing_counts_as_not_sent() {
    let agents: Vec<_> = (1..=10).map(to).collect();
    let (told, _) = deliver(&letter(), &agents, 10, |cast| {
        let host = cast.target.as_ref().unwrap().host.clone();
        Err(error(match host.as_str() {
            "" | "h1" => Reason::QueueFull,
            "h2" => Reason::QueueNotFound,
            _ => Reason::BrokerUnavailable,
        }))
    })
    .await;
    for (agent, sent) in told {
        match (agent, sent) {
            (2, Sent::No(error)) => assert_eq!(error.reason, Reason::QueueNotFound),
            (1 | 3.., Sent::Unknown(error)) => {
                assert_eq!(error.reason, Reason::OutcomeUnknown);
                assert_eq!(error.metadata["message_id"], REQUEST);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_broker_that_is_away_is_not_asked_for_each() {
    let agents: Vec<_> = (1..=1000).map(to).collect();
    let away = error(Reason::BrokerUnavailable);
    let (told, casts) = deliver(&letter(), &agents, 10_000, |_| Err(away.clone())).await;
    assert!(casts.len() <= AT_A_TIME, "{}", casts.len());
    assert_eq!(told.len(), 1000);
    assert!(told.iter().all(|(_, sent)| *sent == Sent::No(away.clone())));
}

#[tokio::test]
async fn ranges_that_fit_no_header_are_sent_one_by_one() {
    let agents: Vec<_> = (0..1500).map(|n| to(10_000 + 2 * n)).collect();
    let (told, casts) = deliver(&letter(), &agents, 1500, |_| Ok(())).await;
    assert_eq!((told.len(), casts.len()), (1500, 1500));
    assert!(!casts.iter().any(is_broadcast));
}

#[tokio::test]
async fn nothing_is_begun_when_it_is_too_late_or_the_manager_stops() {
    for agents in [5, 50] {
        let agents: Vec<_> = (1..=agents).map(to).collect();
        let late = Letter { finish_time: now_millis(), ..letter() };
        let (told, casts) = deliver(&late, &agents, 50, |_| Ok(())).await;
        assert_eq!(casts.len(), 0);
        for (_, sent) in &told {
            assert!(matches!(sent, Sent::No(e) if e.reason == Reason::OverFinishtime), "{sent:?}");
        }

        let letter = letter();
        let post = Post {
            letter: &letter,
            to: &agents,
            fleet: 50,
            began: Instant::now(),
            stopping: || true,
            send: |_: CastRequest| async { Ok(()) },
        };
        let told = post.deliver(all_ways(&agents)).await;
        assert_eq!(told.len(), agents.len());
        for (_, sent) in &told {
            assert!(matches!(sent, Sent::No(e) if e.reason == Reason::Unavailable), "{sent:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_bridge_gets_so_many_at_a_time_and_the_rest_waits_for_another_try() {
    let agents: Vec<_> = (1..=200).map(to).collect();
    let letter = letter();
    let (now, most) = (&Cell::new(0_usize), &Cell::new(0_usize));
    let post = Post {
        letter: &letter,
        to: &agents,
        fleet: 1000,
        began: Instant::now(),
        stopping: || false,
        send: |_: CastRequest| async move {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            tokio::time::sleep(PATIENCE + Duration::from_secs(1)).await;
            now.set(now.get() - 1);
            Ok(())
        },
    };
    let told = post.deliver(all_ways(&agents)).await;
    assert_eq!(most.get(), AT_A_TIME);
    let (sent, left): (Vec<_>, Vec<_>) = told.into_iter().partition(|(_, sent)| *sent == Sent::Yes);
    assert_eq!((sent.len(), left.len()), (AT_A_TIME, 200 - AT_A_TIME));
    for (_, sent) in left {
        let Sent::No(error) = sent else { panic!("{sent:?}") };
        assert_eq!(error.reason, Reason::BrokerUnavailable);
        assert!(error.retry_after.is_some());
    }
}

#[tokio::test]
async fn a_record_says_who_can_be_broadcast_to() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(Options::new(folder.path())).unwrap();
    let db = Db::new(Arc::new(store.clone()));
    let mut tx = db.begin();
    let put = |tx: &mut Tx, id| {
        let name = if id == 4 { "db" } else { "game" };
        let record =
            AgentRecord { id, deleted: id == 2, reserved: id == 3, ..AgentRecord::default() };
        tx.put(keys::agent(id), &record);
        if !record.deleted {
            tx.mark(keys::endpoint_on(name, id));
        }
    };
    for id in (1..=12).filter(|&id| id != 7) {
        put(&mut tx, id);
    }
    tx.put(keys::queue_job(5), &QueueJob::default());
    assert!(tx.commit().await.unwrap());

    let mut agents: Vec<_> = (1..=12).map(to).collect();
    agents[5].args = Some(JsonObject::new());
    let look = async |letter: &Letter| {
        let (ways, fleet) = ways(&db, letter, &agents).await.unwrap();
        let way = |way: &Way| match way {
            Way::None(error) => error.reason.as_str(),
            Way::Single => "single",
            Way::Any => "any",
        };
        (ways.iter().map(way).collect::<Vec<_>>(), fleet)
    };
    let gone = "QUEUE_NOT_FOUND";
    let game = [
        "any", gone, "single", "single", "single", "single", gone, "any", "any", "any", "any",
        "any",
    ];
    assert_eq!(look(&letter()).await, (game.to_vec(), 9));
    let mut own = game;
    own[3] = "any";
    let manager = Letter { namespace: MANAGER_NAMESPACE.to_owned(), ..letter() };
    assert_eq!(look(&manager).await, (own.to_vec(), 10), "their own methods reach all of them");

    let mut tx = db.begin();
    for id in 13..=29 {
        put(&mut tx, id);
    }
    assert!(tx.commit().await.unwrap());
    let mut few = ["single"; 12];
    (few[1], few[6]) = (gone, gone);
    assert_eq!(look(&letter()).await, (few.to_vec(), 26), "a broadcast is not thought of");
    drop(db);
    store.close().await;
}

/// What a broker does with one publish: whether it answers that it has it, and for which of the
/// queues that the message is for it is true.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Taken,
    Lost { reached: u64 },
    Full { reached: u64 },
    Away,
    Busy,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Taken),
        1 => any::<u64>().prop_map(|reached| Fate::Lost { reached }),
        1 => any::<u64>().prop_map(|reached| Fate::Full { reached }),
        1 => Just(Fate::Away),
        1 => Just(Fate::Busy),
    ]
}

proptest! {
    /// Whatever the broker does: each agent is told of once; who is told to have it has it, and
    /// who is told not to have it has it not.
    #[test]
    fn what_is_told_is_true(
        agents in prop::collection::btree_map(1_u32..100, (any::<bool>(), any::<bool>()), 0..40),
        fleet in 0_usize..80,
        fates in prop::collection::vec(fate(), 41),
    ) {
        let addressees: Vec<_> = agents
            .iter()
            .map(|(&agent, &(own, _))| Addressee {
                args: own.then(JsonObject::new),
                ..to(agent)
            })
            .collect();
        let queues: Vec<u32> =
            agents.iter().filter(|(_, (_, queue))| *queue).map(|(&agent, _)| agent).collect();
        let (has, next) = (RefCell::new(BTreeSet::new()), Cell::new(0_usize));
        let broker = |cast: &CastRequest| {
            let fate = fates[next.replace(next.get() + 1)];
            let target = cast.target.as_ref().unwrap();
            let meant: Vec<u32> = if target.fanout {
                // Every queue gets a broadcast; those that it does not name do not count.
                let agents = Ranges::parse("agents", &cast.agents).unwrap();
                queues.iter().copied().filter(|&agent| agents.contains(agent)).collect()
            } else {
                queues.iter().copied().filter(|&agent| host(agent) == target.host).collect()
            };
            let reach = |reached: u64| {
                let got = meant.iter().copied().filter(|agent| reached >> (agent % 64) & 1 == 1);
                has.borrow_mut().extend(got);
            };
            match fate {
                Fate::Away => Err(error(Reason::BrokerUnavailable)),
                Fate::Busy => Err(error(Reason::RateLimited)),
                Fate::Lost { reached } => {
                    reach(reached);
                    Err(error(Reason::OutcomeUnknown))
                }
                _ if meant.is_empty() => Err(error(Reason::QueueNotFound)),
                Fate::Full { reached } => {
                    // One queue that is full has not got it.
                    reach(if target.fanout { reached } else { 0 });
                    Err(error(Reason::QueueFull))
                }
                Fate::Taken => {
                    reach(u64::MAX);
                    Ok(())
                }
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (told, casts) =
            runtime.block_on(deliver(&letter(), &addressees, fleet, broker));
        prop_assert!(casts.len() <= addressees.len() + 1);
        let numbers: Vec<_> = told.iter().map(|(agent, _)| *agent).collect();
        prop_assert_eq!(numbers, agents.keys().copied().collect::<Vec<_>>());
        let has = has.into_inner();
        for (agent, sent) in told {
            match sent {
                // A broadcast that was taken says nothing of those without a queue.
                Sent::Yes => prop_assert!(has.contains(&agent) || !queues.contains(&agent)),
                Sent::No(error) => {
                    prop_assert!(!has.contains(&agent), "{agent} has it, but: {error}");
                }
                Sent::Unknown(error) => prop_assert_eq!(error.reason, Reason::OutcomeUnknown),
            }
        }
    }
}
