//! The ports of an agent: reserving one, durably, against what it cannot do without.
//!
//! One unit is one port, of any number, on TCP and on UDP: claimed, tried on the host on IPv4 and
//! IPv6, reserved on disk. What is reserved is freed many at once beside that, and ours pays for it.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use goperation::EndpointName;
use goperation_agent::{
    EntityKey, PortKeeper,
    ports::{PortRanges, Protocol, Wish},
};
use goperation_store::{Options, SledStore};
use socket2::{Domain, Socket, Type};

use super::Wanted;
use crate::{
    Result,
    bench::{AT_ONCE, Bench},
    limit::commit,
    measure::{Load, Sample, closed_loop},
    row::{Measured, Part, Round, Row, Target, Unit},
};

pub(super) const ROWS: &[Row] = &[PORTS, ONE];

const PORTS: Row = Row {
    name: "ports",
    what: "durable reservation of a port, TCP and UDP, 64 at once",
    against: "group commit + bare bind probe of the same 4 sockets",
    unit: Unit::PerSecond,
    target: Target::RatioAtLeast(0.5),
};
const ONE: Row = Row {
    name: "ports.one",
    what: "the same, 1 at a time, p50",
    against: "the sum of their p50s",
    unit: Unit::Millis,
    target: Target::RatioAtMost(1.5),
};

/// Below the ports that the kernel gives to connections.
const FIRST: u16 = 10_000;
const LAST: u16 = 32_767;
/// Reserved ports are freed when there are so many.
const FREE_AT: usize = 8192;
/// What a reservation writes: two rows of 41 bytes with their keys, less the key of an insert.
const ROW_BYTES: usize = 66;

pub(super) async fn measure(bench: &Bench, wanted: &Wanted) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    let ports = free()?;
    if wanted.has(&PORTS) {
        let rate = |sample: Sample| sample.rate;
        let (rounds, last) = rounds(bench, &ports, AT_ONCE, rate, Round::of_rates).await?;
        measured.push(Measured::new(PORTS, rounds).noting(last));
    }
    if wanted.has(&ONE) {
        let p50 = |sample: Sample| sample.p50;
        let (rounds, last) = rounds(bench, &ports, 1, p50, Round::of_times).await?;
        measured.push(Measured::new(ONE, rounds).noting(last));
    }
    Ok(measured)
}

async fn rounds(
    bench: &Bench,
    ports: &Arc<[u16]>,
    at_once: usize,
    figure: fn(Sample) -> f64,
    round: fn(f64, Vec<Part>) -> Round,
) -> Result<(Vec<Round>, String)> {
    let (load, mut rounds, mut note) = (bench.load(), Vec::new(), String::new());
    for number in 0..bench.rounds() {
        let first = if number % 2 == 0 { Some(reserve(ports, at_once, load).await?) } else { None };
        let commit = commit::rate(at_once, load, ROW_BYTES).await?;
        let probe = probe(Arc::clone(ports), at_once, load).await?;
        let ours = match first {
            Some(ours) => ours,
            None => reserve(ports, at_once, load).await?,
        };
        let parts = vec![
            Part::one("group commit", figure(commit)),
            Part::one("bare bind probe", figure(probe)),
        ];
        rounds.push(round(figure(ours), parts));
        note = format!("p99 {:.2} ms", ours.p99);
    }
    Ok((rounds, note))
}

/// Ours: the agent's own way from the state to the store, without a message in front of it.
async fn reserve(ports: &[u16], at_once: usize, load: Load) -> Result<Sample> {
    let folder = tempfile::tempdir()?;
    let store = SledStore::open(Options::new(folder.path()))?;
    let ranges = PortRanges::parse("ports_ranges", &stretches(ports))?;
    let keeper = Arc::new(PortKeeper::open(Arc::new(store.clone()), ranges).await?);
    let endpoint = EndpointName::parse("endpoint", "game")?;
    let key = Arc::new(EntityKey { endpoint, number: 1 });
    keeper.add_entity(&key).await?;
    let reserved = Arc::new(Mutex::new(Vec::with_capacity(FREE_AT)));
    let wish = Wish { port: None, protocol: Protocol::Both, count: 1, name: "game".to_owned() };
    let sample = closed_loop(at_once, load, move || {
        let (keeper, key, wish) = (Arc::clone(&keeper), Arc::clone(&key), wish.clone());
        let reserved = Arc::clone(&reserved);
        async move {
            let rows = keeper.reserve(&key, &[wish]).await?;
            let full = {
                let mut reserved = reserved.lock().unwrap_or_else(PoisonError::into_inner);
                reserved.extend(rows.iter().map(|row| row.port));
                (reserved.len() >= FREE_AT).then(|| std::mem::take(&mut *reserved))
            };
            if let Some(ports) = full {
                let freed = keeper.free(&ports, None, None, None).await?;
                if !freed.unknown.is_empty() {
                    return Err("a port that was granted is not reserved".into());
                }
            }
            Ok(())
        }
    })
    .await?;
    store.close().await;
    Ok(sample)
}

/// The sockets that tell that a port is free, bound and closed on the thread that asks.
async fn probe(ports: Arc<[u16]>, at_once: usize, load: Load) -> Result<Sample> {
    let next = Arc::new(AtomicUsize::new(0));
    closed_loop(at_once, load, move || {
        let nth = next.fetch_add(1, Ordering::Relaxed);
        let port = ports.get(nth % ports.len()).copied();
        async move { is_free(port.ok_or("there are ports")?).map(drop) }
    })
    .await
}

/// The ports that nothing holds now: the servers of this bench have some.
fn free() -> Result<Arc<[u16]>> {
    let mut free = Vec::new();
    for port in FIRST..=LAST {
        if is_free(port)? {
            free.push(port);
        }
    }
    if free.is_empty() {
        return Err(format!("no port of {FIRST} to {LAST} is free").into());
    }
    Ok(free.into())
}

/// As an agent's configuration has them.
fn stretches(ports: &[u16]) -> Vec<String> {
    let next = |a: &u16, b: &u16| a + 1 == *b;
    let stretches = ports.chunk_by(next).filter_map(|chunk| Some((chunk.first()?, chunk.last()?)));
    stretches.map(|(first, last)| format!("{first}-{last}")).collect()
}

fn is_free(port: u16) -> Result<bool> {
    for kind in [Type::STREAM, Type::DGRAM] {
        let v4 = bind(Domain::IPV4, kind, (Ipv4Addr::UNSPECIFIED, port).into());
        // While the first is open, as ours has them.
        let v6 = bind(Domain::IPV6, kind, (Ipv6Addr::UNSPECIFIED, port).into());
        let held = |bound: &std::io::Result<Socket>| {
            bound.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
        };
        if held(&v4) || held(&v6) {
            return Ok(false);
        }
        // Any other failure of the second is that the host has no IPv6.
        v4?;
    }
    Ok(true)
}

fn bind(domain: Domain, kind: Type, address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(domain, kind, None)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
