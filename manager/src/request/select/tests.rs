//! Selections over small fleets: the rules one by one, and all of them against a plain model.

use goperation::v1::{AgentEndpoint, AgentFacts};
use proptest::{option, prelude::*, sample::select};

use super::*;

const NOW: u64 = 1_000_000;

fn host(id: u32, change: impl FnOnce(&mut Host)) -> Host {
    let arena = AgentEndpoint { name: "arena".to_owned(), ..AgentEndpoint::default() };
    let agent = AgentRecord {
        id,
        host: format!("h{id}"),
        status: 1,
        endpoints: vec![arena],
        facts: Some(AgentFacts { cpu: 4, ..AgentFacts::default() }),
        ..AgentRecord::default()
    };
    let mut host = Host { agent, online: true, entities: 0 };
    change(&mut host);
    host
}

fn delete(host: &mut Host) {
    host.agent.deleted = true;
    host.agent.status = AgentStatus::Deleted.number();
}

fn fleet(last: u32, hosts: impl IntoIterator<Item = Host>, entities: &[(u32, u32)]) -> Fleet {
    let hosts = hosts.into_iter().map(|host| (host.agent.id, host)).collect();
    Fleet { hosts, last, entities: entities.iter().copied().collect() }
}

fn read(on: &RequestSelection) -> Result<Selection> {
    let mut bad = Violations::default();
    let selection = Selection::read(&mut bad, "arena", Some(on));
    bad.finish().map(|()| selection.unwrap())
}

fn on(change: impl FnOnce(&mut RequestSelection)) -> RequestSelection {
    let mut on = RequestSelection::default();
    change(&mut on);
    on
}

fn chosen(on: &RequestSelection, fleet: Fleet) -> Result<Vec<u32>> {
    let chosen = read(on).unwrap().choose(fleet, NOW)?;
    Ok(chosen.into_iter().map(|chosen| chosen.agent.id).collect())
}

/// 1 active, 2 unactive, 3 deleted, 4 cleaned, 5 offline, 6 of another endpoint, 7 in PERDELETE.
fn small() -> Fleet {
    let hosts = [
        host(7, |h| h.agent.status = AgentStatus::PerDelete.number()),
        host(6, |h| h.agent.endpoints[0].name = "race".to_owned()),
        host(5, |h| h.online = false),
        host(3, delete),
        host(2, |h| h.agent.status = 0),
        host(1, |_| ()),
    ];
    fleet(7, hosts, &[(10, 1), (11, 2), (12, 1), (14, 5)])
}

#[test]
fn all_is_everyone_above_deleted_whatever_it_does() {
    let all = on(|on| on.all = true);
    assert_eq!(chosen(&all, small()).unwrap(), [1, 2, 5, 6]);
    assert!(chosen(&all, Fleet::default()).unwrap().is_empty());
    let endpoint = on(|on| on.endpoint = "Arena".to_owned());
    assert_eq!(chosen(&endpoint, small()).unwrap(), [1, 2, 5]);
}

#[test]
fn who_is_named_is_chosen_also_when_deleted() {
    let named = on(|on| on.agents = "6,1-4,7,2".to_owned());
    let chosen = read(&named).unwrap().choose(small(), NOW).unwrap();
    let told: Vec<_> = chosen.iter().map(|c| (c.agent.id, c.agent.deleted)).collect();
    assert_eq!(told, [(1, false), (2, false), (3, true), (4, true), (6, false), (7, false)]);
    assert!(chosen.iter().all(|chosen| chosen.entities.is_none()));
}

#[test]
fn numbers_that_never_were_are_all_named() {
    let of =
        |agents: &str, fleet| chosen(&on(|on| on.agents = agents.to_owned()), fleet).unwrap_err();
    let error = of("1-9,12,20-4294967295", small());
    assert_eq!(error.reason, Reason::AgentNotFound);
    assert_eq!(error.metadata["agents"], "8-9,12,20-4294967295");
    assert_eq!(error.message, "there are no agents 8-9,12,20-4294967295");
    // Number 9 has registered since the last number was read.
    let newer = || fleet(7, [host(9, |_| ())], &[]);
    assert_eq!(of("8-11", newer()).metadata["agents"], "8,10-11");
    assert_eq!(chosen(&on(|on| on.agents = "9".to_owned()), newer()).unwrap(), [9]);
    let many: Vec<_> = (1..300).map(|n| (2 * n + 10).to_string()).collect();
    let error = of(&many.join(","), small());
    assert!(error.message.ends_with(",138 and 235 more ranges"), "{}", error.message);
}

