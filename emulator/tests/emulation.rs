//! Emulated agents with a real manager: each stands and behaves as it shall, also after a restart,
//! and what the ledger says is what happened.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod site;

use std::{collections::BTreeSet, time::Duration};

use goperation::{AgentStatus, Reason};
use goperation_emulator::{
    CHANGING, Conduct, Config, Handle, Role, Share, Standing, effects, memory,
};
use goperation_harness::poll_until;
use tokio::time::Instant;

use site::{Emulation, Site};

/// How long anything that should happen soon may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Numbers at the manager of those whose role is such.
fn ids(handle: &Handle, of: impl Fn(Role) -> bool) -> BTreeSet<u32> {
    let members = handle.members().iter().filter(|member| of(member.role()));
    members.map(|member| member.agent_id().expect("a number")).collect()
}

fn active(role: Role) -> bool {
    role.standing == Standing::Active
}

fn first(handle: &Handle, of: impl Fn(Role) -> bool) -> Role {
    handle.members().iter().map(|member| member.role()).find(|role| of(*role)).unwrap()
}

/// Waits until so many effects of a message are in the ledger.
async fn happened(emulation: &Emulation, message: &str, count: usize) {
    poll_until(SOON, "all effects", async || {
        let found = effects(&emulation.config.ledger).unwrap();
        found.iter().filter(|effect| effect.message_id == message).count() >= count
    })
    .await;
}

/// Every effect in the ledger is of an ACTIVE agent, and happened once.
fn check_ledger(emulation: &Emulation, messages: usize) {
    let found = effects(&emulation.config.ledger).unwrap();
    let active = ids(&emulation.handle, active);
    let distinct: BTreeSet<_> = found.iter().map(|e| (&e.message_id, e.agent)).collect();
    assert_eq!((found.len(), distinct.len()), (active.len() * messages, found.len()));
    for member in emulation.handle.members() {
        let role = member.role();
        let of_this = found.iter().filter(|effect| Some(effect.agent) == member.agent_id());
        let of_this: Vec<_> = of_this.collect();
        let wanted = if active.contains(&member.agent_id().unwrap()) { messages } else { 0 };
        assert_eq!(of_this.len(), wanted, "{role:?}");
        assert!(of_this.iter().all(|effect| effect.conduct == role.conduct.name()), "{role:?}");
    }
}

