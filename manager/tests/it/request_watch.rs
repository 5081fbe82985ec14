//! The stream of a request: ordered, without gap and without duplicate, wherever it is cut and
//! whatever ends meanwhile.

use std::time::Duration;

use goperation::{Error, Reason, v1::*};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    harness::{Manager, answer, until},
    request_fleet::*,
};

const AGENTS: i32 = 24;
/// They answer when they have been given up already.
const LATE: i32 = 6;

/// What all agents say to a request, each in its order, all of them mixed.
fn words(id: &str, random: &mut StdRng) -> Vec<RespondRequest> {
    let mut all: Vec<_> = (LATE + 1..=AGENTS).flat_map(|agent| [agent; 3]).collect();
    all.shuffle(random);
    let mut said = vec![0; usize::try_from(AGENTS).unwrap() + 1];
    let mut words = Vec::new();
    for agent in all {
        let step = &mut said[usize::try_from(agent).unwrap()];
        let state = match *step {
            0 => ResponseState::Accepted,
            1 => ResponseState::Running,
            _ if agent % 5 == 0 => ResponseState::Failed,
            _ => ResponseState::Succeeded,
        };
        *step += 1;
        words.push(word(id, agent, state));
    }
    words
}

/// Says it all, gives the late ones up somewhere in the middle, and lets them answer at the end.
async fn play(
    mut client: request_service_client::RequestServiceClient<tonic::transport::Channel>,
    id: String,
    words: Vec<RespondRequest>,
) {
    let half = words.len() / 2;
    for (i, word) in words.into_iter().enumerate() {
        if i == half {
            let agents = format!("1-{LATE}");
            client.overtime(OvertimeRequest { id: id.clone(), agents }).await.unwrap();
        }
        assert!(client.respond(word).await.unwrap().into_inner().taken);
    }
    for agent in 1..=LATE {
        let late = word(&id, agent, ResponseState::Succeeded);
        assert!(client.respond(late).await.unwrap().into_inner().taken);
    }
}

/// Whether every late answer is among the events.
fn is_all(events: &[WatchRequestResponse]) -> bool {
    let late = events.iter().filter_map(of_agent).filter(|event| event.late).count();
    late == usize::try_from(LATE).unwrap()
}

