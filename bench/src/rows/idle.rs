//! What an agent takes that has nothing to do: it renews its lease, and has ten entities.
//!
//! Its processor time is that of its threads in nanoseconds: the ticks of a process are too coarse
//! for a thousandth of a core.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use goperation::v1::{
    CreateEntityRequest, EntityState, IndexEntitiesRequest,
    entity_service_client::EntityServiceClient,
};
use procfs::process::Process;
use tokio::time::sleep;

use super::Wanted;
use crate::{
    Result,
    bench::Bench,
    measure::count,
    process::resident,
    row::{Measured, Round, Row, Target, Unit},
    site::Site,
};

pub(super) const ROWS: &[Row] = &[MEMORY, CPU];

const MEMORY: Row = Row {
    name: "idle.memory",
    what: "gop agent, idle, 1 endpoint, 10 entities: resident memory",
    against: "",
    unit: Unit::Mebibytes,
    target: Target::AtMost(15.0),
};
const CPU: Row = Row {
    name: "idle.cpu",
    what: "the same: processor time",
    against: "",
    unit: Unit::CorePercent,
    target: Target::AtMost(0.1),
};

const ENTITIES: usize = 10;
/// Until what its start left to do is done.
const SETTLED: Duration = Duration::from_secs(6);
/// Between two looks at the threads: what one used that ended since the last is not seen.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn measure(bench: &Bench, wanted: &Wanted) -> Result<Vec<Measured>> {
    let site = Site::start(bench).await?;
    let toml = "[endpoints.game.methods.create]\nprogram = [\"true\"]\n\
                [endpoints.game.methods.delete]\nprogram = [\"true\"]\n";
    let agent = site.agent(bench, "idle", toml).await?;
    site.activate(1).await?;
    entities(&site).await?;
    sleep(SETTLED).await;
    let pid = agent.pid();
    let rounds = bench.rounds();
    let window = Duration::from_secs(bench.sized(60, 20)) / u32::try_from(rounds)?;
    let (mut memory, mut cpu) = (Vec::new(), Vec::new());
    let mut used = Used::new(pid)?;
    for _ in 0..rounds {
        let (began, before) = (Instant::now(), used.nanos);
        while began.elapsed() < window {
            sleep(LOOK.min(window.saturating_sub(began.elapsed()))).await;
            used.look(pid)?;
        }
        let share = count(used.nanos - before) / 1e9 / began.elapsed().as_secs_f64();
        cpu.push(Round::alone(share * 100.0));
        memory.push(Round::alone(resident(pid)?));
    }
    let all = [(MEMORY, memory), (CPU, cpu)].into_iter().filter(|(row, _)| wanted.has(row));
    let note = format!("{} threads", used.threads.len());
    Ok(all.map(|(row, rounds)| Measured::new(row, rounds).noting(note.clone())).collect())
}

/// Makes the entities, and sees that they are READY.
async fn entities(site: &Site) -> Result<()> {
    let mut client = EntityServiceClient::new(site.channel.clone());
    for _ in 0..ENTITIES {
        let create = CreateEntityRequest {
            endpoint: "game".to_owned(),
            agent_id: 1,
            ..CreateEntityRequest::default()
        };
        client.create_entity(create).await?;
    }
    let all = client.index_entities(IndexEntitiesRequest::default()).await?.into_inner().entities;
    let ready = all.iter().filter(|entity| entity.state() == EntityState::Ready).count();
    if ready != ENTITIES {
        return Err(format!("{ready} of {ENTITIES} entities are READY").into());
    }
    Ok(())
}

/// The processor time of a process, thread by thread.
struct Used {
    threads: BTreeMap<i32, u64>,
    /// Since the first look.
    nanos: u64,
}

impl Used {
    fn new(pid: u32) -> Result<Self> {
        Ok(Self { threads: threads(pid)?, nanos: 0 })
    }

    fn look(&mut self, pid: u32) -> Result<()> {
        let now = threads(pid)?;
        let used = now.iter().map(|(thread, nanos)| {
            nanos.saturating_sub(self.threads.get(thread).copied().unwrap_or(0))
        });
        self.nanos += used.sum::<u64>();
        self.threads = now;
        Ok(())
    }
}

fn threads(pid: u32) -> Result<BTreeMap<i32, u64>> {
    let tasks = Process::new(pid.cast_signed())?.tasks()?.flatten();
    // One that ends just now is not there.
    Ok(tasks.filter_map(|task| Some((task.tid, task.schedstat().ok()?.sum_exec_runtime))).collect())
}
