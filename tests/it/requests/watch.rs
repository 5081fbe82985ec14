//! Watches that are cut and taken up again (contract §8): the parts of a stream, by whichever way
//! each came, are the stream, and it is what the record says.

use std::{collections::BTreeSet, net::SocketAddr};

use futures::future::join_all;
use goperation::v1::{self, ResponseState, request_service_client::RequestServiceClient};
use goperation_emulator::Conduct;
use goperation_harness::{TcpRelay, poll_for};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::index};
use serde_json::json;
use tokio::{sync::watch, time::timeout};
use tonic::{Streaming, transport::Channel};

use super::{
    rest::{Form, Frames, Rest},
    stage::{END, adds_up, is_in_order, is_what_the_rows_say, of_agent, seconds, summary, work},
};
use crate::{emulation::Emulation, procs::Site};

const AGENTS: usize = 60;
const REQUESTS: usize = 4;
/// Of each request, before every agent has answered or was given up.
const CUTS: usize = 25;
/// The seed, unless the environment variable names another one.
const SEED: u64 = 0x7761_7463_6865_6421;
const SEED_ENV: &str = "GOP_TEST_SEED";

type Event = v1::WatchRequestResponse;

/// A stream of events by any way.
enum Stream {
    Grpc(Box<Streaming<Event>>),
    Rest(Box<Frames>),
}

impl Stream {
    /// The next event, or nothing when it was broken off. The manager itself never breaks it off
    /// with an error of its own here.
    async fn next(&mut self) -> Option<Event> {
        let next = async {
            match self {
                Self::Grpc(stream) => match stream.message().await {
                    Ok(event) => Some(event.expect("it goes on as long as it is followed")),
                    Err(status) if status.details().is_empty() => None,
                    Err(status) => panic!("{status:?}"),
                },
                Self::Rest(frames) => {
                    let event = frames.next().await.ok()?;
                    Some(event.expect("it goes on as long as it is followed"))
                }
            }
        };
        timeout(END, next).await.expect("an event comes in time")
    }
}

/// One who watches a request to its end, cut again and again.
struct Watcher {
    id: String,
    relay: TcpRelay,
    rng: StdRng,
    stream: Option<Stream>,
    events: Vec<Event>,
    cuts: usize,
    /// Told how many events have come, to whoever kills the manager.
    progress: watch::Sender<Progress>,
}

/// How far all watchers are.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    events: usize,
    summaries: usize,
}

impl Watcher {
    async fn new(site: &Site, id: &str, seed: u64, progress: &watch::Sender<Progress>) -> Self {
        let manager: SocketAddr = site.url().trim_start_matches("http://").parse().unwrap();
        Self {
            id: id.to_owned(),
            relay: TcpRelay::start(manager).await,
            rng: StdRng::seed_from_u64(seed),
            stream: None,
            events: Vec::new(),
            cuts: 0,
            progress: progress.clone(),
        }
    }

    /// Goes on from the last event, by a way of its own each time, also while there is no manager.
    async fn open(&mut self) -> Stream {
        let cursor = self.events.last().map(|event| event.cursor.clone()).unwrap_or_default();
        let address = format!("http://{}", self.relay.addr());
        let form = [None, Some(Form::Lines), Some(Form::Events)][self.rng.random_range(0..3)];
        poll_for(END, "the watch goes on", async || match form {
            None => {
                let channel = Channel::from_shared(address.clone()).unwrap().connect_lazy();
                let (id, cursor) = (self.id.clone(), cursor.clone());
                let request = v1::WatchRequestRequest { id, cursor, follow: true };
                match RequestServiceClient::new(channel).watch_request(request).await {
                    Ok(stream) => Some(Stream::Grpc(Box::new(stream.into_inner()))),
                    Err(status) if status.details().is_empty() => None,
                    Err(status) => panic!("{status:?}"),
                }
            }
            Some(form) => {
                let rest = Rest::new(&address);
                let frames = rest.watch(&self.id, &cursor, true, form).await.ok()?;
                Some(Stream::Rest(Box::new(frames.unwrap_or_else(|bad| panic!("{bad:?}")))))
            }
        })
        .await
    }

