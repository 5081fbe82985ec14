//! The manager, the bridge and a tenth of the agents are killed with SIGKILL in the middle of ten
//! running requests, at seeded moments: no effect happens twice, no answer is lost, and every
//! request ends in time.
//!
//! A moment is a number of events that the streams of the requests have told. Then it is waited for
//! nothing, or until agents that live have ended what they ran, or until deadlines have passed,
//! and all is started again, in an order of the seed.

mod round;
mod stalls;
mod streams;
mod truth;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use goperation::v1;
use goperation_harness::GopProcess;
use rand::{SeedableRng as _, rngs::StdRng};

use self::{
    round::{Met, Ran},
    stalls::Stalls,
};
use super::stage::{END, adds_up, work};
use crate::{emulation::Emulation, procs::Site};

/// How often all is killed.
const ROUNDS: usize = 20;
/// Processes of agents: one of them is killed each time.
const PROCESSES: u32 = 10;
const AGENTS_EACH: u32 = 10;
const AGENTS: u32 = PROCESSES * AGENTS_EACH;
/// The longest, for a disk that stalls: whoever lives is not offline.
const LEASE: Duration = Duration::from_secs(15);
/// The seed, unless the environment variable names another one.
const SEED: u64 = 0x7265_7175_6573_7421;
const SEED_ENV: &str = "GOP_TEST_SEED";

/// A site, and agents that do all well but for three that fail and one that answers late.
struct Stage {
    /// Dropped before the folder is.
    stalls: Stalls,
    site: Site,
    emulations: Vec<Arc<Emulation>>,
    processes: Vec<GopProcess>,
    random: StdRng,
    /// When the manager was last there, by the clock, in milliseconds.
    back: u64,
    /// Every request of the rounds before.
    ran: Vec<Ran>,
    met: Vec<Met>,
}

impl Stage {
    async fn start(seed: u64) -> Self {
        let site = Site::start_bridged(LEASE).await;
        let emulations: Vec<_> = (0..PROCESSES)
            .map(|process| {
                let first = (process * AGENTS_EACH + 1).to_string();
                let agents = AGENTS_EACH.to_string();
                let latency = format!("{}ms", 100 + 100 * process);
                let mut args = vec!["--first", &first, "--agents", &agents, "--latency", &latency];
                match process {
                    0 => args.extend(["--fail", "3"]),
                    1 => args.extend(["--late", "1", "--late-by", "4s"]),
                    _ => {}
                }
                Arc::new(Emulation::of(&site, &format!("agents-{process}"), &args))
            })
            .collect();
        let processes = join_all(emulations.iter().map(|emulation| emulation.start())).await;
        Self {
            stalls: Stalls::watch(site.path()),
            site,
            emulations,
            processes,
            random: StdRng::seed_from_u64(seed),
            back: 0,
            ran: Vec::new(),
            met: Vec::new(),
        }
    }

    /// Every effect of a request: how often each agent had it, and how it behaves.
    fn effects(&self, id: &str) -> BTreeMap<u32, (usize, &'static str)> {
        let mut effects = BTreeMap::new();
        for effect in self.emulations.iter().flat_map(|emulation| emulation.effects(id)) {
            effects.entry(effect.agent).or_insert((0, effect.conduct)).0 += 1;
        }
        effects
    }
}

/// The number of the process of an agent.
fn process_of(host: &str) -> u32 {
    let number: u32 = host.trim_start_matches("emu-").parse().expect("the number of a host");
    (number - 1) / AGENTS_EACH
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_twenty_kills_in_the_middle_of_ten_requests() {
    let given = std::env::var(SEED_ENV).ok();
    let seed = given.map_or(SEED, |text| text.parse().expect("a number as seed"));
    println!("seed {seed}");
    let began = Instant::now();
    let mut stage = Stage::start(seed).await;
    println!("{AGENTS} agents after {:?}", began.elapsed());
    for number in 0..ROUNDS {
        stage.round(number).await;
    }
    stage.nothing_came_after().await;
    let open: usize = stage.met.iter().map(|met| met.open).sum();
    let late: i32 = stage.met.iter().map(|met| met.late).sum();
    let interrupted: usize = stage.met.iter().map(|met| met.interrupted).sum();
    let slowest = stage.met.iter().map(|met| met.slowest).max();
    println!(
        "{ROUNDS} kills in {:?}: {open} requests were met, {interrupted} runs interrupted, {late} \
         late answers; the last end came {slowest:?} ms after the manager's return or its deadline",
        began.elapsed()
    );
    // Or the kills missed.
    assert!(open >= ROUNDS * 5, "{:?}", stage.met);
    assert!(interrupted > 0 && late > 0, "{:?}", stage.met);
    let Stage { site, processes, .. } = stage;
    drop(processes);
    site.stop().await;
}

impl Stage {
    /// A last request has one answer of each agent, and by then nothing of the others has changed
    /// that is not true.
    async fn nothing_came_after(&mut self) {
        let last = v1::CreateRequestRequest { finish_timeout: super::stage::seconds(60), ..work() };
        let last = self.site.create_request(last).await.unwrap();
        let end = self.site.until_state(&last.id, v1::RequestState::Finished).await;
        let rows = self.site.responses(&last.id).await;
        adds_up(&end, &rows);
        assert_eq!(rows.len(), usize::try_from(AGENTS).unwrap());
        let effects = self.effects(&last.id);
        assert_eq!(effects.len(), rows.len());
        assert!(effects.values().all(|(count, _)| *count == 1), "{effects:?}");
        assert_eq!(end.counts.unwrap().silent, 0, "{end:?}");
        for ran in std::mem::take(&mut self.ran) {
            let request = self.site.show_request(&ran.id).await.unwrap();
            let rows = self.site.responses(&ran.id).await;
            adds_up(&request, &rows);
            self.is_true(&ran, &rows, &self.effects(&ran.id));
        }
    }
}
