//! `gop emulate`: many agents in a process of their own, which is killed in the middle of its work.

use std::{collections::BTreeSet, ops::RangeInclusive};

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

/// How many messages each agent has begun, at least: the question itself is one more.
async fn all_work(site: &Site, agents: RangeInclusive<usize>, messages: u64) {
    for number in agents {
        let host = format!("emu-{number:05}");
        poll_until(SOON, "the methods run", async || {
            let status = site.call(&host, "manager", "status_agent", json!({}), WAIT).await;
            status.is_ok_and(|status| status["working_on"].as_u64() > Some(messages))
        })
        .await;
    }
}

/// The agents that had the effect of a message, none of them twice.
fn agents_of(emulation: &Emulation, message: &str) -> BTreeSet<u32> {
    let mut agents = BTreeSet::new();
    for effect in emulation.effects(message) {
        assert!(agents.insert(effect.agent), "twice: {effect}");
    }
    agents
}

/// One fleet of two processes: in one the effects come at once, in the other not before it is
/// killed. So each message is killed when some have had its effect and some have not.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_emulation_goes_on_and_nothing_happens_twice() {
    let site = Site::start().await;
    let (half, next) = ((AGENTS / 2).to_string(), (AGENTS / 2 + 1).to_string());
    let at_once = ["--latency", "10ms", "--fail", "20%", "--agents", &half];
    let fast = Emulation::of(&site, "fast", &at_once);
    let args = ["--first", &next, "--agents", &half, "--latency"];
    let slow = Emulation::of(&site, "slow", &[&args[..], &["1h"]].concat());
    // The same folder and agents.
    let slow_no_more = Emulation::of(&site, "slow", &[&args[..], &["10ms"]].concat());
    let mut fast_process = fast.start().await;
    let line = fast_process.ready_line();
    assert!(line.starts_with("ready agents=10 data_dir="), "{fast_process:?}");
    let mut slow_process = slow.start().await;

    // Twice, so that one that was killed is killed once more.
    let mut broken_off = Vec::new();
    for _ in 0..2 {
        let message = cast(&site).await.unwrap();
        poll_until(SOON, "some effects", async || !fast.effects(&message).is_empty()).await;
        fast_process.kill9();
        all_work(&site, AGENTS / 2 + 1..=AGENTS, 1).await;
        slow_process.kill9();
        assert_eq!(slow.effects(&message), []);
        broken_off.push((agents_of(&fast, &message), message));
        fast_process = fast.start().await;
        slow_process = slow.start().await;
    }
    slow_process.kill9();
    let mut slow_process = slow_no_more.start().await;
    let last = cast(&site).await.unwrap();
    for emulation in [&fast, &slow] {
        poll_until(SOON, "all do the last", async || emulation.effects(&last).len() >= AGENTS / 2)
            .await;
        assert_eq!(agents_of(emulation, &last).len(), AGENTS / 2);
    }
    let failing = fast.effects(&last).iter().filter(|effect| effect.conduct == "failing").count();
    assert_eq!(failing, 2);
    for (before, message) in broken_off {
        // What had not begun may have run later, and nobody had its effect twice.
        assert!(agents_of(&fast, &message).is_superset(&before));
        assert_eq!(slow.effects(&message), [], "what was begun is not run again");
    }
    for process in [&mut fast_process, &mut slow_process] {
        process.term();
        let ended = process.wait(SOON).await;
        assert!(ended.success(), "{ended}");
    }
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