#[test]
fn conditions_narrow_it() {
    let of = |change: fn(&mut RequestSelection)| chosen(&on(change), small()).unwrap();
    assert_eq!(of(|on| on.filter = "online = true".to_owned()), [1, 2, 6]);
    assert_eq!(of(|on| on.filter = "status = 0".to_owned()), [2]);
    assert_eq!(of(|on| on.includes = vec!["id>1".to_owned(), "cpu>=4".to_owned()]), [2, 5, 6]);
    assert!(of(|on| on.includes = vec!["memory>1".to_owned()]).is_empty());
    let both = |on: &mut RequestSelection| {
        on.agents = "1-4".to_owned();
        on.filter = "state = DELETED".to_owned();
    };
    assert_eq!(of(both), [3, 4]);
    let nobody = on(|on| on.endpoint = "chess".to_owned());
    assert_eq!(chosen(&nobody, small()).unwrap_err().reason, Reason::EndpointNotFound);
}

#[test]
fn each_agent_gets_its_own_entities() {
    let of = |agents: &str, entities: &str| {
        let on = on(|on| {
            on.agents = agents.to_owned();
            on.entities = entities.to_owned();
        });
        let chosen = read(&on).unwrap().choose(small(), NOW)?;
        let text = |chosen: Chosen| (chosen.agent.id, chosen.entities.unwrap().to_string());
        Ok::<Vec<_>, Error>(chosen.into_iter().map(text).collect())
    };
    let pairs = |pairs: &[(u32, &str)]| {
        pairs.iter().map(|&(agent, text)| (agent, text.to_owned())).collect::<Vec<_>>()
    };
    let all = pairs(&[(1, "10,12"), (2, "11"), (5, "14")]);
    assert_eq!(of("", "all").unwrap(), all);
    assert_eq!(of("", " ALL ").unwrap(), all);
    assert_eq!(of("", "12,11").unwrap(), pairs(&[(1, "12"), (2, "11")]));
    assert_eq!(of("2-4", "10-12").unwrap(), pairs(&[(2, "11")]));
    assert!(of("6", "all").unwrap().is_empty());
    let error = of("", "9-14,4000000000").unwrap_err();
    assert_eq!(error.reason, Reason::EntityNotFound);
    assert_eq!(error.metadata["entities"], "9,13,4000000000");
}

#[test]
fn every_bad_field_is_named() {
    let bad = RequestSelection {
        all: true,
        agents: "0".to_owned(),
        endpoint: "a-b".to_owned(),
        filter: "cpus = 1".to_owned(),
        includes: vec!["cpu>1".to_owned(), "cpu".to_owned()],
        entities: "x".to_owned(),
    };
    let fields =
        |bad: Violations| bad.error().violations.into_iter().map(|v| v.field).collect::<Vec<_>>();
    let of = |namespace: &str, on: Option<&RequestSelection>| {
        let mut bad = Violations::default();
        assert!(Selection::read(&mut bad, namespace, on).is_none());
        fields(bad)
    };
    let mut named = of("arena", Some(&bad));
    named.sort_unstable();
    assert_eq!(
        named,
        ["on.agents", "on.all", "on.endpoint", "on.entities", "on.filter", "on.includes[1]"]
    );
    assert_eq!(of("arena", None), ["on"]);
    assert_eq!(of("arena", Some(&RequestSelection::default())), ["on"]);
    let of_entities = on(|on| on.entities = "all".to_owned());
    assert_eq!(of(MANAGER_NAMESPACE, Some(&of_entities)), ["on.entities"]);
    let long = on(|on| on.agents = "1,".repeat(LONGEST));
    assert_eq!(of("arena", Some(&long)), ["on.agents"]);
}

