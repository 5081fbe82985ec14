//! Reserving, freeing, restarts and crashes against a model, through the agent's own lock, store
//! and probe; and that reservations share commits.
//!
//! Each round has up to one operation of every entity under way at once. What was answered must be
//! exactly so, also after a crash; what was not is whole or absent. Choices are checked for what
//! was asked for; which ports are the right ones is the table's own model test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/points.rs"]
mod points;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use futures::future::join_all;
use goperation::{EndpointName, Error, Reason};
use goperation_agent::{
    EntityKey, PortKeeper,
    ports::{PortRanges, Protocol, Reserved, Wish},
};
use goperation_store::{Options, SledStore, Store as _, Txn};
use proptest::prelude::*;

use self::points::{Point, Points};

/// Below the ports that tests and systems take for themselves, so that all of them are free.
const RANGE: (u16, u16) = (12_500, 12_511);
const ENTITIES: u32 = 4;

type Slot = (Protocol, u16);
/// What one entity has: each slot and the name it knows it by.
type Holding = BTreeMap<Slot, String>;

#[derive(Debug, Clone)]
enum Op {
    Reserve(Vec<Wish>),
    Free {
        ports: Vec<u16>,
        protocol: Option<Protocol>,
    },
    /// The entity is deleted and made again.
    Clear,
}

#[derive(Debug, Clone)]
struct Round {
    ops: BTreeMap<u32, Op>,
    crash: Option<(Point, u64)>,
    restart: bool,
}

/// How an operation was answered.
#[derive(Debug)]
enum Answer {
    Reserved(Vec<Reserved>),
    Freed(Vec<Reserved>, Vec<u16>),
    Cleared,
    Refused(Error),
}

fn entity(number: u32) -> EntityKey {
    EntityKey { endpoint: EndpointName::parse("endpoint", "game").unwrap(), number }
}

fn ranges() -> PortRanges {
    PortRanges::parse("ports_range", &[format!("{}-{}", RANGE.0, RANGE.1)]).unwrap()
}

fn slots(rows: &[Reserved]) -> Holding {
    let mut holding = Holding::new();
    for row in rows {
        for slot in row.slots() {
            let twice = holding.insert(slot, row.name.clone());
            assert_eq!(twice, None, "{slot:?} twice in one answer");
        }
    }
    holding
}

fn singles(protocol: Protocol) -> usize {
    protocol.singles().len()
}

/// Whether rows are what the wishes ask for, in their order.
fn fits(rows: &[Reserved], wishes: &[Wish]) -> bool {
    let mut rows = rows.iter();
    let of_wishes = wishes.iter().all(|wish| {
        (0..wish.wanted()).all(|_| {
            rows.next().is_some_and(|row| {
                row.protocol == wish.protocol
                    && row.name.starts_with(&wish.name)
                    && wish.given().map_or_else(
                        || (RANGE.0..=RANGE.1).contains(&row.port),
                        |port| row.port == port,
                    )
            })
        })
    });
    of_wishes && rows.next().is_none()
}

/// Whether slots, of which no order is known, are all that the wishes ask for.
fn is_whole(found: &Holding, wishes: &[Wish]) -> bool {
    let asked: usize = wishes.iter().map(|w| singles(w.protocol) * w.wanted() as usize).sum();
    let given = wishes.iter().filter_map(|w| Some((w.protocol, w.given()?)));
    let mut given = given.flat_map(|(p, port)| p.singles().iter().map(move |&p| (p, port)));
    found.len() == asked && given.all(|slot| found.contains_key(&slot))
}

/// The running part, and what it must have.
struct World<'a> {
    folder: &'a Path,
    sled: SledStore,
    points: Points,
    keeper: PortKeeper,
    model: BTreeMap<u32, Holding>,
}

impl<'a> World<'a> {
    async fn open(folder: &'a Path, model: BTreeMap<u32, Holding>) -> Self {
        Self::open_with(folder, ranges(), model).await
    }

