//! `kill -9` at any instant, and at each named point of a commit, loses no reservation that was
//! acknowledged, leaves none half done and gives no port to two.
//!
//! A child, this same program, has 64 reservers in flight on the agent's own lock, store and
//! probe. Each says before a free and after each answer what it did, through a pipe: that ledger
//! is outside of the child and survives it. The parent kills the child, opens the store and
//! compares. The same folder goes through many children, each takes up what the last one left.
//!
//! A child that is killed in full flow has begun the next commits when the last ones are
//! acknowledged, and that alone makes the store write the last ones. So some children fall silent
//! first: only there does a missing flush surely show.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/points.rs"]
mod points;

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use goperation::EndpointName;
use goperation_agent::{
    EntityKey, PortKeeper,
    ports::{PortRanges, Protocol, Reserved, Wish},
};
use goperation_store::{Durability, Options, SledStore};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use self::{
    ledger::{Ledger, Line, Tag},
    points::{Point, Points},
};

/// What a child does: see [`Orders`].
const CHILD: &str = "PORTS_CRASH_CHILD";
const SEED: &str = "PORTS_CRASH_SEED";
const RESERVERS: u32 = 64;
/// Below the ports that tests and systems take for themselves.
const RANGE: &str = "11000-11699";
/// Reservations that one reserver has at most.
const KEPT: u32 = 3;
/// A child that does nothing for so long hangs.
const HANG: Duration = Duration::from_secs(60);
/// Children that go through one folder.
const CHILDREN: u32 = 10;

/// What a child is told.
#[derive(Debug, Clone)]
struct Orders {
    folder: PathBuf,
    durability: Durability,
    seed: u64,
    /// Operations after which it falls silent.
    operations: u64,
    /// Where it kills itself, and after how many commits.
    point: Option<(Point, u64)>,
}

impl Orders {
    fn to_text(&self) -> String {
        let Self { durability, seed, operations, folder, .. } = self;
        let place = |point| Point::ALL.iter().position(|p| *p == point).unwrap();
        let (point, commits) = self.point.map_or((9, 0), |(point, n)| (place(point), n));
        format!("{durability:?}:{seed}:{operations}:{point}:{commits}:{}", folder.display())
    }

    fn of_text(text: &str) -> Self {
        let words: Vec<&str> = text.splitn(6, ':').collect();
        Self {
            durability: match words[0] {
                "Crash" => Durability::Crash,
                "Power" => Durability::Power,
                _ => Durability::None,
            },
            seed: words[1].parse().unwrap(),
            operations: words[2].parse().unwrap(),
            point: Point::ALL
                .get(words[3].parse::<usize>().unwrap())
                .map(|point| (*point, words[4].parse().unwrap())),
            folder: words[5].into(),
        }
    }
}

fn entity(number: u32) -> EntityKey {
    EntityKey { endpoint: EndpointName::parse("endpoint", "game").unwrap(), number }
}

async fn open(store: SledStore, points: Option<&Points>) -> PortKeeper {
    let ranges = PortRanges::parse("ports_range", &[RANGE]).unwrap();
    let store: Arc<dyn goperation_store::Store> = match points {
        Some(points) => Arc::new(points.clone()),
        None => Arc::new(store),
    };
    PortKeeper::open(store, ranges).await.unwrap()
}

/// Runs as the child if this process is one; it does not come back then.
fn is_child() -> bool {
    let Ok(orders) = env::var(CHILD) else { return false };
    thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(child(Orders::of_text(&orders)));
    true
}

fn kill_self() {
    let this = rustix::process::getpid();
    rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
    // The signal may strike another thread first.
    loop {
        thread::park();
    }
}

/// Says a line in one write, so that a kill leaves it whole or out.
fn say(line: &Line) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

async fn child(orders: Orders) {
    let options = Options::new(&orders.folder).durability(orders.durability);
    let store = SledStore::open(options).unwrap();
    let points = Points::new(store.clone(), kill_self);
    points.arm(orders.point);
    let keeper = Arc::new(open(store, Some(&points)).await);
    let left = keeper.all().await.unwrap();
    let budget = Arc::new(AtomicU64::new(orders.operations));
    let reservers: Vec<_> = (0..RESERVERS)
        .map(|number| {
            let keys: Vec<_> = (0..KEPT).map(|nth| entity(number * KEPT + nth)).collect();
            let mine = left.iter().filter(|row| keys.contains(&row.entity)).cloned().collect();
            let random = StdRng::seed_from_u64(orders.seed ^ u64::from(number) << 40);
            let (keeper, budget) = (Arc::clone(&keeper), Arc::clone(&budget));
            tokio::spawn(reserver(keys, keeper, budget, random, mine))
        })
        .collect();
    for reserver in reservers {
        reserver.await.unwrap();
    }
    std::future::pending().await
}