    /// Takes an event if the stream has one; without one it was cut.
    async fn take(&mut self) -> bool {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open().await,
        };
        let Some(event) = stream.next().await else {
            self.cuts += 1;
            return false;
        };
        self.stream = Some(stream);
        let summaries = usize::from(summary(&event).is_some());
        self.progress.send_modify(|progress| {
            progress.events += 1;
            progress.summaries += summaries;
        });
        self.events.push(event);
        true
    }

    /// Reads on until that holds, however often it is cut.
    async fn until(&mut self, done: impl Fn(&[Event]) -> bool) {
        while !done(&self.events) {
            self.take().await;
        }
    }

    /// Cuts the stream: leaves it, or has the connection cut in the middle of what comes.
    async fn cut(&mut self) {
        if self.stream.is_none() {
            self.stream = Some(self.open().await);
        }
        if self.rng.random() {
            self.stream = None;
            self.cuts += 1;
        } else {
            self.relay.cut();
            // What was under way may still come.
            while self.take().await {}
        }
    }

    /// Watches until something has come late, and is cut before, between and after.
    async fn run(mut self) -> Self {
        // Each agent is sent to, and then answers or is given up.
        let mut points = index::sample(&mut self.rng, 2 * AGENTS, CUTS).into_vec();
        points.sort_unstable();
        for point in points {
            self.until(|events| events.len() >= point).await;
            self.cut().await;
        }
        self.until(|events| events.iter().any(|event| summary(event).is_some())).await;
        self.cut().await;
        self.until(|events| events.iter().filter_map(of_agent).any(|agent| agent.late)).await;
        self.cut().await;
        self
    }
}

/// Numbers of the agents that have answered.
fn answered(events: &[Event]) -> BTreeSet<u32> {
    let answer = |agent: &&v1::AgentEvent| {
        matches!(agent.state(), ResponseState::Succeeded | ResponseState::Failed)
    };
    let answers = events.iter().filter_map(of_agent).filter(answer);
    answers.map(|agent| agent.agent_id.unsigned_abs()).collect()
}

/// Every event of a request, from the beginning, by one stream.
async fn uncut(site: &Site, id: &str, count: usize) -> Vec<Event> {
    let mut stream = site.watch(id, "", true).await.unwrap();
    let mut events = Vec::new();
    while events.len() < count {
        let event = timeout(END, stream.message()).await.expect("in time").unwrap();
        events.push(event.expect("it goes on as long as it is followed"));
    }
    events
}

/// What a stream that is cut at random points says, also while the manager is killed.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_stream_that_was_cut_a_hundred_times_is_the_record() {
    let seed = std::env::var(SEED_ENV).ok().and_then(|s| s.parse().ok()).unwrap_or(SEED);
    println!("seed {seed}: {SEED_ENV}={seed} repeats it");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut site = Site::start().await;
    let agents = AGENTS.to_string();
    let emulation = Emulation::of(
        &site,
        "emulation",
        &[
            "--agents",
            &agents,
            "--latency",
            "100ms",
            "--fail",
            "10%",
            "--silent",
            "10%",
            "--late",
            "10%",
            "--late-by",
            "17s",
        ],
    );
    let _agents = emulation.start().await;

    let wanted =
        || v1::CreateRequestRequest { finish_timeout: seconds(12), timeout: seconds(15), ..work() };
    let mut ids = Vec::new();
    for _ in 0..REQUESTS {
        ids.push(site.create_request(wanted()).await.unwrap().id);
    }
    let (progress, mut seen) = watch::channel(Progress::default());
    let mut watchers = Vec::new();
    for id in &ids {
        watchers.push(Watcher::new(&site, id, rng.random(), &progress).await);
    }
    let mut kills: Vec<_> = index::sample(&mut rng, 200, 3).into_vec();
    kills.sort_unstable();
    let kill = async {
        for at in kills {
            let far = seen.wait_for(|progress| progress.events >= at);
            timeout(END, far).await.expect("so many events").unwrap();
            site.kill_manager();
            site.start_manager().await;
        }
        // And once between the summaries and what comes late.
        let ended = seen.wait_for(|progress| progress.summaries == REQUESTS);
        timeout(END, ended).await.expect("all requests end").unwrap();
        site.kill_manager();
        site.start_manager().await;
    };
    let (watchers, ()) = tokio::join!(join_all(watchers.into_iter().map(Watcher::run)), kill);

    let mut cuts = 0;
    for mut watcher in watchers {
        let id = watcher.id.clone();
        // Whoever has had the effect and is not silent answers.
        let effects = emulation.effects(&id);
        let answering: BTreeSet<_> = effects
            .iter()
            .filter(|effect| effect.conduct != Conduct::Silent.name())
            .map(|effect| effect.agent)
            .collect();
        assert!(!answering.is_empty());
        watcher.until(|events| answered(events).is_superset(&answering)).await;
        let events = watcher.events;
        cuts += watcher.cuts;

        let again = uncut(&site, &id, events.len()).await;
        for (joined, uncut) in events.iter().zip(&again) {
            assert_eq!(joined, uncut);
        }
        let (request, rows) = (site.show_request(&id).await.unwrap(), site.responses(&id).await);
        assert_eq!(rows.len(), AGENTS);
        is_in_order(&events);
        is_what_the_rows_say(&events, &rows);
        adds_up(&request, &rows);
        println!("{id}: {} events, {} cuts, {:?}", events.len(), watcher.cuts, request.counts);
    }
    assert!(cuts >= 100, "{cuts} cuts");
    site.stop().await;
}

