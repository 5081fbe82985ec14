//! Choices on random fleets against a model that is as plain as can be: conditions are kept as they
//! were drawn instead of being read, numbers are whole eighths, versions lists of numbers, a
//! division is a search, and the order is found by comparing each agent with each.

use std::{
    cmp::Ordering::{self, Equal, Less},
    collections::{BTreeMap, HashMap},
};

use goperation::v1::{AgentFacts, AgentSnapshot};
use proptest::{option, prelude::*, sample::select};

use super::{Host, Wish};
use crate::{check::Violations, record::AgentRecord};

const NOW: u64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;
const NUMBERS: &[&str] = &["cpu", "disk", "free", "cputime", "iowait", "entities", "time"];
const ZONES: &[&str] = &["", "a", "a b", "b", "zone"];

/// What an agent has.
#[derive(Debug, Clone)]
struct Drawn {
    /// ACTIVE, online, reserved.
    there: (bool, bool, bool),
    /// Milliseconds since the report.
    age: Option<i64>,
    entities: i64,
    cpu: i64,
    disk: i64,
    /// Eighths of a percent waiting and in programs, and free memory.
    snapshot: Option<(i64, i64, i64)>,
    version: Option<Vec<i64>>,
    zone: Option<&'static str>,
    bits: Option<i64>,
}

