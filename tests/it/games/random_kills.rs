//! The agent is killed at random moments of whatever is done with its games: an entity never has
//! two processes, and after the restart the record is true.

use std::{
    cell::Cell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use goperation::{Error, Reason, v1};
use goperation_harness::poll_for;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use tokio::time::{sleep, timeout};

use super::{Hold, Stage, agent_dies::kill9};
use crate::{fleet::SOON, procs::AgentProcess};

const RUNS: usize = 200;
/// As many entities as there are at most.
const MOST: usize = 4;
/// The seed, unless the environment variable names another one.
const SEED: u64 = 0x6761_6d65_7320_2121;
const SEED_ENV: &str = "GOP_TEST_SEED";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Op {
    Create,
    Start,
    Stop,
    Restart,
    Delete,
}

const OPS: [Op; 5] = [Op::Create, Op::Start, Op::Restart, Op::Stop, Op::Delete];

/// The entities, by number, and the pids of those that run.
type Games = BTreeMap<i32, Option<u32>>;

struct Runs {
    stage: Stage,
    agent: AgentProcess,
    random: StdRng,
    games: Games,
    /// How often each was done.
    done: BTreeMap<Op, u32>,
    /// How long each takes when nobody is killed.
    takes: BTreeMap<Op, Duration>,
    /// How many were not answered when the kill came.
    met: u32,
    /// How each ended under a kill.
    outcomes: BTreeMap<(Op, String), u32>,
}

impl Runs {
    /// What has been done least of all that can be done now, and with which entity.
    fn next(&mut self) -> (Op, v1::Entity) {
        let suits = |op: Op, runs: Option<u32>| match op {
            Op::Create => false,
            Op::Start | Op::Delete => runs.is_none(),
            Op::Stop | Op::Restart => runs.is_some(),
        };
        let of = |op: Op| -> Vec<i32> {
            let suiting = self.games.iter().filter(|(_, runs)| suits(op, **runs));
            suiting.map(|(number, _)| *number).collect()
        };
        let possible = |op: &Op| match op {
            Op::Create => self.games.len() < MOST,
            op => !of(*op).is_empty(),
        };
        let times = |op: &Op| self.done.get(op).copied().unwrap_or(0);
        let least = OPS.iter().filter(|op| possible(op)).map(times).min().unwrap();
        let rare: Vec<Op> =
            OPS.into_iter().filter(|op| possible(op) && times(op) == least).collect();
        let op = *rare.choose(&mut self.random).unwrap();
        let number = of(op).choose(&mut self.random).copied().unwrap_or(0);
        let entity = v1::Entity { endpoint: "hold".to_owned(), number, ..v1::Entity::default() };
        *self.done.entry(op).or_default() += 1;
        (op, entity)
    }

    async fn run(&mut self, number: usize) {
        let (op, entity) = self.next();
        let late = self.takes[&op].mul_f64(self.random.random_range(0.0..1.2));
        let group = self.random.random_bool(0.5);
        let before = self.stage.starts(entity.number).len();
        let (stage, agent) = (&self.stage, &mut self.agent);
        let again = self.random.random_bool(0.3).then(|| self.random.random_range(0..400));
        let killed = Cell::new(false);
        let id = agent.id;
        let call = async {
            let began = Instant::now();
            let outcome = perform(stage, op, id, &entity).await;
            (outcome, (!killed.get()).then(|| began.elapsed()))
        };
        let ((outcome, missed), ()) = tokio::join!(call, async {
            // Not to wait for anything: it is the moment of the kill.
            sleep(late).await;
            killed.set(true);
            kill9(agent, group).await;
            if let Some(late) = again {
                // Dropped with its process, while that starts and adopts.
                let _killed = timeout(Duration::from_millis(late), agent.start()).await;
            }
            agent.start().await;
        });
        match missed {
            // The next kill of its like comes earlier, if that was too late.
            Some(took) => drop(self.takes.insert(op, took)),
            None => self.met += 1,
        }
        let about = format!(
            "run {number}: {op:?} of {}, kill after {late:?} (group: {group}, again: {again:?}): \
             {outcome:?}",
            entity.number
        );
        let word = outcome.as_ref().map_or_else(|e| e.reason.to_string(), |_| "OK".to_owned());
        *self.outcomes.entry((op, word)).or_default() += 1;

        let now = settled(&self.stage, &self.agent, &self.games, &about).await;
        let created = now.keys().filter(|number| !self.games.contains_key(number)).count();
        assert!(created <= usize::from(op == Op::Create), "{about}: {now:?}");
        for (number, ran) in &self.games {
            if op == Op::Create || *number != entity.number {
                assert_eq!(now.get(number), Some(ran), "{about}: it touched another one");
            }
        }
        let (was, is) = (self.games.get(&entity.number), now.get(&entity.number));
        if outcome.is_ok() {
            match op {
                Op::Create => assert_eq!(created, 1, "{about}"),
                Op::Start => assert!(is.is_some_and(Option::is_some), "{about}"),
                Op::Stop => assert_eq!(is, Some(&None), "{about}"),
                Op::Restart => assert!(is.is_some_and(Option::is_some) && is != was, "{about}"),
                Op::Delete => assert_eq!(is, None, "{about}"),
            }
        }
        let starts = self.stage.starts(entity.number).len() - before;
        let most = match op {
            Op::Start => 1,
            // One that was killed before its answer is run again, by each new agent.
            Op::Restart => 2 + usize::from(again.is_some()),
            Op::Create | Op::Stop | Op::Delete => 0,
        };
        assert!(op == Op::Create || starts <= most, "{about}: {starts} starts");
        self.stage.assert_no_violation();
        self.games = now;
    }
}

async fn perform(stage: &Stage, op: Op, agent: i32, e: &v1::Entity) -> Result<(), Error> {
    match op {
        Op::Create => stage.create("hold", agent).await.map(drop),
        Op::Start => stage.start_entity(e).await.map(drop),
        Op::Stop => stage.stop_entity(e).await.map(drop),
        Op::Restart => stage.restart_entity(e).await.map(drop),
        Op::Delete => stage.delete_entity(e).await,
    }
}

/// Waits until the record says of every entity what is true of its processes, and nothing is on
/// its way. What an interrupted create leaves is deleted, as its state demands.
async fn settled(stage: &Stage, agent: &AgentProcess, before: &Games, about: &str) -> Games {
    let mut last = String::new();
    let waited = timeout(
        SOON,
        poll_for(2 * SOON, "the record is true", async || {
            match compare(stage, agent, before).await {
                Ok(games) => Some(games),
                Err(why) => {
                    last = why;
                    None
                }
            }
        }),
    )
    .await;
    waited.unwrap_or_else(|_| panic!("{about}: still {last}; {:#?}", stage.ledger.lines()))
}

async fn compare(stage: &Stage, agent: &AgentProcess, before: &Games) -> Result<Games, String> {
    let request = v1::IndexEntitiesRequest {
        endpoint: "hold".to_owned(),
        agent_id: agent.id,
        ..v1::IndexEntitiesRequest::default()
    };
    let listed = stage.site.entities().index_entities(request).await;
    let listed = listed.map_err(|status| status.to_string())?.into_inner().entities;
    let mut games = Games::new();
    for entity in &listed {
        match entity.state() {
            v1::EntityState::Ready => {}
            v1::EntityState::Failed | v1::EntityState::Lost => {
                let deleted = stage.delete_entity(entity).await;
                return Err(format!("was {entity:?}; deleted: {deleted:?}"));
            }
            _ => return Err(format!("{entity:?}")),
        }
        let process = entity.process.clone().unwrap_or_default();
        let pid = match process.state() {
            v1::ProcessState::Running => Some(process.pid.cast_unsigned()),
            v1::ProcessState::Stopped | v1::ProcessState::Unspecified => None,
            _ => return Err(format!("{entity:?}")),
        };
        let really: Vec<u32> = stage.games(entity.number).into_iter().collect();
        if really != Vec::from_iter(pid) {
            return Err(format!("{entity:?} and really {really:?}"));
        }
        let processes = stage.named(agent, "hold", entity.number);
        if processes.len() != 2 * really.len() {
            return Err(format!("{entity:?} and {processes:?}"));
        }
        games.insert(entity.number, pid);
    }
    for number in before.keys().filter(|number| !games.contains_key(number)) {
        let folders = stage.folders(agent, "hold", *number);
        let processes = stage.named(agent, "hold", *number);
        if !processes.is_empty() || folders.iter().any(|folder| folder.exists()) {
            return Err(format!("{number} is off the record and has {folders:?}, {processes:?}"));
        }
    }
    let mut ports: Vec<i32> = stage.ports(agent).await.iter().map(|port| port.entity).collect();
    ports.sort_unstable();
    if !ports.iter().eq(games.keys()) {
        return Err(format!("{games:?} and ports of {ports:?}"));
    }
    Ok(games)
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_an_agent_killed_at_random_starts_nothing_twice() {
    let stage = Stage::start().await;
    let hold = Hold {
        flags: &[],
        port: true,
        process: "ready = { port = \"game\", timeout = \"60s\" }\n\
                  restart = { policy = \"never\" }\nstop = { grace = \"60s\" }",
    };
    let agent = stage.agent("h1", 30, &hold.toml(&stage)).await;
    let given = std::env::var(SEED_ENV).ok();
    let seed = given.map_or(SEED, |text| text.parse().expect("a number as seed"));
    println!("seed {seed}");
    let mut takes = BTreeMap::new();
    let mut entity = v1::Entity::default();
    for op in OPS {
        let began = Instant::now();
        if op == Op::Create {
            entity = stage.create("hold", agent.id).await.unwrap();
        } else {
            perform(&stage, op, agent.id, &entity).await.unwrap();
        }
        takes.insert(op, began.elapsed());
    }
    println!("without a kill: {takes:?}");
    let mut runs = Runs {
        stage,
        agent,
        random: StdRng::seed_from_u64(seed),
        games: Games::new(),
        done: BTreeMap::new(),
        takes,
        met: 0,
        outcomes: BTreeMap::new(),
    };
    let began = Instant::now();
    for number in 0..RUNS {
        runs.run(number).await;
    }
    println!(
        "{RUNS} runs in {:?}, {} of them met by the kill: {:?}",
        began.elapsed(),
        runs.met,
        runs.outcomes
    );
    assert!(runs.met >= 50, "only {} of {RUNS} were met by the kill", runs.met);
    assert!(OPS.iter().all(|op| runs.done[op] >= 20), "{:?}", runs.done);
    // Some end well in spite of the kill, and some do not: or the kills missed.
    let well = |op: &Op| runs.outcomes.get(&(*op, "OK".to_owned())).copied().unwrap_or(0);
    assert!(OPS.iter().all(|op| well(op) > 0), "{:?}", runs.outcomes);
    let strays = runs.stage.site.show(runs.agent.id).await.unwrap().strays;
    assert!(strays.is_empty(), "{strays:?}");
    assert!(!runs.outcomes.keys().any(|(_, word)| *word == Reason::Internal.to_string()));
    runs.stage.site.stop().await;
}
