//! [`PortTable`] against a model that is too simple to be wrong: one owner a slot in a plain map,
//! and every choice by looking at all ports.

use std::collections::{BTreeMap, BTreeSet};

use goperation::{EndpointName, Reason};
use proptest::prelude::*;

use super::{Claim, PortRanges, PortTable, Protocol, Reserved, Wish};
use crate::state::EntityKey;

const RANGES: [&str; 3] = ["2000-2007", "3000", "4000-4001"];
const NUMBERS: [u16; 13] =
    [2000, 2001, 2002, 2003, 2004, 2005, 2006, 2007, 3000, 4000, 4001, 1999, 2008];

type Slot = (Protocol, u16);

fn entity(number: u32) -> EntityKey {
    let endpoint = if number.is_multiple_of(2) { "game" } else { "db" };
    EntityKey { endpoint: EndpointName::parse("endpoint", endpoint).unwrap(), number }
}

fn any_of(protocol: Protocol, count: u32) -> Wish {
    Wish { port: None, protocol, count, name: "any".into() }
}

fn given(port: u16, protocol: Protocol) -> Wish {
    Wish { port: Some(port), protocol, count: 1, name: String::new() }
}

fn table() -> PortTable {
    PortTable::new(PortRanges::parse("ports_range", &RANGES).unwrap())
}

#[derive(Debug, Default)]
struct Model {
    owner: BTreeMap<Slot, u32>,
    claimed: BTreeSet<Slot>,
    freed: BTreeMap<Slot, u64>,
    next: u64,
}

impl Model {
    fn free(&self, protocol: Protocol, port: u16) -> bool {
        protocol
            .singles()
            .iter()
            .all(|&p| !self.owner.contains_key(&(p, port)) && !self.claimed.contains(&(p, port)))
    }

    fn last_used(&self, protocol: Protocol, port: u16) -> u64 {
        let of = |p: &Protocol| self.freed.get(&(*p, port)).copied().unwrap_or(0);
        protocol.singles().iter().map(of).max().unwrap()
    }

    /// What the wishes must get, or why they cannot.
    fn claim(&self, wishes: &[Wish], skip: &BTreeSet<Slot>) -> Result<Vec<Slot>, Reason> {
        let ranges = PortRanges::parse("ports_range", &RANGES).unwrap();
        let mut mine = BTreeSet::new();
        for wish in wishes.iter().filter(|w| w.port.is_some()) {
            for &p in wish.protocol.singles() {
                if !mine.insert((p, wish.port.unwrap())) {
                    return Err(Reason::InvalidArgument);
                }
            }
        }
        let skipped = |protocol: Protocol, port| {
            protocol.singles().iter().any(|&p| skip.contains(&(p, port)))
        };
        for wish in wishes {
            let Some(port) = wish.port else { continue };
            if !ranges.contains(port) {
                return Err(Reason::PortOutOfRange);
            }
            if !self.free(wish.protocol, port) || skipped(wish.protocol, port) {
                return Err(Reason::PortTaken);
            }
        }
        let mut got: Vec<Vec<Slot>> = vec![Vec::new(); wishes.len()];
        for class in [Protocol::Both, Protocol::Tcp, Protocol::Udp] {
            for (i, wish) in wishes.iter().enumerate() {
                if wish.protocol != class {
                    continue;
                }
                if let Some(port) = wish.port {
                    got[i].push((class, port));
                    continue;
                }
                for _ in 0..wish.count {
                    let best = ranges
                        .iter()
                        .filter(|&n| self.free(class, n) && !skipped(class, n))
                        .filter(|&n| class.singles().iter().all(|&p| !mine.contains(&(p, n))))
                        .min_by_key(|&n| (self.last_used(class, n), n))
                        .ok_or(Reason::PortsExhausted)?;
                    mine.extend(class.singles().iter().map(|&p| (p, best)));
                    got[i].push((class, best));
                }
            }
        }
        Ok(got.concat())
    }

    fn release(&mut self, slots: impl IntoIterator<Item = Slot>) {
        let mut numbers = BTreeSet::new();
        for (p, port) in slots {
            self.owner.remove(&(p, port));
            self.freed.insert((p, port), self.next + 1);
            numbers.insert(port);
        }
        self.next += 1;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Claim { wishes: Vec<Wish>, skip: BTreeSet<Slot> },
    Commit { nth: prop::sample::Index, entity: u32 },
    Release { nth: prop::sample::Index },
    Free { port: u16, protocol: Option<Protocol>, entity: Option<u32> },
    FreeEntity { entity: u32 },
    Restart,
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Both])
}