/// A condition.
#[derive(Debug, Clone)]
enum Asked {
    /// A number of eighths.
    Number(&'static str, &'static str, i64),
    Version(&'static str, Vec<i64>),
    Zone(&'static str, &'static str),
    Bits(&'static str, i64),
}

type Weighed = (&'static str, Option<i64>);

fn drawn() -> impl Strategy<Value = Drawn> {
    let often = proptest::bool::weighted;
    let ages = prop_oneof![
        1 => Just(None),
        2 => (30 * MINUTE - 2..30 * MINUTE + 2).prop_map(Some),
        9 => (0..30 * MINUTE).prop_map(Some),
    ];
    let hardware = (0..5_i64, 0..9_i64, 0..5_i64);
    let snapshot = option::weighted(0.9, (0..30_i64, 0..30_i64, 0..500_i64));
    let texts = (
        option::weighted(0.8, version()),
        option::weighted(0.9, select(ZONES)),
        option::weighted(0.8, 0..8_i64),
    );
    let there = (often(0.9), often(0.9), often(0.1));
    (there, ages, hardware, snapshot, texts).prop_map(
        |(there, age, (entities, cpu, disk), snapshot, (version, zone, bits))| Drawn {
            there,
            age,
            entities,
            cpu,
            disk: disk * 100,
            snapshot,
            version,
            zone,
            bits,
        },
    )
}

fn version() -> impl Strategy<Value = Vec<i64>> {
    proptest::collection::vec(select(&[0, 1, 2, 9, 10, 11, 100][..]), 1..4)
}

fn asked() -> impl Strategy<Value = Asked> {
    let order = || select(&["<", ">", "=", "!=", "<=", ">="][..]);
    prop_oneof![
        (select(NUMBERS), order(), -20..80_i64).prop_map(|(k, o, v)| Asked::Number(k, o, v)),
        (order(), version()).prop_map(|(o, v)| Asked::Version(o, v)),
        (order(), select(ZONES)).prop_map(|(o, v)| Asked::Zone(o, v)),
        (select(&["&", "|", "%"][..]), 1..8_i64).prop_map(|(o, v)| Asked::Bits(o, v)),
    ]
}

fn weighed() -> impl Strategy<Value = Weighed> {
    let keys = [NUMBERS, &["metadata.version", "labels.zone", "metadata.bits"]].concat();
    (select(keys), option::of(prop_oneof![-9..0_i64, 1..9_i64]))
}

/// Eighths of a number.
fn number(d: &Drawn, key: &str) -> Option<i64> {
    let fact = |fact: i64| (fact > 0).then_some(8 * fact);
    match key {
        "cpu" => fact(d.cpu),
        "disk" => fact(d.disk),
        "free" => d.snapshot.map(|(_, _, free)| 8 * free),
        "cputime" => d.snapshot.map(|(waiting, programs, _)| waiting + programs),
        "iowait" => d.snapshot.map(|(waiting, _, _)| waiting),
        "entities" => Some(8 * d.entities),
        "time" => d.age.map(|age| 8 * (age / 1000)),
        "metadata.bits" => d.bits.map(|bits| 8 * bits),
        _ => None,
    }
}

fn by_version(a: &[i64], b: &[i64]) -> Ordering {
    let padded = |v: &[i64]| [v, &[0; 3][..3 - v.len()]].concat();
    padded(a).cmp(&padded(b))
}

fn passes(operator: &str, order: Ordering) -> bool {
    match operator {
        "<" => order == Less,
        ">" => order != Less && order != Equal,
        "=" => order == Equal,
        "!=" => order != Equal,
        "<=" => order == Less || order == Equal,
        _ => order != Less,
    }
}

fn holds(d: &Drawn, asked: &Asked) -> bool {
    match asked {
        Asked::Number(key, operator, value) => {
            number(d, key).is_some_and(|is| passes(operator, is.cmp(value)))
        }
        Asked::Version(operator, value) => {
            d.version.as_ref().is_some_and(|is| passes(operator, by_version(is, value)))
        }
        Asked::Zone(operator, value) => d.zone.is_some_and(|is| passes(operator, is.cmp(value))),
        Asked::Bits(operator, value) => d.bits.is_some_and(|is| match *operator {
            "&" => (0..3).all(|bit| value >> bit & 1 == 0 || is >> bit & 1 == 1),
            "|" => (0..3).any(|bit| value >> bit & 1 == 1 && is >> bit & 1 == 1),
            _ => (0..8).any(|n| n * value == is),
        }),
    }
}

/// What a weighter makes of an agent.
#[derive(Debug, PartialEq)]
enum Weight {
    Number(i64),
    Version(Vec<i64>),
    Text(&'static str),
}

/// The largest whole number that is not above `over / under`.
fn down(over: i64, under: i64) -> Weight {
    let (over, under) = if under < 0 { (-over, -under) } else { (over, under) };
    let found = (-2000..=2000).rev().find(|n| n * under <= over);
    Weight::Number(found.expect("it is not that large"))
}

fn weight(d: &Drawn, (key, by): &Weighed) -> Option<Weight> {
    match (*key, by) {
        ("metadata.version", None) => d.version.clone().map(Weight::Version),
        ("labels.zone", None) => d.zone.map(Weight::Text),
        (key, None) => number(d, key).map(Weight::Number),
        // To be divided it must read as a number: one with a fraction, or without.
        ("metadata.version", Some(by)) => match d.version.as_deref()? {
            [whole] => Some(down(*whole, *by)),
            [whole, part] => {
                let places = 10_i64.pow(part.to_string().len().try_into().unwrap());
                Some(down(whole * places + part, by * places))
            }
            _ => None,
        },
        (key, Some(by)) => number(d, key).map(|eighths| down(eighths, 8 * by)),
    }
}

fn by_weight(a: &Weight, b: &Weight) -> Ordering {
    match (a, b) {
        (Weight::Number(a), Weight::Number(b)) => a.cmp(b),
        (Weight::Version(a), Weight::Version(b)) => by_version(a, b),
        (Weight::Text(a), Weight::Text(b)) => a.cmp(b),
        (a, b) => panic!("{a:?} {b:?}"),
    }
}

/// Places of the agents that suit, best first.
fn expected(fleet: &[Drawn], asked: &[Asked], weighed: &[Weighed]) -> Vec<usize> {
    let suits = |d: &Drawn| {
        d.there == (true, true, false)
            && d.age.is_some_and(|age| age < 30 * MINUTE)
            && asked.iter().all(|asked| holds(d, asked))
            && weighed.iter().all(|weighed| weight(d, weighed).is_some())
    };
    let before = |a: usize, b: usize| {
        if weighed.is_empty() && fleet[a].entities != fleet[b].entities {
            return fleet[a].entities < fleet[b].entities;
        }
        for weighed in weighed {
            let of = |i: usize| weight(&fleet[i], weighed).unwrap();
            match by_weight(&of(a), &of(b)) {
                Equal => {}
                order => return order == Less,
            }
        }
        a < b
    };
    let suiting: Vec<_> = (0..fleet.len()).filter(|&i| suits(&fleet[i])).collect();
    // Its place is how many are before it.
    let mut best_first = vec![usize::MAX; suiting.len()];
    for &a in &suiting {
        best_first[suiting.iter().filter(|&&b| a != b && before(b, a)).count()] = a;
    }
    best_first
}

fn dotted(version: &[i64]) -> String {
    version.iter().map(i64::to_string).collect::<Vec<_>>().join(".")
}

fn as_include(asked: &Asked) -> String {
    match asked {
        Asked::Number(key, operator, eighths) => {
            let sign = if *eighths < 0 { "-" } else { "" };
            let (whole, part) = (eighths.abs() / 8, eighths.abs() % 8 * 125);
            format!("{key} {operator} {sign}{whole}.{part:03}")
        }
        Asked::Version(operator, version) => {
            format!("metadata.version{operator}{}", dotted(version))
        }
        Asked::Zone(operator, zone) => format!(" labels.zone{operator} {zone} "),
        Asked::Bits(operator, bits) => format!("metadata.bits {operator}{bits}"),
    }
}

fn as_weighter((key, by): &Weighed) -> String {
    by.map_or((*key).to_owned(), |by| format!("{key}/{by}"))
}

fn as_host(place: usize, d: &Drawn) -> Host {
    let int = |number: i64| i32::try_from(number).unwrap();
    let eighths = |number: i64| f64::from(int(number)) / 8.0;
    let mut metadata = HashMap::new();
    metadata.extend(d.version.as_ref().map(|version| ("version".to_owned(), dotted(version))));
    metadata.extend(d.bits.map(|bits| ("bits".to_owned(), bits.to_string())));
    let labels: BTreeMap<_, _> =
        d.zone.map(|zone| ("zone".to_owned(), zone.to_owned())).into_iter().collect();
    let (active, online, reserved) = d.there;
    let agent = AgentRecord {
        id: u32::try_from(place).unwrap() + 1,
        host: format!("h{place}"),
        status: i32::from(active),
        reserved,
        report_time: d.age.map_or(0, |age| NOW - u64::try_from(age).unwrap()),
        facts: Some(AgentFacts {
            cpu: int(d.cpu),
            disk_mib: int(d.disk),
            metadata,
            ..AgentFacts::default()
        }),
        snapshot: d.snapshot.map(|(waiting, programs, free)| AgentSnapshot {
            iowait: eighths(waiting),
            user: eighths(programs),
            memory_free_mib: int(free),
            ..AgentSnapshot::default()
        }),
        labels,
        ..AgentRecord::default()
    };
    Host { agent, online, entities: u32::try_from(d.entities).unwrap() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_choice_is_the_models(
        fleet in proptest::collection::vec(drawn(), 0..12),
        asked in proptest::collection::vec(asked(), 0..3),
        weighed in proptest::collection::vec(weighed(), 0..4),
    ) {
        let includes: Vec<_> = asked.iter().map(as_include).collect();
        let weighters: Vec<_> = weighed.iter().map(as_weighter).collect();
        let mut bad = Violations::default();
        let wish = Wish::read(&mut bad, &includes, &weighters);
        bad.finish().unwrap();
        let mut hosts: Vec<_> = fleet.iter().enumerate().map(|(i, d)| as_host(i, d)).collect();
        let choice = wish.choose(&hosts, NOW);

        let expected: Vec<_> =
            expected(&fleet, &asked, &weighed).into_iter().map(|i| format!("h{i}")).collect();
        let chosen: Vec<_> = choice.candidates.iter().map(|c| c.host.clone()).collect();
        prop_assert_eq!(&chosen, &expected, "{:?} {:?}", includes, weighters);
        let left: Vec<_> = (0..fleet.len())
            .map(|i| format!("h{i}"))
            .filter(|host| !expected.contains(host))
            .collect();
        let left_out: Vec<_> = choice.left_out.iter().map(|l| l.host.clone()).collect();
        prop_assert_eq!(left_out, left);
        prop_assert!(choice.left_out.iter().all(|left| !left.why.is_empty()));

        hosts.reverse();
        prop_assert_eq!(wish.choose(&hosts, NOW), choice, "it depends on the order of the agents");
    }
}
