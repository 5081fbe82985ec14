//! Whom a request would touch, in which order, and what is to be expected of each; with a hash by
//! which its execution can demand that it is still so.
//!
//! Invariant: the hash is that of what would be done: method, arguments, roll-out, and the agents
//! in order with batch, entities and reason. The order in which they were found, and the words in
//! which a reason is explained, are not in it.

use goperation::{
    EndpointName, JsonObject, MANAGER_NAMESPACE, MethodName, Ranges, struct_to_json,
    v1::{PlanRequestRequest, PlanRequestResponse, PlannedAgent, Rollout},
};
use prost::Message as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    expect::expect_method,
    rollout::Shape,
    select::{Chosen, Selection},
};
use crate::{app::App, check::Violations, page::hex, record::int};

/// Says which encoding the hash is of.
const ENCODING: &[u8] = b"goperation plan 1";

/// What is asked of the agents.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct What {
    /// `manager`, or the name of an endpoint.
    pub(super) namespace: String,
    pub(super) method: String,
    pub(super) args: JsonObject,
}

impl What {
    /// Reads it; every bad field is collected.
    pub(super) fn read(
        bad: &mut Violations,
        namespace: &str,
        method: &str,
        args: Option<&prost_types::Struct>,
    ) -> Option<Self> {
        let namespace = match namespace {
            "" | MANAGER_NAMESPACE => Some(MANAGER_NAMESPACE.to_owned()),
            name => bad.take(EndpointName::parse("namespace", name)).map(|name| name.to_string()),
        };
        let method = bad.take(MethodName::parse("method", method)).map(|name| name.to_string());
        let args = bad.take(struct_to_json("args", args));
        Some(Self { namespace: namespace?, method: method?, args: args? })
    }
}

/// What a request would do.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// In the order in which they are sent to.
    pub(super) agents: Vec<PlannedAgent>,
    /// Of them: how many would run.
    pub(super) ready: i32,
    pub(super) hash: String,
}

/// Plans a request over the agents that were chosen, in whatever order they come.
pub(super) fn plan(
    namespace: &str,
    method: &str,
    args: &JsonObject,
    rollout: Option<&Rollout>,
    shape: &Shape,
    chosen: &[Chosen],
) -> Plan {
    let mut chosen: Vec<_> = chosen.iter().collect();
    chosen.sort_by_key(|chosen| chosen.agent.id);
    let agents: Vec<_> = chosen
        .into_iter()
        .enumerate()
        .map(|(index, Chosen { agent, online, entities })| {
            let expected = expect_method(agent, *online, namespace, method);
            let (reason, why) =
                expected.map(|(reason, why)| (reason.to_string(), why)).unwrap_or_default();
            PlannedAgent {
                agent_id: int(agent.id),
                host: agent.host.clone(),
                batch: int(shape.batch_of(index)),
                entities: entities.as_ref().map(Ranges::to_string).unwrap_or_default(),
                reason,
                why,
            }
        })
        .collect();
    let ready = agents.iter().filter(|agent| agent.reason.is_empty()).count();
    let hash = hash(namespace, method, args, rollout, &agents);
    Plan { ready: i32::try_from(ready).unwrap_or(i32::MAX), hash, agents }
}

fn hash(
    namespace: &str,
    method: &str,
    args: &JsonObject,
    rollout: Option<&Rollout>,
    agents: &[PlannedAgent],
) -> String {
    let mut hash = Sha256::new();
    // With its length each part stands for itself, whatever it holds.
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    add(ENCODING);
    add(namespace.as_bytes());
    add(method.as_bytes());
    let mut text = String::new();
    write_object(&mut text, args);
    add(text.as_bytes());
    add(&as_written(rollout).encode_to_vec());
    for agent in agents {
        add(&PlannedAgent { why: String::new(), ..agent.clone() }.encode_to_vec());
    }
    hex(&hash.finalize())
}

/// A roll-out without what makes no difference; none is one that says nothing.
fn as_written(rollout: Option<&Rollout>) -> Rollout {
    let mut rollout = rollout.cloned().unwrap_or_default();
    let trim = |text: &mut String| *text = text.trim().to_owned();
    trim(&mut rollout.batch);
    if let Some(text) = &mut rollout.max_failures {
        trim(text);
    }
    rollout.pause = rollout.pause.filter(|pause| (pause.seconds, pause.nanos) != (0, 0));
    rollout
}

/// JSON with sorted keys and no blanks.
fn write_object(text: &mut String, object: &JsonObject) {
    let mut fields: Vec<_> = object.iter().collect();
    fields.sort_unstable_by_key(|(key, _)| *key);
    text.push('{');
    for (i, (key, value)) in fields.into_iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(&Value::from(key.as_str()).to_string());
        text.push(':');
        write(text, value);
    }
    text.push('}');
}

fn write(text: &mut String, value: &Value) {
    match value {
        Value::Object(object) => write_object(text, object),
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                write(text, item);
            }
            text.push(']');
        }
        value => text.push_str(&value.to_string()),
    }
}

