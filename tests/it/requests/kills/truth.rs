//! What the rows of a request may say, by the ledgers of the agents.

use std::collections::BTreeMap;

use goperation::{Reason, v1};
use goperation_emulator::{CHANGING, IDEMPOTENT};

use super::{Stage, process_of, round::Ran};
use crate::requests::stage::of_agent;

/// How often each agent had the effect of a request, and how it behaves.
pub(super) type Effects = BTreeMap<u32, (usize, &'static str)>;
pub(super) type Rows = BTreeMap<i32, v1::AgentResponse>;

impl Stage {
    /// Every row says what has happened, and nothing has happened twice.
    ///
    /// Twice is: two lines for one message of one agent. What is declared idempotent may have one
    /// line more for the kill of its agent, which had it started (contract §3); `work` may not.
    pub(super) fn is_true(&self, ran: &Ran, rows: &Rows, effects: &Effects) {
        for (agent, (count, _)) in effects {
            let row = &rows[&i32::try_from(*agent).unwrap()];
            let killed = process_of(&row.host) == ran.victim;
            let most = 1 + usize::from(killed && ran.method == IDEMPOTENT);
            assert!(*count <= most, "{count} effects, {ran:?}: {row:?}");
        }
        for (agent, row) in rows {
            let effect = effects.get(&u32::try_from(*agent).unwrap()).copied();
            let about = || format!("{effect:?}, {ran:?}: {row:?}");
            is_possible(ran, row, effect).unwrap_or_else(|why| panic!("{why}: {}", about()));
        }
    }
}

fn is_possible(
    ran: &Ran,
    row: &v1::AgentResponse,
    effect: Option<(usize, &str)>,
) -> Result<(), &'static str> {
    use v1::ResponseState as S;
    let killed = process_of(&row.host) == ran.victim;
    let changes = [CHANGING, IDEMPOTENT].contains(&ran.method.as_str());
    let must = |holds: bool, why: &'static str| if holds { Ok(()) } else { Err(why) };
    match row.state() {
        S::Succeeded => {
            must(effect.is_some() == changes, "no effect, or one too many")?;
            must(effect.is_none_or(|(_, conduct)| conduct != "failing"), "it has failed")
        }
        S::Failed if row.reason == Reason::MethodFailed.as_str() => {
            must(effect.is_some_and(|(_, conduct)| conduct == "failing"), "it has not failed")
        }
        S::Failed => {
            must(row.reason == Reason::Interrupted.as_str(), "no reason to fail")?;
            must(killed, "nobody has interrupted it")
        }
        // Whoever was ended by a kill before it began may have got its message too late.
        S::Silent => {
            must(effect.is_none(), "its effect is there")?;
            let by_time =
                [Reason::OverFinishtime, Reason::OutcomeUnknown, Reason::BrokerUnavailable]
                    .map(Reason::as_str)
                    .contains(&row.reason.as_str());
            let away = [Reason::AgentOffline, Reason::AgentBusy].map(Reason::as_str);
            let away = killed && away.contains(&row.reason.as_str());
            must(by_time || away, "no reason to be silent")
        }
        _ => Err("it has not ended"),
    }
}

/// What of a request is not settled yet, if anything: an answer that an agent has, and that has not
/// come.
pub(super) fn unsettled(
    events: &[v1::WatchRequestResponse],
    rows: &Rows,
    effects: &Effects,
) -> Option<String> {
    use v1::ResponseState as S;
    for agent in effects.keys() {
        let row = &rows[&i32::try_from(*agent).unwrap()];
        if !matches!(row.state(), S::Succeeded | S::Failed) {
            return Some(format!("its effect is there, its answer is not: {row:?}"));
        }
    }
    let mut last = BTreeMap::new();
    for event in events.iter().filter_map(of_agent) {
        last.insert(event.agent_id, event);
        // It was in the journal, so it has an end, which is told.
        let journaled = matches!(event.state(), S::Accepted | S::Running);
        let row = &rows[&event.agent_id];
        if journaled && row.server_time.is_none() {
            return Some(format!("it has not said how it ended: {row:?}"));
        }
    }
    for row in rows.values() {
        let told = last.get(&row.agent_id).map(|event| (event.state(), event.late));
        if told != Some((row.state(), row.late)) {
            return Some(format!("{told:?} was told, and it is {row:?}"));
        }
    }
    None
}