/// One reservation that a reserver has.
struct Mine {
    tag: Tag,
    /// Each has an entity of its own, so that a free means nothing else.
    key: EntityKey,
    ports: Vec<u16>,
}

impl Mine {
    fn of(tag: Tag, rows: &[Reserved]) -> Self {
        let ports = rows.iter().map(|row| row.port).collect();
        Self { tag, key: rows[0].entity.clone(), ports }
    }
}

/// Reserves and frees until the budget of all reservers is spent.
async fn reserver(
    keys: Vec<EntityKey>,
    keeper: Arc<PortKeeper>,
    budget: Arc<AtomicU64>,
    mut random: StdRng,
    left: Vec<Reserved>,
) {
    for key in &keys {
        keeper.add_entity(key).await.unwrap();
    }
    let left = ledger::by_tag(&left);
    let mut mine: Vec<_> = left.into_iter().map(|(tag, rows)| Mine::of(tag, &rows)).collect();
    let take = |left: u64| left.checked_sub(1);
    while budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
        let unused = keys.iter().find(|key| mine.iter().all(|m| m.key != **key));
        match unused {
            Some(key) if mine.is_empty() || random.random_ratio(2, 3) => {
                let tag = Tag::new(random.random());
                let rows = keeper.reserve(key, &wishes(&tag)).await.unwrap();
                say(&Line::Reserved(tag.clone(), ledger::slots(&rows)));
                mine.push(Mine::of(tag, &rows));
            }
            _ => {
                let Mine { tag, key, ports } = mine.remove(random.random_range(0..mine.len()));
                say(&Line::Freeing(tag.clone()));
                let (endpoint, entity) = (Some(&key.endpoint), Some(key.number));
                let freed = keeper.free(&ports, None, endpoint, entity).await.unwrap();
                assert_eq!(freed.unknown, [0_u16; 0], "{tag} was not there to be freed");
                say(&Line::Freed(tag));
            }
        }
    }
}

/// One to three ports, some on one protocol only: what is asked for is a function of the tag.
fn wishes(tag: &Tag) -> Vec<Wish> {
    let wish = |protocol, count| Wish { port: None, protocol, count, name: tag.to_string() };
    match tag.kind() {
        0 => vec![wish(Protocol::Both, 1)],
        1 => vec![wish(Protocol::Both, 2), wish(Protocol::Udp, 1)],
        2 => vec![wish(Protocol::Tcp, 1), wish(Protocol::Udp, 1)],
        _ => vec![wish(Protocol::Both, 3)],
    }
}

/// When a child is killed.
#[derive(Debug)]
enum Kill {
    /// So long after its start.
    At(Duration),
    /// So long after so many of its answers.
    After(u64, Duration),
    /// After so many answers, and no more is to come.
    Silent(u64),
    /// By itself, at that point of a commit.
    Point(Point, u64),
}

/// Kills a child whatever happens to the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a child until it is killed; what it said goes to the ledger.
fn round(test: &str, orders: &Orders, kill: &Kill, ledger: &mut Ledger) {
    let mut errors = tempfile::tempfile().unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env(CHILD, orders.to_text());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors.try_clone().unwrap());
    let started = Instant::now();
    let mut child = Killed(command.spawn().unwrap());
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let (lines, said) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        while out.read_line(&mut text).unwrap() > 0 {
            // Without its end it was cut off by the kill.
            if let Some(line) = text.strip_suffix('\n').and_then(Line::of_text) {
                let _ = lines.send(line);
            }
            text.clear();
        }
    });
    let mut fault = None;
    let before = ledger.acknowledged();
    let mut hear = |answers: u64, ledger: &mut Ledger| {
        while ledger.acknowledged() < before + answers {
            match said.recv_timeout(HANG) {
                Ok(line) => ledger.note(line),
                Err(error) => return fault = Some(error),
            }
        }
    };
    // Sleeps choose the instant of the kill; they wait for nothing.
    match kill {
        Kill::At(after) => thread::sleep(after.saturating_sub(started.elapsed())),
        Kill::After(answers, delay) => {
            hear(*answers, ledger);
            thread::sleep(*delay);
        }
        Kill::Silent(answers) => hear(*answers, ledger),
        Kill::Point(..) => {
            let by = Instant::now() + HANG;
            loop {
                match said.recv_timeout(by.saturating_duration_since(Instant::now())) {
                    Ok(line) => ledger.note(line),
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                    Err(timeout) => {
                        fault = Some(timeout);
                        break;
                    }
                }
            }
        }
    }
    drop(child);
    reader.join().unwrap();
    for line in said.try_iter() {
        ledger.note(line);
    }
    let complaint = read_all(&mut errors);
    assert!(fault.is_none() && complaint.is_empty(), "{kill:?}: {fault:?}: {complaint}");
}

