//! Somebody else takes a port between its reservation and the start.

use std::{collections::BTreeSet, fs, net::UdpSocket};

use goperation::{Reason, v1};
use goperation_harness::{holders, poll_for};

use super::{Hold, Stage, agent_dies::kill9, process_of};
use crate::fleet::SOON;

const READY: &str = "ready = { port = \"game\", timeout = \"60s\" }\n";

fn port(entity: &v1::Entity) -> u16 {
    assert_eq!(entity.ports.len(), 1, "{entity:?}");
    entity.ports[0].port.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_says_who_has_its_port() {
    let stage = Stage::start().await;
    let hold = Hold { flags: &[], port: true, process: READY };
    let agent = stage.agent("h1", 4, &hold.toml(&stage)).await;
    let entity = stage.create("hold", agent.id).await.unwrap();
    let foreign = UdpSocket::bind(("127.0.0.1", port(&entity))).unwrap();
    let error = stage.start_entity(&entity).await.unwrap_err();
    assert_eq!(error.reason, Reason::PortTaken, "{error}");
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    for text in [&port(&entity).to_string(), &std::process::id().to_string(), name.trim()] {
        assert!(error.message.contains(text), "{text:?} in: {error}");
    }
    assert!(stage.starts(entity.number).is_empty(), "it was started all the same");
    let shown = stage.status(&entity).await.unwrap();
    assert_eq!(process_of(&shown).1, 0);
    let held: Vec<_> = shown.bound.iter().map(|b| (b.port, b.pid, b.own, b.reserved)).collect();
    let own = std::process::id().cast_signed();
    assert_eq!(held, [(port(&entity).into(), own, false, true)]);
    // Once it is free, the same entity starts on the same port.
    drop(foreign);
    let (state, pid) = process_of(&stage.start_entity(&entity).await.unwrap());
    assert_eq!(state, v1::ProcessState::Running);
    assert_eq!(holders(false, port(&entity)), BTreeSet::from([pid]));
    stage.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_port_is_picked_and_recorded() {
    let stage = Stage::start().await;
    let process = format!("{READY}repick = true");
    let hold = Hold { flags: &[], port: true, process: &process };
    let mut agent = stage.agent("h1", 4, &hold.toml(&stage)).await;
    let entity = stage.create("hold", agent.id).await.unwrap();
    let taken = port(&entity);
    let _foreign = UdpSocket::bind(("127.0.0.1", taken)).unwrap();
    let (state, pid) = process_of(&stage.start_entity(&entity).await.unwrap());
    assert_eq!(state, v1::ProcessState::Running);
    // On the record of the entity, and where ports are listed.
    let (picked, on_entity, listed) = poll_for(SOON, "another port is on record", async || {
        let record = stage.site.entity("hold", entity.number).await.unwrap();
        let [listed] = stage.ports(&agent).await.try_into().expect("one port");
        let changed = port(&record) != taken;
        changed.then(|| (port(&record), record.ports[0].clone(), listed))
    })
    .await;
    assert_eq!((on_entity.name.as_str(), on_entity.protocol()), ("game", v1::Protocol::Udp));
    assert_eq!(
        (listed.port, listed.entity, listed.name.as_str(), listed.protocol()),
        (picked.into(), entity.number, "game", v1::Protocol::Udp)
    );
    assert_eq!(holders(false, picked), BTreeSet::from([pid]));
    let shown = stage.status(&entity).await.unwrap();
    let bound: Vec<_> = shown.bound.iter().map(|b| (b.port, b.pid, b.own, b.reserved)).collect();
    assert_eq!(bound, [(picked.into(), pid.cast_signed(), true, true)]);
    // It stays with that one.
    kill9(&mut agent, false).await;
    agent.start().await;
    let restarted = stage.restart_entity(&entity).await.unwrap();
    assert_eq!(holders(false, picked), BTreeSet::from([process_of(&restarted).1]));
    let again = stage.site.entity("hold", entity.number).await.unwrap();
    assert_eq!(port(&again), picked);
    stage.site.stop().await;
}
