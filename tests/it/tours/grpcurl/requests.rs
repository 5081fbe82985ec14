//! A request over all agents, and what becomes of it.

use std::collections::BTreeMap;

use serde_json::{Deserializer, Value, json};

use super::{Tour, short, text};
use crate::fleet::SOON;

impl Tour<'_> {
    pub(super) async fn requests(&self) {
        let create = json!({
            "namespace": "sample", "method": "echo", "args": {"x": 1}, "on": {"all": true},
        });
        let begun = self.ask("RequestService/CreateRequest", create).await;
        let begun = &begun["request"];
        let (namespace, method) = (text(&begun["namespace"]), text(&begun["method"]));
        let agents = &begun["counts"]["agents"];
        self.say(format_args!("requested {namespace}.{method} of {agents} agents"));

        // The stream ends with the summary.
        let watch = json!({"id": begun["id"]});
        let mut watch = self.command("RequestService/WatchRequest", &watch);
        let out = tokio::time::timeout(SOON, watch.output()).await.expect("it ends").unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let events = Deserializer::from_slice(&out.stdout).into_iter::<Value>();
        let events: Vec<_> = events.map(Result::unwrap).collect();
        let done = |event: &&Value| event["agent"]["state"] == "RESPONSE_STATE_SUCCEEDED";
        let answers: BTreeMap<_, _> = events
            .iter()
            .filter(done)
            .map(|event| (event["agent"]["agentId"].as_i64(), &event["agent"]["result"]["args"]))
            .collect();
        for (agent, args) in answers {
            self.say(format_args!("answered {} {args}", agent.unwrap()));
        }
        let summary = &events.last().unwrap()["summary"];
        let (state, counts) = (short(&summary["state"], "REQUEST_STATE_"), &summary["counts"]);
        self.say(format_args!(
            "request {namespace}.{method} {state} succeeded={} failed={} silent={}",
            counts["succeeded"], counts["failed"], counts["silent"]
        ));
    }
}