/// The last event of each agent says what its row says.
async fn is_what_the_rows_say(manager: &Manager, id: &str, events: &[WatchRequestResponse]) {
    let rows = rows(manager, id, "").await.unwrap();
    assert_eq!(rows.len(), usize::try_from(AGENTS).unwrap());
    for row in rows {
        let last = events.iter().rev().filter_map(of_agent).find(|e| e.agent_id == row.agent_id);
        let last = last.unwrap();
        assert_eq!(
            (last.state, last.resultcode, last.late, &last.reason, &last.result, last.batch),
            (row.state, row.resultcode, row.late, &row.reason, &row.result, row.batch),
            "agent {}",
            row.agent_id
        );
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_anywhere_is_joined_without_gap() {
    let manager = Manager::start().await;
    fleet(&manager, AGENTS).await;
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let id = create(&manager, asked()).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT", usize::try_from(AGENTS).unwrap()).await;
    let playing = tokio::spawn(play(manager.requests(), id.clone(), words(&id, &mut random)));

    let mut joined: Vec<WatchRequestResponse> = Vec::new();
    let mut cuts = 0;
    while !is_all(&joined) {
        let cursor = joined.last().map(|event| event.cursor.clone()).unwrap_or_default();
        let mut stream = watch(&manager, &id, &cursor, true).await.unwrap();
        for _ in 0..random.random_range(0..3) {
            if is_all(&joined) {
                break;
            }
            joined.push(next(&mut stream).await.unwrap().unwrap());
        }
        cuts += 1;
    }
    playing.await.unwrap();
    assert!(cuts >= 50, "{cuts}");

    let mut whole = Vec::new();
    let mut stream = watch(&manager, &id, "", true).await.unwrap();
    while !is_all(&whole) {
        whole.push(next(&mut stream).await.unwrap().unwrap());
    }
    assert_eq!(joined, whole);
    // From any cursor on it is the rest.
    for _ in 0..10 {
        let at = random.random_range(0..whole.len() - 1);
        let mut stream = watch(&manager, &id, &whole[at].cursor, true).await.unwrap();
        for event in &whole[at + 1..] {
            assert_eq!(&next(&mut stream).await.unwrap().unwrap(), event);
        }
    }
    is_what_the_rows_say(&manager, &id, &whole).await;
    let summaries: Vec<_> = whole.iter().filter_map(summary).collect();
    let [end] = summaries.as_slice() else { panic!("{summaries:?}") };
    let counts = end.counts.unwrap();
    assert_eq!((counts.agents, counts.silent, counts.late), (AGENTS, LATE, 0));
    // Late answers are after the summary, and only a stream that follows has them.
    let plain = all_events(&manager, &id).await;
    assert!(summary(plain.last().unwrap()).is_some());
    assert_eq!(plain, whole[..plain.len()]);
    assert!(whole[plain.len()..].iter().filter_map(of_agent).all(|event| event.late));
    // Who has seen the summary has seen all, unless it follows.
    let mut after = watch(&manager, &id, &plain.last().unwrap().cursor, false).await.unwrap();
    assert_eq!(next(&mut after).await.unwrap(), None);
}

#[tokio::test]
async fn a_stream_goes_on_where_a_dead_manager_left_it() {
    let mut manager = Manager::start().await;
    fleet(&manager, AGENTS).await;
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let id = create(&manager, asked()).await.unwrap().id;
    let mut joined: Vec<WatchRequestResponse> = Vec::new();
    let all = words(&id, &mut random);
    let each = all.len().div_ceil(6);
    until_rows(&manager, &id, "state = SENT", usize::try_from(AGENTS).unwrap()).await;
    for part in all.chunks(each) {
        let (mut client, part) = (manager.requests(), part.to_vec());
        let cursor = joined.last().map(|event| event.cursor.clone()).unwrap_or_default();
        let mut stream = watch(&manager, &id, &cursor, true).await.unwrap();
        let saying = tokio::spawn(async move {
            // An agent repeats what was not answered; here nobody does, so some get lost.
            for word in part {
                if client.respond(word).await.is_err() {
                    return;
                }
            }
        });
        for _ in 0..random.random_range(0..each) {
            joined.push(next(&mut stream).await.unwrap().unwrap());
            if summary(joined.last().unwrap()).is_some() {
                break;
            }
        }
        manager = manager.crash().await;
        saying.await.unwrap();
        online(&manager, AGENTS).await;
    }
    // What some of them have said was lost with a manager.
    overtime(&manager, &id, "").await.unwrap();
    let cursor = joined.last().map(|event| event.cursor.clone()).unwrap_or_default();
    let mut stream = watch(&manager, &id, &cursor, false).await.unwrap();
    while let Some(event) = next(&mut stream).await.unwrap() {
        joined.push(event);
    }
    assert_eq!(joined, all_events(&manager, &id).await);
    is_what_the_rows_say(&manager, &id, &joined).await;
}

#[tokio::test]
async fn a_cursor_is_of_its_request_only() {
    let manager = Manager::start().await;
    fleet(&manager, 1).await;
    let first = create(&manager, asked()).await.unwrap().id;
    let second = create(&manager, asked()).await.unwrap().id;
    overtime(&manager, &first, "").await.unwrap();
    let cursor = all_events(&manager, &first).await.last().unwrap().cursor.clone();
    let beyond = format!("ffff.{}", cursor.split_once('.').unwrap().1);
    for (id, cursor) in [(&second, &cursor), (&first, &beyond), (&first, &"7".to_owned())] {
        let error = watch(&manager, id, cursor, false).await.unwrap_err();
        assert_eq!(error.violations[0].field, "cursor", "{cursor}");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_manager_and_with_its_request() {
    let mut manager = Manager::start().await;
    fleet(&manager, 1).await;
    let id = create(&manager, asked()).await.unwrap().id;
    let mut stream = watch(&manager, &id, "", false).await.unwrap();
    let first = next(&mut stream).await.unwrap().unwrap();
    manager.shutdown();
    let error = loop {
        match next(&mut stream).await {
            Ok(event) => assert!(event.is_some(), "it must not look like the end"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason, Reason::Unavailable);
    manager.wait_end().await.unwrap();

    manager = manager.crash().await;
    online(&manager, 1).await;
    overtime(&manager, &id, "").await.unwrap();
    let mut stream = watch(&manager, &id, &first.cursor, true).await.unwrap();
    while summary(&next(&mut stream).await.unwrap().unwrap()).is_none() {}
    let delete = DeleteRequestRequest { id: id.clone() };
    answer(manager.requests().delete_request(delete).await).unwrap();
    let error = next(&mut stream).await.unwrap_err();
    assert_eq!(error.reason, Reason::RequestNotFound);
}

#[tokio::test]
async fn many_watch_and_each_sees_all() {
    let manager = Manager::start().await;
    fleet(&manager, AGENTS).await;
    let id = create(&manager, asked()).await.unwrap().id;
    let mut watchers = Vec::new();
    for _ in 0..20 {
        let mut stream = watch(&manager, &id, "", false).await.unwrap();
        watchers.push(tokio::spawn(async move {
            let mut events = Vec::new();
            while let Some(event) = next(&mut stream).await.unwrap() {
                events.push(event);
            }
            events
        }));
    }
    until_rows(&manager, &id, "state = SENT", usize::try_from(AGENTS).unwrap()).await;
    for agent in 1..=AGENTS {
        succeed(&manager, &id, agent).await;
    }
    let expected = all_events(&manager, &id).await;
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), expected);
    }
}

#[tokio::test]
async fn no_more_watch_than_may() {
    let manager = Manager::with(|config| config.requests.max_watches = 2).await;
    fleet(&manager, 1).await;
    let id = create(&manager, asked()).await.unwrap().id;
    let first = watch(&manager, &id, "", true).await.unwrap();
    let _second = watch(&manager, &id, "", true).await.unwrap();
    let error = watch(&manager, &id, "", true).await.unwrap_err();
    assert_eq!(error.reason, Reason::RateLimited);
    drop(first);
    until("there is room again", || async { watch(&manager, &id, "", false).await.is_ok() }).await;
}

/// What a GET is answered until the connection ends.
async fn get(manager: &Manager, path: &str) -> String {
    let mut stream = TcpStream::connect(manager.address()).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let all = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn over_rest_it_is_one_line_for_each_event() {
    let manager = Manager::start().await;
    fleet(&manager, 1).await;
    let id = create(&manager, asked()).await.unwrap().id;
    until_rows(&manager, &id, "state = SENT", 1).await;
    succeed(&manager, &id, 1).await;
    let events = all_events(&manager, &id).await;
    let answer = get(&manager, &format!("/v1/requests/{id}:watch")).await;
    for event in &events {
        assert!(answer.contains(&format!("\"cursor\":\"{}\"", event.cursor)), "{answer}");
    }
    assert_eq!(answer.matches("{\"result\":").count(), events.len(), "{answer}");
    let rest = get(&manager, &format!("/v1/requests/{id}:watch?cursor={}", events[0].cursor)).await;
    assert_eq!(rest.matches("{\"result\":").count(), events.len() - 1, "{rest}");
    let shown = get(&manager, &format!("/v1/requests/{id}")).await;
    assert!(shown.contains("REQUEST_STATE_FINISHED"), "{shown}");
}

#[tokio::test]
async fn a_watcher_may_come_before_anything_happens() {
    let manager = Manager::start().await;
    fleet(&manager, 1).await;
    // Nobody takes the message for a while.
    manager.fake.take_casts(|_| Err(Error::new(Reason::BrokerUnavailable, "scripted")));
    let id = create(&manager, asked()).await.unwrap().id;
    let mut stream = watch(&manager, &id, "", false).await.unwrap();
    let began = next(&mut stream).await.unwrap().unwrap();
    assert!(of_agent(&began).is_none());
    until("it was tried", || async { manager.fake.look(|seen| !seen.casts.is_empty()) }).await;
    manager.fake.take_casts(|_| Ok(()));
    let sent = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(of_agent(&sent).unwrap().state(), ResponseState::Sent);
}