    async fn open_with(
        folder: &'a Path,
        ranges: PortRanges,
        model: BTreeMap<u32, Holding>,
    ) -> Self {
        let sled = SledStore::open(Options::new(folder)).unwrap();
        let points = Points::new(sled.clone(), || ());
        let keeper = PortKeeper::open(Arc::new(points.clone()), ranges).await.unwrap();
        Self { folder, sled, points, keeper, model }
    }

    async fn found(&self) -> BTreeMap<u32, Holding> {
        let mut found: BTreeMap<u32, Vec<Reserved>> = BTreeMap::new();
        for row in self.keeper.all().await.unwrap() {
            found.entry(row.entity.number).or_default().push(row);
        }
        (0..ENTITIES).map(|n| (n, found.get(&n).map_or_else(Holding::new, |r| slots(r)))).collect()
    }

    async fn run(&self, number: u32, op: &Op) -> Answer {
        let key = entity(number);
        let answer = match op {
            Op::Reserve(wishes) => self.keeper.reserve(&key, wishes).await.map(Answer::Reserved),
            Op::Free { ports, protocol } => self
                .keeper
                .free(ports, *protocol, Some(&key.endpoint), Some(number))
                .await
                .map(|freed| Answer::Freed(freed.freed, freed.unknown)),
            Op::Clear => match self.keeper.remove_entity(&key).await {
                Ok(()) => self.keeper.add_entity(&key).await.map(|()| Answer::Cleared),
                Err(error) => Err(error),
            },
        };
        answer.unwrap_or_else(Answer::Refused)
    }

    /// Runs a round, checks every answer, and answers the world that goes on.
    async fn round(mut self, round: &Round) -> Self {
        let before = self.model.clone();
        self.points.arm(round.crash);
        let answers =
            join_all(round.ops.iter().map(async |(&n, op)| (n, op, self.run(n, op).await))).await;
        let crashed = self.points.arm(None).is_none() && round.crash.is_some();
        let mut unknown: Vec<(u32, &Op)> = Vec::new();
        for (number, op, answer) in answers {
            let mine = self.model.get_mut(&number).unwrap();
            match (op, answer) {
                (_, Answer::Refused(error)) if error.reason == Reason::Unavailable => {
                    assert!(crashed, "{op:?} failed without a crash: {error}");
                    unknown.push((number, op));
                }
                (Op::Reserve(wishes), Answer::Reserved(rows)) => {
                    assert!(fits(&rows, wishes), "{wishes:?} got {rows:?}");
                    for (slot, name) in slots(&rows) {
                        let had = mine.insert(slot, name);
                        assert_eq!(had, None, "{slot:?} was granted to {number} twice");
                    }
                }
                (Op::Reserve(wishes), Answer::Refused(error)) => {
                    refused_rightly(wishes, &error, &before, round);
                }
                (Op::Free { ports, protocol }, Answer::Freed(freed, missing)) => {
                    let meant = meant(mine, ports, *protocol);
                    assert_eq!(slots(&freed), meant);
                    let known: BTreeSet<u16> = meant.keys().map(|&(_, port)| port).collect();
                    let asked: BTreeSet<u16> = ports.iter().copied().collect();
                    assert_eq!(missing, asked.difference(&known).copied().collect::<Vec<_>>());
                    mine.retain(|slot, _| !meant.contains_key(slot));
                }
                (Op::Clear, Answer::Cleared) => mine.clear(),
                (op, answer) => panic!("{op:?} was answered {answer:?}"),
            }
        }
        if crashed || round.restart {
            self = self.reopen(&before, &unknown).await;
        }
        let found = self.found().await;
        assert_eq!(found, self.model);
        let all: Vec<Slot> = found.values().flat_map(|holding| holding.keys().copied()).collect();
        assert_eq!(BTreeSet::from_iter(&all).len(), all.len(), "two owners: {found:?}");
        assert_eq!(self.keeper.counts().await.unwrap().claimed, 0, "a claim was left");
        self
    }

