//! One round: ten requests, a kill, a start, and what must hold then.

use std::{cell::RefCell, sync::Arc};

use futures::future::join_all;
use goperation::{from_timestamp, now_millis, v1};
use goperation_emulator::{CHANGING, IDEMPOTENT};
use goperation_harness::poll_for;
use rand::{RngExt as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::{sync::watch, time::timeout};

use super::{
    AGENTS, END, PROCESSES, Stage, process_of,
    streams::{Watched, up_to},
    truth::{Effects, Rows, unsettled},
};
use crate::requests::stage::{adds_up, is_in_order, is_what_the_rows_say, of_agent, seconds, work};

/// What the manager may take on a busy machine to write that a deadline has passed.
const NOTICE: u64 = 1_000;
/// When a request ends at the latest after the manager's return.
const RETURN: u64 = 2_000;

/// A request that has ended, all of one moment.
struct Settled {
    request: v1::Request,
    rows: Rows,
    effects: Effects,
    /// What the stream has said, over the restarts.
    joined: Vec<v1::WatchRequestResponse>,
}

/// A request that ran.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) id: String,
    pub(super) method: String,
    /// The process of agents that was killed.
    pub(super) victim: u32,
}

/// What a kill has met.
#[derive(Debug, Default)]
pub(super) struct Met {
    /// Requests that had not ended.
    pub(super) open: usize,
    /// Answers that came after their agent was given up.
    pub(super) late: i32,
    /// Runs that were ended by it.
    pub(super) interrupted: usize,
    /// How long after the moment at which it may end at the earliest the last request ended.
    pub(super) slowest: u64,
}

/// For how long all that was killed stays away.
#[derive(Debug, Clone, Copy)]
pub(super) enum Away {
    /// Not at all.
    No,
    /// Until agents that live have done what they ran.
    UntilDone,
    /// Until the first deadline has passed.
    UntilDeadline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Manager,
    Bridge,
    Agents,
}

fn order(random: &mut StdRng) -> [Who; 3] {
    let mut order = [Who::Manager, Who::Bridge, Who::Agents];
    order.shuffle(random);
    order
}

/// Ten requests, to all and to some, at once and one batch after the other, with much time and
/// with little.
fn requests(random: &mut StdRng) -> Vec<v1::CreateRequestRequest> {
    let again = || v1::CreateRequestRequest { method: IDEMPOTENT.to_owned(), ..work() };
    let some =
        |agents: String| Some(v1::RequestSelection { agents, ..v1::RequestSelection::default() });
    let rollout = |batch: &str, canary: i32, max_parallel: i32| {
        Some(v1::Rollout {
            batch: batch.to_owned(),
            canary,
            max_parallel,
            ..v1::Rollout::default()
        })
    };
    let mut few = |count: usize| {
        let mut all: Vec<u32> = (1..=AGENTS).collect();
        all.shuffle(random);
        all[..count].iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    };
    let (seven, twelve, thirty, half) = (few(7), few(12), few(30), few(50));
    let long = |request: v1::CreateRequestRequest| v1::CreateRequestRequest {
        finish_timeout: seconds(20),
        timeout: seconds(30),
        ..request
    };
    let short = |request: v1::CreateRequestRequest| v1::CreateRequestRequest {
        finish_timeout: seconds(1),
        timeout: seconds(4),
        ..request
    };
    vec![
        long(work()),
        long(again()),
        long(v1::CreateRequestRequest { rollout: rollout("40%", 1, 0), ..work() }),
        long(v1::CreateRequestRequest { rollout: rollout("60", 0, 30), ..again() }),
        long(v1::CreateRequestRequest { on: some(half), ..work() }),
        long(v1::CreateRequestRequest { on: some(seven), ..work() }),
        long(v1::CreateRequestRequest { on: some(twelve), ..again() }),
        long(v1::CreateRequestRequest {
            namespace: "manager".to_owned(),
            method: "status_agent".to_owned(),
            ..work()
        }),
        short(work()),
        short(v1::CreateRequestRequest {
            on: some(thirty),
            rollout: rollout("50%", 0, 0),
            ..again()
        }),
    ]
}