#[derive(Debug, Clone)]
struct Drawn {
    /// Not on record: it was cleaned.
    cleaned: bool,
    status: AgentStatus,
    online: bool,
    arena: bool,
    cpu: i32,
    entities: u32,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let status = select(AgentStatus::ALL.to_vec());
    (prop::bool::weighted(0.1), status, any::<bool>(), any::<bool>(), 1..8_i32, 0..3_u32).prop_map(
        |(cleaned, status, online, arena, cpu, entities)| Drawn {
            cleaned,
            status,
            online,
            arena,
            cpu,
            entities: if cleaned { 0 } else { entities },
        },
    )
}

proptest! {
    #[test]
    fn a_selection_is_the_models(
        drawn in proptest::collection::vec(drawn(), 1..20),
        named in option::of(proptest::collection::vec(1..20_u32, 1..8)),
        endpoint in any::<bool>(),
        online in option::of(any::<bool>()),
        cpu in option::of(1..8_i32),
        entities in any::<bool>(),
    ) {
        let id = |place: usize| u32::try_from(place).unwrap() + 1;
        let last = id(drawn.len() - 1);
        // What each agent is, as it is on record.
        let is_deleted = |d: &Drawn| d.cleaned || d.status == AgentStatus::Deleted;
        let mut number = 0;
        let mut on_agents = Vec::new();
        for (place, d) in drawn.iter().enumerate() {
            for _ in 0..d.entities {
                number += 1;
                on_agents.push((number, id(place)));
            }
        }
        let hosts = drawn.iter().enumerate().filter(|(_, d)| !d.cleaned).map(|(place, d)| {
            host(id(place), |host| {
                host.online = d.online;
                host.agent.status = d.status.number();
                host.agent.deleted = is_deleted(d);
                host.agent.facts.as_mut().unwrap().cpu = d.cpu;
                if !d.arena {
                    host.agent.endpoints.clear();
                }
            })
        });
        let fleet = fleet(last, hosts, &on_agents);
        let asked = RequestSelection {
            all: named.is_none(),
            agents: named.iter().flatten().map(u32::to_string).collect::<Vec<_>>().join(","),
            endpoint: if endpoint { "arena".to_owned() } else { String::new() },
            filter: online.map(|online| format!("online = {online}")).unwrap_or_default(),
            includes: cpu.map(|cpu| format!("cpu >= {cpu}")).into_iter().collect(),
            entities: if entities { "all".to_owned() } else { String::new() },
        };
        let result = read(&asked).unwrap().choose(fleet, NOW);

        if endpoint && !drawn.iter().any(|d| d.arena && !is_deleted(d)) {
            prop_assert_eq!(result.unwrap_err().reason, Reason::EndpointNotFound);
            return Ok(());
        }
        if named.iter().flatten().any(|&n| n > last) {
            prop_assert_eq!(result.unwrap_err().reason, Reason::AgentNotFound);
            return Ok(());
        }
        let expected: Vec<_> = (0..drawn.len())
            .filter(|&place| {
                let d = &drawn[place];
                let based = match &named {
                    Some(named) => named.contains(&id(place)),
                    None => !is_deleted(d) && d.status != AgentStatus::PerDelete,
                };
                based
                    && (!endpoint || d.arena && !d.cleaned)
                    && online.is_none_or(|online| online == (d.online && !d.cleaned))
                    && cpu.is_none_or(|cpu| !d.cleaned && d.cpu >= cpu)
                    && (!entities || d.entities > 0)
            })
            .map(|place| {
                let mine = on_agents.iter().filter(|(_, agent)| *agent == id(place));
                (id(place), entities.then(|| mine.map(|(number, _)| *number).collect::<Ranges>()))
            })
            .collect();
        let chosen: Vec<_> =
            result.unwrap().into_iter().map(|c| (c.agent.id, c.entities)).collect();
        prop_assert_eq!(chosen, expected);
    }
}