impl App {
    /// Plans a request as it would be now; nothing is sent, and nothing is held.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` with every bad field, and whatever a selection may end with.
    pub(crate) async fn plan_request(
        &self,
        q: PlanRequestRequest,
        now: u64,
    ) -> goperation::Result<PlanRequestResponse> {
        let mut bad = Violations::default();
        let what = What::read(&mut bad, &q.namespace, &q.method, q.args.as_ref());
        let namespace = what.as_ref().map_or(q.namespace.as_str(), |what| what.namespace.as_str());
        let selection = Selection::read(&mut bad, namespace, q.on.as_ref());
        Shape::read(&mut bad, q.rollout.as_ref(), 0);
        let (Some(what), Some(selection)) = (what, selection) else { return Err(bad.error()) };
        bad.finish()?;
        let What { namespace, method, args } = what;
        let chosen = self.select(&namespace, &selection, now).await?;
        // Its percentages are of the agents.
        let mut bad = Violations::default();
        let shape = Shape::read(&mut bad, q.rollout.as_ref(), chosen.len());
        bad.finish()?;
        let plan = plan(&namespace, &method, &args, q.rollout.as_ref(), &shape, &chosen);
        Ok(PlanRequestResponse { agents: plan.agents, ready: plan.ready, hash: plan.hash })
    }
}

#[cfg(test)]
mod tests {
    use goperation::{AgentStatus, Reason, v1::AgentEndpoint};
    use proptest::{prelude::*, sample::select};
    use serde_json::json;

    use super::*;
    use crate::record::AgentRecord;

    fn chosen(id: u32, status: AgentStatus, online: bool) -> Chosen {
        let arena = AgentEndpoint { name: "arena".to_owned(), ..AgentEndpoint::default() };
        let agent = AgentRecord {
            id,
            host: format!("h{id}"),
            status: status.number(),
            endpoints: vec![arena],
            ..AgentRecord::default()
        };
        Chosen { agent, online, entities: None }
    }

    /// A request that can be planned.
    #[derive(Debug, Clone)]
    struct Asked {
        namespace: &'static str,
        method: &'static str,
        args: Value,
        rollout: Option<Rollout>,
        chosen: Vec<Chosen>,
    }

    impl Asked {
        fn plan(&self) -> Plan {
            let mut bad = Violations::default();
            let shape = Shape::read(&mut bad, self.rollout.as_ref(), self.chosen.len());
            bad.finish().unwrap();
            let args = self.args.as_object().unwrap();
            let rollout = self.rollout.as_ref();
            plan(self.namespace, self.method, args, rollout, &shape, &self.chosen)
        }

        fn hash_with(&self, change: impl FnOnce(&mut Self)) -> String {
            let mut other = self.clone();
            change(&mut other);
            other.plan().hash
        }
    }

    fn asked() -> Asked {
        let rollout = Rollout { batch: "40%".to_owned(), canary: 1, ..Rollout::default() };
        Asked {
            namespace: "arena",
            method: "tell",
            args: json!({"text": "hi", "to": {"b": [1, 2.5], "a": null}}),
            rollout: Some(rollout),
            chosen: vec![
                chosen(1, AgentStatus::Active, true),
                chosen(2, AgentStatus::Active, false),
                chosen(3, AgentStatus::Unactive, true),
                chosen(5, AgentStatus::HardBusy, true),
                chosen(9, AgentStatus::Active, true),
            ],
        }
    }

    #[test]
    fn a_plan_says_who_when_and_what_is_to_be_expected() {
        let mut asked = asked();
        asked.chosen[0].entities = Some([4, 5, 7].into_iter().collect());
        let plan = asked.plan();
        let told: Vec<_> = plan
            .agents
            .iter()
            .map(|a| (a.agent_id, a.host.as_str(), a.batch, a.entities.as_str(), a.reason.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (1, "h1", 1, "4-5,7", ""),
                (2, "h2", 2, "", "AGENT_OFFLINE"),
                (3, "h3", 2, "", "AGENT_NOT_ACTIVE"),
                (5, "h5", 3, "", "AGENT_BUSY"),
                (9, "h9", 3, "", ""),
            ]
        );
        assert!(plan.agents.iter().all(|agent| agent.why.is_empty() == agent.reason.is_empty()));
        assert_eq!(plan.ready, 2);
        assert_eq!(plan.hash.len(), 64);
    }