impl Stage {
    /// Kills in the middle of ten requests.
    pub(super) async fn round(&mut self, number: usize) {
        let asked = requests(&mut self.random);
        let clients = self.site.clients();
        let made = join_all(asked.into_iter().map(|asked| clients.create_request(asked))).await;
        let made: Vec<v1::Request> = made.into_iter().map(Result::unwrap).collect();
        let agents: i32 = made.iter().map(|request| request.counts.unwrap().agents).sum();
        let told = Arc::new(watch::Sender::new(0));
        let watched: Vec<_> = made
            .iter()
            .map(|made| Watched::start(self.site.clients(), made.id.clone(), Arc::clone(&told)))
            .collect();

        // As many at least are told until all have ended.
        let moment = self.random.random_range(1..=usize::try_from(agents).unwrap());
        let victim = self.random.random_range(0..PROCESSES);
        let away = [Away::No, Away::No, Away::UntilDone, Away::UntilDeadline][number % 4];
        let (kills, starts) = (order(&mut self.random), order(&mut self.random));
        let reached = async { told.subscribe().wait_for(|told| *told >= moment).await.map(drop) };
        timeout(END, reached).await.expect("the moment of the kill").unwrap();
        for who in kills {
            match who {
                Who::Manager => self.site.kill_manager(),
                Who::Bridge => self.site.kill_bridge(),
                Who::Agents => self.processes[victim as usize].kill9(),
            }
        }
        let killed = now_millis();
        let open = watched.iter().filter(|watched| !watched.has_ended()).count();
        println!(
            "round {number}: {killed} kill {kills:?} at event {moment} of about {}, agents \
             {victim}, {open} open, away {away:?}, start {starts:?}",
            3 * agents
        );
        self.stay_away(away, victim, &made, &watched).await;
        self.start_again(victim, starts).await;

        let mut met = Met { open, ..Met::default() };
        for (made, watched) in made.iter().zip(&watched) {
            let ran = Ran { id: made.id.clone(), method: made.method.clone(), victim };
            let Settled { request, rows, effects, joined } = self.settled(&ran, watched).await;
            adds_up(&request, &rows);
            self.is_true(&ran, &rows, &effects);
            let late = self.ended_late(&request, killed);
            met.slowest = met.slowest.max(late.unwrap_or_else(|why| panic!("{why}: {request:?}")));
            met.late += request.counts.unwrap().late;
            let interrupted = rows.values().filter(|row| row.reason == "INTERRUPTED").count();
            met.interrupted += interrupted;
            let cursor = &joined.last().unwrap().cursor;
            let whole = up_to(&self.site, &ran.id, cursor).await;
            is_in_order(&whole);
            is_what_the_rows_say(&whole, &rows);
            assert_eq!(joined.len(), whole.len(), "{ran:?}");
            let cursors = |events: &[v1::WatchRequestResponse]| -> Vec<String> {
                events.iter().map(|event| event.cursor.clone()).collect()
            };
            assert_eq!(cursors(&joined), cursors(&whole), "{ran:?}");
            self.ran.push(ran);
        }
        println!("round {number}: took {} ms after the kill; {met:?}", now_millis() - killed);
        self.met.push(met);
    }

    async fn stay_away(&self, away: Away, victim: u32, made: &[v1::Request], watched: &[Watched]) {
        match away {
            Away::No => {}
            Away::UntilDone => {
                for (made, watched) in made.iter().zip(watched) {
                    if ![CHANGING, IDEMPOTENT].contains(&made.method.as_str()) {
                        continue;
                    }
                    let running: Vec<u32> = watched
                        .events()
                        .iter()
                        .filter_map(of_agent)
                        .filter(|event| event.state() == v1::ResponseState::Running)
                        .filter(|event| process_of(&event.host) != victim)
                        .map(|event| u32::try_from(event.agent_id).unwrap())
                        .collect();
                    let done = async || {
                        let effects = self.effects(&made.id);
                        running.iter().all(|agent| effects.contains_key(agent)).then_some(())
                    };
                    poll_for(END, "what runs is done while nobody asks", done).await;
                }
            }
            Away::UntilDeadline => {
                let first = made.iter().map(|made| from_timestamp(made.deadline.as_ref().unwrap()));
                let first = first.min().unwrap();
                let over = async || (now_millis() > first).then_some(());
                poll_for(END, "the first deadline", over).await;
            }
        }
    }

    async fn start_again(&mut self, victim: u32, starts: [Who; 3]) {
        let mut agents = None;
        for who in starts {
            match who {
                Who::Manager => {
                    self.site.start_manager().await;
                    self.back = now_millis();
                }
                Who::Bridge => self.site.start_bridge().await,
                // They are there when all is.
                Who::Agents => {
                    let emulation = Arc::clone(&self.emulations[victim as usize]);
                    agents = Some(tokio::spawn(async move { emulation.start().await }));
                }
            }
        }
        self.processes[victim as usize] = agents.unwrap().await.unwrap();
    }

    /// Waits until a request has ended, and every answer that an agent has for it has come.
    async fn settled(&self, ran: &Ran, watched: &Watched) -> Settled {
        let why = RefCell::new("it was not shown".to_owned());
        let look = async || {
            let before = self.site.show_request(&ran.id).await.ok()?;
            if before.end_time.is_none() {
                *why.borrow_mut() = format!("it has not ended: {before:?}");
                return None;
            }
            let effects = self.effects(&ran.id);
            let rows = self.site.responses(&ran.id).await;
            let events = watched.events().clone();
            let after = self.site.show_request(&ran.id).await.ok()?;
            if before.etag != after.etag {
                return None;
            }
            match unsettled(&events, &rows, &effects) {
                None => Some(Settled { request: after, rows, effects, joined: events }),
                Some(still) => {
                    *why.borrow_mut() = still;
                    None
                }
            }
        };
        let settled = poll_for(2 * END, "a settled request", look);
        match timeout(END, settled).await {
            Ok(settled) => settled,
            Err(_) => panic!("{ran:?} is not settled: {}", why.borrow()),
        }
    }

    /// How many milliseconds after its deadline and the manager's return it ended; an error when
    /// that is too late.
    ///
    /// The end is what the manager that wrote it says, against the moment at which the test saw that
    /// manager's line `ready`: one clock, and nothing that the test itself is slow in counts. Nor
    /// does what the disk was slow in.
    fn ended_late(&self, request: &v1::Request, killed: u64) -> Result<u64, String> {
        let time = |time: &Option<prost_types::Timestamp>| from_timestamp(time.as_ref().unwrap());
        let (end, deadline) = (time(&request.end_time), time(&request.deadline));
        let (earliest, latest) = if end < killed {
            (deadline, deadline + NOTICE)
        } else {
            (deadline.max(self.back), (deadline + NOTICE).max(self.back + RETURN))
        };
        let stalled = self.stalls.within((earliest, end));
        if end <= latest + stalled {
            Ok(end.saturating_sub(earliest))
        } else {
            Err(format!(
                "it ended {} ms after its deadline and {} ms after the manager's return, and the \
                 disk did not answer for {stalled} ms of that",
                end - deadline,
                end.saturating_sub(self.back)
            ))
        }
    }
}