    /// Starts again from disk. Only what was not answered may have ended in two ways.
    async fn reopen(self, before: &BTreeMap<u32, Holding>, unknown: &[(u32, &Op)]) -> Self {
        let Self { folder, sled, points, keeper, mut model } = self;
        drop((points, keeper));
        sled.close().await;
        let next = World::open(folder, BTreeMap::new()).await;
        let found = next.found().await;
        for (number, op) in unknown {
            let (had, has) = (&before[number], &found[number]);
            let fine = has == had
                || match op {
                    Op::Reserve(wishes) => {
                        let mut new = has.clone();
                        new.retain(|slot, _| !had.contains_key(slot));
                        had.keys().all(|slot| has.contains_key(slot)) && is_whole(&new, wishes)
                    }
                    Op::Free { ports, protocol } => {
                        let meant = meant(had, ports, *protocol);
                        let mut left = had.clone();
                        left.retain(|slot, _| !meant.contains_key(slot));
                        *has == left
                    }
                    Op::Clear => has.is_empty(),
                };
            assert!(fine, "half of {op:?}: {number} had {had:?}, has {has:?}");
            model.insert(*number, has.clone());
        }
        for number in 0..ENTITIES {
            next.keeper.add_entity(&entity(number)).await.unwrap();
        }
        Self { model, ..next }
    }
}

/// What of an entity's slots a free means.
fn meant(holding: &Holding, ports: &[u16], protocol: Option<Protocol>) -> Holding {
    let protocols = protocol.unwrap_or(Protocol::Both).singles();
    let is_meant = |(p, port): &Slot| ports.contains(port) && protocols.contains(p);
    holding.iter().filter(|(slot, _)| is_meant(slot)).map(|(s, n)| (*s, n.clone())).collect()
}

/// Whether a refusal says what is so, or may have been so while others were under way.
fn refused_rightly(wishes: &[Wish], error: &Error, before: &BTreeMap<u32, Holding>, round: &Round) {
    let reserved = |slot: &Slot| before.values().any(|holding| holding.contains_key(slot));
    let alone = round.ops.values().filter(|op| matches!(op, Op::Reserve(_))).count() == 1;
    let given: Vec<Slot> = wishes
        .iter()
        .filter_map(|w| Some((w.protocol, w.given()?)))
        .flat_map(|(p, port)| p.singles().iter().map(move |&p| (p, port)))
        .collect();
    let right = match error.reason {
        Reason::InvalidArgument => BTreeSet::from_iter(&given).len() < given.len(),
        Reason::PortOutOfRange => given.iter().any(|(_, port)| !(RANGE.0..=RANGE.1).contains(port)),
        Reason::PortTaken => {
            let holder = error.metadata["holder"].as_str();
            let port = error.metadata["port"].parse::<u16>().unwrap();
            let own = holder.starts_with("game ") || holder == "a reservation in progress";
            own && given.iter().any(|slot| slot.1 == port && (!alone || reserved(slot)))
        }
        Reason::PortsExhausted => {
            let slots_of = |wishes: &[Wish]| -> usize {
                wishes.iter().map(|w| singles(w.protocol) * w.wanted() as usize).sum()
            };
            let all = round.ops.values().map(|op| match op {
                Op::Reserve(wishes) => slots_of(wishes),
                Op::Free { .. } | Op::Clear => 0,
            });
            let others = all.sum::<usize>() - slots_of(wishes);
            // Both needs the two slots of one number, so half as many may be too few.
            let ports = usize::from(RANGE.1 - RANGE.0) + 1;
            let taken: usize = before.values().map(BTreeMap::len).sum();
            (2 * ports).saturating_sub(2 * taken + 2 * others) < 2 * slots_of(wishes)
        }
        _ => false,
    };
    assert!(right, "{wishes:?} was refused with {error} {:?}: before {before:?}", error.metadata);
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Both])
}

fn numbers() -> impl Strategy<Value = u16> {
    RANGE.0 - 1..=RANGE.1
}