/// Every event up to the summary by REST, or all from a cursor on up to it.
async fn by_rest(rest: &Rest, id: &str, cursor: &str, form: Form) -> Vec<Event> {
    all(rest.watch(id, cursor, false, form).await.unwrap().unwrap()).await
}

async fn all(mut frames: Frames) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = timeout(END, frames.next()).await.expect("in time").unwrap() {
        events.push(event);
    }
    events
}

/// Lines, Server-Sent Events and gRPC say the same, while it happens and after.
#[tokio::test(flavor = "multi_thread")]
async fn by_rest_a_stream_says_what_it_says_by_grpc() {
    let site = Site::start().await;
    let args = ["--agents", "12", "--latency", "200ms", "--fail", "3", "--silent", "1"];
    let emulation = Emulation::of(&site, "emulation", &args);
    let _agents = emulation.start().await;
    let rest = Rest::new(&site.url());
    let wanted = v1::CreateRequestRequest {
        finish_timeout: seconds(5),
        timeout: seconds(8),
        rollout: Some(v1::Rollout { batch: "5".to_owned(), ..v1::Rollout::default() }),
        ..work()
    };
    let id = site.create_request(wanted).await.unwrap().id;
    let (grpc, lines, events) = tokio::join!(
        site.events(&id),
        by_rest(&rest, &id, "", Form::Lines),
        by_rest(&rest, &id, "", Form::Events),
    );
    is_in_order(&grpc);
    is_what_the_rows_say(&grpc, &site.responses(&id).await);
    assert!(grpc.iter().any(|event| summary(event).is_some()));
    assert_eq!(grpc, lines);
    assert_eq!(grpc, events);
    for form in [Form::Lines, Form::Events] {
        for (at, event) in grpc.iter().enumerate() {
            if form == Form::Events && at + 1 == grpc.len() {
                // A reader of events comes back until it is told not to.
                let end = rest.watch(&id, &event.cursor, false, form).await.unwrap();
                assert_eq!(end.unwrap_err(), (204, serde_json::Value::Null));
                continue;
            }
            assert_eq!(by_rest(&rest, &id, &event.cursor, form).await, grpc[at + 1..]);
        }
        let (status, body) = rest.watch(&id, "7.not", false, form).await.unwrap().unwrap_err();
        assert_eq!((status, &body["details"][0]["reason"]), (400, &json!("INVALID_ARGUMENT")));
        let other = "0192f3a1-7c5e-7d10-8a33-0c6f1f5b2e77";
        let (status, body) = rest.watch(other, "", false, form).await.unwrap().unwrap_err();
        assert_eq!((status, &body["details"][0]["reason"]), (404, &json!("REQUEST_NOT_FOUND")));
    }
    // A browser comes back by the address of its first try; what it has seen is newer.
    for first in ["", grpc[0].cursor.as_str()] {
        for (at, event) in grpc.iter().enumerate().take(grpc.len() - 1) {
            let frames = rest.come_back(&id, first, &event.cursor).await.unwrap();
            assert_eq!(all(frames).await, grpc[at + 1..]);
        }
        let last = &grpc.last().unwrap().cursor;
        let (status, body) = rest.come_back(&id, first, last).await.unwrap_err();
        assert_eq!((status, body), (204, serde_json::Value::Null), "it is to come back no more");
        let (status, body) = rest.come_back(&id, first, "7.not").await.unwrap_err();
        assert_eq!((status, &body["details"][0]["reason"]), (400, &json!("INVALID_ARGUMENT")));
    }
    site.stop().await;
}