fn read_all(file: &mut File) -> String {
    use std::io::Seek as _;
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// What is in the store.
fn look(folder: &Path) -> Vec<Reserved> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SledStore::open(Options::new(folder)).unwrap();
        let rows = open(store.clone(), None).await.all().await.unwrap();
        store.close().await;
        rows
    })
}

/// What came of many kills.
#[derive(Debug, Default)]
struct Tally {
    kills: u32,
    /// Reservations and frees that were acknowledged.
    acknowledged: u64,
    /// Kills after which something acknowledged was gone, or back again.
    losses: u32,
}

/// Kills children. What is half done, or has two owners, fails at once; what is lost is counted.
fn kills(
    test: &str,
    durability: Durability,
    rounds: u32,
    mut choose: impl FnMut(u32, &mut StdRng) -> Kill,
) -> Tally {
    let seed = env::var(SEED).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("{SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    let mut folder = TempDir::new().unwrap();
    let mut ledger = Ledger::default();
    for number in 0..rounds {
        if number % CHILDREN == 0 {
            (folder, ledger) = (TempDir::new().unwrap(), Ledger::default());
        }
        let kill = choose(number, &mut random);
        let orders = Orders {
            folder: folder.path().to_owned(),
            durability,
            seed: random.random(),
            operations: if let Kill::Silent(answers) = kill { answers } else { u64::MAX },
            point: if let Kill::Point(point, n) = kill { Some((point, n)) } else { None },
        };
        let before = ledger.acknowledged();
        round(test, &orders, &kill, &mut ledger);
        let found = look(folder.path());
        let lost = ledger.check(&found, wishes);
        let acknowledged = ledger.acknowledged() - before;
        println!("kill {number}: {kill:?}: {acknowledged} acknowledged, lost {lost:?}");
        tally.kills += 1;
        tally.acknowledged += acknowledged;
        tally.losses += u32::from(!lost.is_empty());
        ledger.take_up(&found);
    }
    println!("{tally:?}");
    tally
}

/// Any instant: while it starts, in full flow, and fallen silent.
fn any_instant(_: u32, random: &mut StdRng) -> Kill {
    match random.random_range(0..5) {
        0 => Kill::At(Duration::from_micros(random.random_range(0..150_000))),
        1 => Kill::Silent(random.random_range(1..300)),
        _ => {
            let delay = Duration::from_micros(random.random_range(0..10_000));
            Kill::After(random.random_range(1..300), delay)
        }
    }
}

#[test]
fn a_kill_at_200_instants_loses_nothing_acknowledged() {
    if !is_child() {
        let test = "a_kill_at_200_instants_loses_nothing_acknowledged";
        let tally = kills(test, Durability::Crash, 200, any_instant);
        assert_eq!((tally.kills, tally.losses), (200, 0));
        assert!(tally.acknowledged > 5_000, "{tally:?}");
    }
}

#[test]
fn a_kill_at_each_point_of_a_commit_loses_nothing_acknowledged() {
    if !is_child() {
        let test = "a_kill_at_each_point_of_a_commit_loses_nothing_acknowledged";
        let tally = kills(test, Durability::Crash, 40, |number, random| {
            let point = Point::ALL[number as usize % Point::ALL.len()];
            Kill::Point(point, random.random_range(1..400))
        });
        assert_eq!((tally.kills, tally.losses), (40, 0));
        assert!(tally.acknowledged > 1000, "{tally:?}");
    }
}

/// The proof that this test sees a missing flush.
#[test]
fn without_flush_a_kill_loses_what_was_acknowledged() {
    if !is_child() {
        let test = "without_flush_a_kill_loses_what_was_acknowledged";
        let tally = kills(test, Durability::None, 10, any_instant);
        assert!(tally.losses > 0, "no kill lost anything: {tally:?}");
    }
}