/// Whether the manager's record of every agent says where it stands.
async fn check_records(site: &Site, handle: &Handle) {
    for member in handle.members() {
        let role = member.role();
        let record = site.show(member.agent_id().unwrap()).await;
        let (status, online) = match role.standing {
            Standing::Active => (AgentStatus::Active, true),
            Standing::Unactive => (AgentStatus::Unactive, true),
            Standing::SoftBusy => (AgentStatus::SoftBusy, true),
            Standing::HardBusy => (AgentStatus::HardBusy, true),
            Standing::PerDelete => (AgentStatus::PerDelete, true),
            Standing::Deleted => (AgentStatus::Deleted, record.online),
            Standing::Offline => (AgentStatus::Active, false),
        };
        assert_eq!((record.status, record.online), (status.number(), online), "{role:?}");
        assert_eq!(record.host, role.host());
        let runs = !matches!(role.standing, Standing::Deleted | Standing::Offline);
        assert_eq!(member.agent().is_some(), runs, "{role:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_stands_and_behaves_as_it_shall_also_after_a_restart() {
    let site = Site::embedded().await;
    let two = Share::Count(2);
    let config = Config {
        fail: two,
        silent: two,
        late: two,
        late_by: Duration::from_secs(3600),
        latency: Duration::from_millis(1),
        seed: 7,
        status: vec![
            (Standing::Unactive, two),
            (Standing::SoftBusy, Share::Count(1)),
            (Standing::HardBusy, two),
            (Standing::PerDelete, Share::Count(1)),
            (Standing::Deleted, two),
            (Standing::Offline, two),
        ],
        ..Config::new(30, site.path().join("emulation"))
    };
    let emulation = Emulation::start(&site, config.clone()).await;
    check_records(&site, &emulation.handle).await;
    let all = ids(&emulation.handle, |_| true);
    assert_eq!(all.len(), 30);

    let active_ids = ids(&emulation.handle, active);
    assert_eq!(active_ids.len(), 20);
    let one = site.cast(CHANGING, "").await;
    happened(&emulation, &one, 20).await;
    site.cast(CHANGING, &one).await;
    let two = site.cast(CHANGING, "").await;
    happened(&emulation, &two, 20).await;
    check_ledger(&emulation, 2);

    let good = first(&emulation.handle, |r| active(r) && r.conduct == Conduct::Good);
    let failing = first(&emulation.handle, |r| r.conduct == Conduct::Failing);
    let busy = first(&emulation.handle, |r| r.standing == Standing::Unactive);
    let answer = site.call(&good.host(), "look").await.unwrap();
    assert_eq!(answer["method"], "look");
    let refused = async |role: Role| site.call(&role.host(), "look").await.unwrap_err().reason;
    assert_eq!(refused(failing).await, Reason::MethodFailed);
    assert_eq!(refused(busy).await, Reason::AgentNotActive);
    emulation.stop().await;

    let emulation = Emulation::start(&site, config).await;
    check_records(&site, &emulation.handle).await;
    assert_eq!(ids(&emulation.handle, |_| true), all);
    // Known to the journals, which are in the one store.
    site.cast(CHANGING, &one).await;
    let three = site.cast(CHANGING, "").await;
    happened(&emulation, &three, 20).await;
    check_ledger(&emulation, 3);
    emulation.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_share_connections_and_come_back_when_those_are_cut() {
    let site = Site::rabbit(2).await;
    let config = Config {
        status: vec![(Standing::Offline, Share::Count(2))],
        ..Config::new(12, site.path().join("emulation"))
    };
    let emulation = Emulation::start(&site, config).await;
    check_records(&site, &emulation.handle).await;
    // Two for each six agents, and two of the bridge.
    assert_eq!(site.connections().await, 6);
    // The queue of an agent goes with it, though the connection stays.
    for member in emulation.handle.members() {
        let there = active(member.role());
        poll_until(SOON, "the CALL queue is there or gone", async || {
            site.is_callable(&member.role().host()).await == there
        })
        .await;
    }
    let one = site.cast(CHANGING, "").await;
    happened(&emulation, &one, 10).await;

    site.cut_connections().await;
    poll_until(SOON, "the agents consume again", async || {
        let mut agents = emulation.handle.members().iter().filter_map(|member| member.agent());
        agents.all(|agent| agent.is_connected())
    })
    .await;
    poll_until(SOON, "the bridge is back", async || site.try_cast(CHANGING).await.is_some()).await;
    poll_until(SOON, "all effects", async || {
        effects(&emulation.config.ledger).unwrap().len() == 20
    })
    .await;
    check_ledger(&emulation, 2);
    emulation.stop().await;
    site.stop().await;
}

/// What an agent costs: `cargo nextest run -p goperation-emulator heavy --no-capture`. The figure is
/// that of this process, so it has in it what the manager keeps of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_thousand_agents_cost_little_each() {
    const AGENTS: u32 = 1000;
    const MOST: u64 = 512 << 10;
    let site = Site::rabbit(10).await;
    let before = memory().unwrap();
    let begun = Instant::now();
    let config = Config::new(AGENTS, site.path().join("emulation"));
    let emulation = Emulation::start(&site, config).await;
    let ready = begun.elapsed();
    let after = memory().unwrap();
    let begun = Instant::now();
    let message = site.cast(CHANGING, "").await;
    happened(&emulation, &message, AGENTS as usize).await;
    let ran = begun.elapsed();
    check_ledger(&emulation, 1);
    let each = |bytes: u64| bytes.saturating_sub(before) / u64::from(AGENTS);
    let (idle, used) = (each(after), each(memory().unwrap()));
    println!(
        "{AGENTS} agents ready in {ready:?}, one broadcast in {ran:?}; {} KiB each, {} KiB after it",
        idle >> 10,
        used >> 10
    );
    assert!(used < MOST, "{used} bytes each");
    emulation.stop().await;
    site.stop().await;
}