fn numbers() -> impl Strategy<Value = u16> {
    prop::sample::select(NUMBERS.to_vec())
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let wish = prop_oneof![
        2 => (protocols(), 1..4u32).prop_map(|(p, count)| any_of(p, count)),
        1 => (numbers(), protocols()).prop_map(|(port, p)| given(port, p)),
    ];
    prop::collection::vec(wish, 1..4)
}

fn steps() -> impl Strategy<Value = Step> {
    let single = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    prop_oneof![
        6 => (wishes(), prop::collection::btree_set((single, numbers()), 0..3))
            .prop_map(|(wishes, skip)| Step::Claim { wishes, skip }),
        5 => (any::<prop::sample::Index>(), 0..4u32)
            .prop_map(|(nth, entity)| Step::Commit { nth, entity }),
        1 => any::<prop::sample::Index>().prop_map(|nth| Step::Release { nth }),
        5 => (numbers(), prop::option::of(protocols()), prop::option::of(0..4u32))
            .prop_map(|(port, protocol, entity)| Step::Free { port, protocol, entity }),
        1 => (0..4u32).prop_map(|entity| Step::FreeEntity { entity }),
        1 => Just(Step::Restart),
    ]
}

fn slots(rows: &[Reserved]) -> Vec<(Slot, u32)> {
    rows.iter().flat_map(|r| r.slots().map(|slot| (slot, r.entity.number))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_table_does_what_the_model_does(steps in prop::collection::vec(steps(), 1..60)) {
        let (mut table, mut model) = (table(), Model::default());
        let mut claims: Vec<Claim> = Vec::new();
        for step in steps {
            match step {
                Step::Claim { wishes, skip } => {
                    let got = table.claim(&wishes, &skip);
                    let expected = model.claim(&wishes, &skip);
                    let ports = |c: &Claim| {
                        c.ports().iter().map(|p| (p.protocol, p.port)).collect::<Vec<_>>()
                    };
                    let seen = got.as_ref().map(ports).map_err(|e| e.reason);
                    prop_assert_eq!(&seen, &expected);
                    if let Ok(claim) = got {
                        let slots = ports(&claim);
                        model.claimed.extend(
                            slots.iter().flat_map(|&(p, n)| p.singles().iter().map(move |&p| (p, n))),
                        );
                        claims.push(claim);
                    }
                }
                Step::Commit { nth, entity: number } if !claims.is_empty() => {
                    let claim = claims.remove(nth.index(claims.len()));
                    let rows = table.commit(claim, &entity(number), 1);
                    for (slot, _) in slots(&rows) {
                        prop_assert!(model.claimed.remove(&slot));
                        prop_assert_eq!(model.owner.insert(slot, number), None, "two owners");
                    }
                }
                Step::Release { nth } if !claims.is_empty() => {
                    let claim = claims.remove(nth.index(claims.len()));
                    for port in claim.ports() {
                        for &p in port.protocol.singles() {
                            model.claimed.remove(&(p, port.port));
                        }
                    }
                    table.release_claim(claim);
                }
                Step::Commit { .. } | Step::Release { .. } => {}
                Step::Free { port, protocol, entity: number } => {
                    let endpoint = number.map(|n| entity(n).endpoint);
                    let freed = table.free(&[port, port], protocol, endpoint.as_ref(), number);
                    let meant: Vec<Slot> = protocol
                        .unwrap_or(Protocol::Both)
                        .singles()
                        .iter()
                        .map(|&p| (p, port))
                        .filter(|slot| model.owner.get(slot).is_some_and(|&o| {
                            number.is_none_or(|n| n == o)
                        }))
                        .collect();
                    let expected: BTreeSet<Slot> = meant.iter().copied().collect();
                    let seen: BTreeSet<Slot> =
                        slots(&freed.freed).into_iter().map(|(slot, _)| slot).collect();
                    prop_assert_eq!(seen, expected);
                    prop_assert_eq!(freed.unknown, if meant.is_empty() { vec![port] } else { vec![] });
                    // Two holders of one number are freed one after the other.
                    for row in &freed.freed {
                        model.release(row.slots());
                    }
                }
                Step::FreeEntity { entity: number } => {
                    for row in table.free_entity(&entity(number)) {
                        model.release(row.slots());
                    }
                    prop_assert!(table.of_entity(&entity(number)).is_empty());
                    prop_assert!(model.owner.values().all(|&o| o != number));
                }
                Step::Restart => {
                    let mut next = self::table();
                    for row in table.all() {
                        next.restore(row).unwrap();
                    }
                    for port in NUMBERS {
                        for p in [Protocol::Tcp, Protocol::Udp] {
                            if let Some(sequence) = table.freed_sequence(p, port) {
                                next.restore_freed(p, port, sequence);
                            }
                        }
                    }
                    table = next;
                    claims.clear();
                    model.claimed.clear();
                }
            }
            let owners: BTreeMap<Slot, u32> = slots(&table.all()).into_iter().collect();
            prop_assert_eq!(&owners, &model.owner);
            let counts = table.counts();
            prop_assert_eq!(counts.reserved, model.owner.len());
            prop_assert_eq!(counts.claimed, model.claimed.len());
        }
    }
}

#[test]
fn refusals_name_port_holder_ranges_and_numbers() {
    let mut table = table();
    let claim = table.claim(&[given(2000, Protocol::Udp)], &BTreeSet::new()).unwrap();
    let busy = table.claim(&[given(2000, Protocol::Both)], &BTreeSet::new()).unwrap_err();
    assert_eq!(busy.reason, Reason::PortTaken);
    assert!(busy.message.contains("2000/udp") && busy.message.contains("in progress"), "{busy}");

    let reserved = table.commit(claim, &entity(2), 5);
    assert_eq!(reserved, table.of_entity(&entity(2)));
    let taken = table.claim(&[given(2000, Protocol::Both)], &BTreeSet::new()).unwrap_err();
    assert_eq!(taken.message, "port 2000/udp is taken by game 2");
    assert_eq!(taken.metadata["holder"], "game 2");

    let outside = table.claim(&[given(2008, Protocol::Tcp)], &BTreeSet::new()).unwrap_err();
    assert_eq!(outside.reason, Reason::PortOutOfRange);
    assert!(outside.message.contains("2000-2007,3000,4000-4001"), "{outside}");

    let wishes = [any_of(Protocol::Both, 10), any_of(Protocol::Both, u32::MAX)];
    let exhausted = table.claim(&wishes, &BTreeSet::new()).unwrap_err();
    assert_eq!(exhausted.reason, Reason::PortsExhausted);
    assert_eq!(exhausted.metadata["asked"], (10 + u64::from(u32::MAX)).to_string());
    assert_eq!(exhausted.metadata["free"], "10");
    assert_eq!(table.counts().claimed, 0);
}

#[test]
fn a_reservation_outside_of_the_ranges_is_kept_until_it_is_freed() {
    let mut table = table();
    let row = Reserved {
        port: 9000,
        protocol: Protocol::Both,
        entity: entity(2),
        name: "old".into(),
        since: 1,
    };
    table.restore(row.clone()).unwrap();
    assert_eq!(table.restore(row.clone()).unwrap_err().reason, Reason::Internal);
    assert_eq!(table.all(), std::slice::from_ref(&row));
    let freed = table.free(&[9000, 9001], None, None, None);
    assert_eq!((freed.freed, freed.unknown), (vec![row], vec![9001]));
    let error = table.claim(&[given(9000, Protocol::Tcp)], &BTreeSet::new()).unwrap_err();
    assert_eq!(error.reason, Reason::PortOutOfRange);
}

#[test]
fn both_is_freed_by_halves() {
    let mut table = table();
    let claim = table.claim(&[given(3000, Protocol::Both)], &BTreeSet::new()).unwrap();
    let _ = table.commit(claim, &entity(2), 5);
    let freed = table.free(&[3000], Some(Protocol::Tcp), None, None);
    assert_eq!(freed.freed[0].protocol, Protocol::Tcp);
    assert_eq!(table.all()[0].protocol, Protocol::Udp);
    assert_eq!(table.freed_sequence(Protocol::Udp, 3000), None);
    assert!(table.freed_sequence(Protocol::Tcp, 3000).is_some());
}

#[test]
fn what_another_program_has_is_tried_last() {
    let mut table = table();
    let mut any = |skip: &BTreeSet<Slot>| {
        let claim = table.claim(&[any_of(Protocol::Tcp, 1)], skip).unwrap();
        let port = claim.ports()[0].port;
        table.release_claim(claim);
        port
    };
    let first = any(&BTreeSet::new());
    let second = any(&BTreeSet::from([(Protocol::Tcp, first)]));
    table.seen_in_use(Protocol::Tcp, first);
    let claim = table.claim(&[any_of(Protocol::Tcp, 1)], &BTreeSet::new()).unwrap();
    assert_eq!(claim.ports()[0].port, second);
    table.release_claim(claim);
    let free = u32::try_from(table.counts().free_tcp).unwrap();
    let claim = table.claim(&[any_of(Protocol::Tcp, free)], &BTreeSet::new()).unwrap();
    assert_eq!(claim.ports().last().unwrap().port, first);
}