fn ops() -> impl Strategy<Value = Op> {
    let wish = prop_oneof![
        3 => (protocols(), 1..3u32).prop_map(|(protocol, count)| Wish {
            port: None, protocol, count, name: "any".into(),
        }),
        1 => (numbers(), protocols()).prop_map(|(port, protocol)| Wish {
            port: Some(port), protocol, count: 1, name: "given".into(),
        }),
    ];
    let ports = prop::collection::vec(numbers(), 1..6);
    prop_oneof![
        6 => prop::collection::vec(wish, 1..4).prop_map(Op::Reserve),
        4 => (ports, prop::option::of(protocols()))
            .prop_map(|(ports, protocol)| Op::Free { ports, protocol }),
        1 => Just(Op::Clear),
    ]
}

fn rounds() -> impl Strategy<Value = Round> {
    let point = prop::sample::select(Point::ALL.to_vec());
    let ops = prop::collection::btree_map(0..ENTITIES, ops(), 1..=ENTITIES as usize);
    (ops, prop::option::weighted(0.3, (point, 0..4u64)), prop::bool::weighted(0.1))
        .prop_map(|(ops, crash, restart)| Round { ops, crash, restart })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn ports_do_what_the_model_does(rounds in prop::collection::vec(rounds(), 1..16)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let model = (0..ENTITIES).map(|n| (n, Holding::new())).collect();
            let mut world = World::open(folder.path(), model).await;
            for number in 0..ENTITIES {
                world.keeper.add_entity(&entity(number)).await.unwrap();
            }
            for round in &rounds {
                world = world.round(round).await;
            }
            world.sled.close().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reservations_of_64_callers_share_commits() {
    let folder = tempfile::tempdir().unwrap();
    let sled = SledStore::open(Options::new(folder.path())).unwrap();
    let ranges = PortRanges::parse("ports_range", &["12600-12799"]).unwrap();
    let keeper = Arc::new(PortKeeper::open(Arc::new(sled.clone()), ranges).await.unwrap());
    for number in 0..64 {
        keeper.add_entity(&entity(number)).await.unwrap();
    }
    let before = sled.stats();
    let wish = Wish { port: None, protocol: Protocol::Both, count: 1, name: String::new() };
    let reservers: Vec<_> = (0..64)
        .map(|number| {
            let (keeper, wish) = (Arc::clone(&keeper), wish.clone());
            tokio::spawn(async move {
                let mut ports = Vec::new();
                for _ in 0..3 {
                    let rows = keeper.reserve(&entity(number), std::slice::from_ref(&wish)).await;
                    ports.push(rows.unwrap()[0].port);
                }
                ports
            })
        })
        .collect();
    let mut ports = BTreeSet::new();
    for reserver in reservers {
        ports.extend(reserver.await.unwrap());
    }
    assert_eq!(ports.len(), 64 * 3, "each caller has its own");
    let after = sled.stats();
    let transactions = after.transactions - before.transactions;
    let groups = after.groups - before.groups;
    println!("{transactions} transactions of 64 callers in {groups} commits");
    assert_eq!(transactions, 64 * 3);
    assert!(groups * 2 <= transactions, "{transactions} transactions took {groups} commits");
    sled.close().await;
}

/// The proof that the model sees half a reservation, also one that nobody was told of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "half of")]
async fn half_a_reservation_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let nothing: BTreeMap<_, _> = (0..ENTITIES).map(|n| (n, Holding::new())).collect();
    // Not those of the other test, which may run now: what one tries is held for the other.
    let ranges = PortRanges::parse("ports_range", &["12520-12523"]).unwrap();
    let world = World::open_with(folder.path(), ranges, nothing.clone()).await;
    world.keeper.add_entity(&entity(0)).await.unwrap();
    let op = Op::Reserve(vec![Wish {
        port: None,
        protocol: Protocol::Both,
        count: 1,
        name: String::new(),
    }]);
    let answer = world.run(0, &op).await;
    let Answer::Reserved(rows) = answer else { panic!("{answer:?}") };
    let key = [b"s/port/udp/".as_slice(), &rows[0].port.to_be_bytes()].concat();
    let gone = Txn::new().delete(key.clone());
    assert!(world.sled.get(key).await.unwrap().is_some(), "no such row");
    world.sled.commit(gone).await.unwrap();
    world.reopen(&nothing, &[(0, &op)]).await;
}
