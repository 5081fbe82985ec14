//! `gop emulate`: many agents in a process of their own, which is killed in the middle of its work.

use std::collections::{BTreeMap, BTreeSet};

use goperation::{Error, v1};
use goperation_emulator::CHANGING;
use goperation_harness::{gop_output, poll_until};
use serde_json::json;

use crate::{
    emulation::Emulation,
    fleet::{SOON, everybody},
    procs::{Site, WAIT},
};

const AGENTS: usize = 20;

/// CASTs the changing method to all.
async fn cast(site: &Site) -> Result<String, Error> {
    let request = v1::CastRequest {
        target: Some(everybody("stub")),
        method: CHANGING.to_owned(),
        ..v1::CastRequest::default()
    };
    let mut bridge = v1::bridge_service_client::BridgeServiceClient::new(site.channel.clone());
    let sent = bridge.cast(request).await.map_err(|status| Error::from_status(&status))?;
    Ok(sent.into_inner().message_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_emulation_goes_on_and_nothing_happens_twice() {
    let site = Site::start().await;
    let agents = AGENTS.to_string();
    let emulation =
        Emulation::of(&site, "emulation", &["--agents", &agents, "--latency", "300ms", "--fail", "10%"]);
    let mut process = emulation.start().await;
    assert!(process.ready_line().starts_with("ready agents=20 data_dir="), "{process:?}");

    // While a method of each runs that has its effect only later.
    let first = cast(&site).await.unwrap();
    // The question itself is one.
    let running = async |host: &str| {
        let status = site.call(host, "manager", "status_agent", json!({}), WAIT).await;
        status.is_ok_and(|status| status["working_on"].as_u64() >= Some(2))
    };
    poll_until(SOON, "the method runs", async || running("emu-00001").await).await;
    process.kill9();
    let mut process = emulation.start().await;
    let second = cast(&site).await.unwrap();
    poll_until(SOON, "all do the second", async || emulation.effects(&second).len() >= AGENTS)
        .await;

    let mut conducts = BTreeMap::new();
    for effect in emulation.effects(&second) {
        assert!(conducts.insert(effect.agent, effect.conduct).is_none(), "twice: {effect}");
    }
    assert_eq!(conducts.values().filter(|conduct| **conduct == "failing").count(), 2);
    // Some were killed before their effect, and did not begin again; the seed is the same.
    let done = emulation.effects(&first);
    let distinct: BTreeSet<u32> = done.iter().map(|effect| effect.agent).collect();
    assert_eq!(done.len(), distinct.len(), "{done:?}");
    for effect in done {
        assert_eq!(conducts[&effect.agent], effect.conduct);
    }
    process.term();
    let ended = process.wait(SOON).await;
    assert!(ended.success(), "{ended}");
    site.stop().await;
}

#[tokio::test]
async fn what_cannot_be_emulated_is_refused_before_anything_starts() {
    for (bad, said) in [
        (["--status", "busy=3"], "none of active"),
        (["--fail", "5%%"], "percentage"),
        (["--silent", "101"], "only 100 are left"),
        (["--agents", "0"], "--agents"),
        (["--broker", "http://127.0.0.1"], "amqp://"),
    ] {
        let mut args = vec!["emulate"];
        if bad[0] != "--broker" {
            args.extend(["--broker", "amqp://127.0.0.1:1"]);
        }
        args.extend(bad);
        let output = gop_output(args, SOON).await;
        assert_eq!(output.status.code(), Some(2), "{bad:?}: {}", output.stderr);
        assert!(output.stderr.contains(said), "{bad:?}: {}", output.stderr);
    }
}