    #[test]
    fn the_hash_changes_with_each_part() {
        let asked = asked();
        let rollout = |asked: &mut Asked, change: fn(&mut Rollout)| {
            change(asked.rollout.as_mut().unwrap());
        };
        let mut hashes = vec![
            asked.plan().hash,
            asked.hash_with(|a| a.namespace = "manager"),
            asked.hash_with(|a| a.method = "sing"),
            asked.hash_with(|a| a.args["text"] = json!("ho")),
            asked.hash_with(|a| a.args["to"]["b"] = json!([2.5, 1])),
            asked.hash_with(|a| a.args["to"]["a"] = json!("null")),
            asked.hash_with(|a| a.args = json!({})),
            asked.hash_with(|a| rollout(a, |r| r.batch = "1".to_owned())),
            asked.hash_with(|a| rollout(a, |r| r.canary = 0)),
            asked.hash_with(|a| rollout(a, |r| r.max_failures = Some("0".to_owned()))),
            asked.hash_with(|a| rollout(a, |r| r.max_parallel = 1)),
            asked.hash_with(|a| {
                rollout(a, |r| {
                    r.pause = Some(prost_types::Duration { seconds: 1, nanos: 0 });
                });
            }),
            asked.hash_with(|a| a.rollout = None),
            asked.hash_with(|a| drop(a.chosen.pop())),
            asked.hash_with(|a| a.chosen.push(chosen(10, AgentStatus::Active, true))),
            asked.hash_with(|a| a.chosen[4].agent.id = 8),
            asked.hash_with(|a| a.chosen[4].online = false),
            asked.hash_with(|a| a.chosen[4].agent.status = 0),
            asked.hash_with(|a| a.chosen[4].agent.deleted = true),
            asked.hash_with(|a| a.chosen[4].entities = Some([3].into_iter().collect())),
            asked.hash_with(|a| a.chosen[4].entities = Some([4].into_iter().collect())),
        ];
        let all = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all);
    }

    #[test]
    fn the_hash_does_not_change_with_what_makes_no_difference() {
        let asked = asked();
        let hash = asked.plan().hash;
        let same = |change: fn(&mut Asked)| assert_eq!(asked.hash_with(change), hash);
        same(|a| a.chosen.reverse());
        same(|a| a.args = json!({"to": {"a": null, "b": [1, 2.5]}, "text": "hi"}));
        // Both are AGENT_BUSY.
        same(|a| a.chosen[3].agent.status = AgentStatus::SoftBusy.number());
        same(|a| a.chosen[0].agent.revision += 1);
        same(|a| {
            let rollout = a.rollout.as_mut().unwrap();
            rollout.batch.push(' ');
            rollout.pause = Some(prost_types::Duration::default());
        });
        let none = asked.hash_with(|a| a.rollout = None);
        assert_eq!(asked.hash_with(|a| a.rollout = Some(Rollout::default())), none);
    }

    #[test]
    fn what_is_asked_for_is_read() {
        let mut bad = Violations::default();
        let what = What::read(&mut bad, "", "status_agent", None).unwrap();
        assert_eq!(what.namespace, MANAGER_NAMESPACE);
        assert_eq!(What::read(&mut bad, "Arena", "tell", None).unwrap().namespace, "arena");
        bad.finish().unwrap();
        let mut bad = Violations::default();
        let args = prost_types::Struct {
            fields: [("n".to_owned(), prost_types::Value::from(1e300))].into(),
        };
        assert_eq!(What::read(&mut bad, "a-b", "", Some(&args)), None);
        let fields: Vec<_> = bad.error().violations.into_iter().map(|v| v.field).collect();
        assert_eq!(fields, ["namespace", "method", "args.n"]);
    }

    proptest! {
        #[test]
        fn a_plan_is_the_same_in_whatever_order_its_agents_come(
            (agents, shuffled) in proptest::collection::btree_map(
                1..500_u32,
                (select(AgentStatus::ALL.to_vec()), any::<bool>()),
                0..40,
            )
            .prop_flat_map(|agents| {
                let agents: Vec<_> = agents.into_iter().collect();
                (Just(agents.clone()), Just(agents).prop_shuffle())
            }),
            batch in select(vec!["", "1", "7", "10%", "100%"]),
            canary in 0..5,
        ) {
            let rollout = Rollout { batch: batch.to_owned(), canary, ..Rollout::default() };
            let of = |agents: &[(u32, (AgentStatus, bool))]| {
                let chosen = agents.iter().map(|&(id, (status, on))| chosen(id, status, on));
                let rollout = Some(rollout.clone());
                Asked { rollout, chosen: chosen.collect(), ..asked() }.plan()
            };
            let plan = of(&agents);
            prop_assert_eq!(&of(&shuffled), &plan);
            // Everyone is in it once, by number, and in batches that only go up by one.
            let ids: Vec<_> = agents.iter().map(|(id, _)| int(*id)).collect();
            let planned: Vec<_> = plan.agents.iter().map(|agent| agent.agent_id).collect();
            prop_assert_eq!(planned, ids);
            let batches: Vec<_> = plan.agents.iter().map(|agent| agent.batch).collect();
            prop_assert!(batches.first().is_none_or(|&first| first == 1));
            prop_assert!(batches.windows(2).all(|pair| (0..=1).contains(&(pair[1] - pair[0]))));
            let refused = plan.agents.iter().filter(|a| Reason::parse(&a.reason).is_some()).count();
            prop_assert_eq!(usize::try_from(plan.ready).unwrap() + refused, agents.len());
        }
    }
}
