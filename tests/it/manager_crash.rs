//! The manager is killed with SIGKILL while agents register and entities come and go (contract
//! §7): no number is given twice, and reconcile mends every difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream};
use goperation::{AgentStatus, Error, Reason, Secret, v1};
use goperation_agent::{Config, Exit, Handle, Parts, RunError};
use goperation_harness::{Ledger, poll_until};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::{
    fleet::SOON,
    procs::{Clients, Site, WAIT},
};

const AGENTS: usize = 3;
const REGISTRATIONS: usize = 200;
const CREATES: usize = 200;
const KILLS: usize = 14;
/// The seed, unless the environment variable names another one.
const SEED: u64 = 0x6f70_6572_6174_6f72;
const SEED_ENV: &str = "GOP_TEST_SEED";
/// Reconcile is given this long after the last kill.
const MENDED: Duration = Duration::from_secs(60);

/// An agent in this process.
struct Local {
    host: String,
    id: i32,
    handle: Handle,
    stop: CancellationToken,
    living: JoinHandle<Result<Exit, RunError>>,
}

impl Local {
    async fn start(site: &Site, number: usize) -> Self {
        let host = format!("real{number}");
        let toml = format!(
            "work_dir = {:?}\nhost = {host:?}\naddress = \"127.0.0.1\"\n\
             ports_ranges = [\"{}-{}\"]\n[endpoints.kk.methods.status]\nprogram = [\"/bin/cat\"]\n",
            site.path().join(&host),
            22_000 + 400 * number,
            22_399 + 400 * number,
        );
        let config = Config::from_toml(Path::new("agent.toml"), &toml).unwrap();
        let parts = Parts {
            transport: Arc::clone(&site.transport),
            manager: site.channel.clone(),
            launcher: Vec::new(),
        };
        let stop = CancellationToken::new();
        let (handle, living) = goperation_agent::start(config, parts, stop.clone()).await.unwrap();
        poll_until(SOON, "the agent consumes", async || handle.is_connected()).await;
        let id = handle.agent_id().unwrap().try_into().unwrap();
        site.activate(id).await;
        Self { host, id, handle, stop, living }
    }
}

/// What the callers were told.
struct Told {
    /// Each answered number with whom it is for: the outside ledger.
    ledger: Ledger,
    /// Operations that have ended, well or not: the killer's clock.
    ended: AtomicUsize,
    /// Operations broken off by a kill.
    broken: AtomicUsize,
    /// Whether a manager serves. Who does not repeat what failed begins nothing without one: all
    /// would be spent while it starts, and nothing left for the next kill.
    serves: watch::Sender<bool>,
}

impl Told {
    fn ended<T>(&self, answer: &Result<T, Error>) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if answer.is_err() {
            self.broken.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Registers a host, as an agent does: again with the same secret until it is answered.
async fn register(site: &Clients, told: &Told, number: usize) {
    let secret = Secret::generate();
    let host = format!("plain{number}");
    loop {
        let mut request = Request::new(v1::CreateAgentRequest {
            r#type: "application".to_owned(),
            host: host.clone(),
            secret: secret.reveal().to_owned(),
            ..Default::default()
        });
        request.set_timeout(WAIT);
        let answer = site.agents().create_agent(request).await.map_err(|s| Error::from_status(&s));
        told.ended(&answer);
        match answer {
            Ok(answer) => {
                let id = answer.into_inner().agent.unwrap().id;
                return told.ledger.append(&format!("agent {id} {host}"));
            }
            Err(error) if is_passing(&error) => sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("registration of {host}: {error}"),
        }
    }
}

/// What may come of a manager that dies or has just come back.
fn is_passing(error: &Error) -> bool {
    use Reason::{
        AgentBusy, AgentNotActive, AgentOffline, BrokerUnavailable, Internal, OutcomeUnknown,
        QueueNotFound, Unavailable,
    };
    matches!(
        error.reason,
        Unavailable
            | OutcomeUnknown
            | Internal
            | BrokerUnavailable
            | AgentOffline
            | AgentBusy
            | AgentNotActive
            | QueueNotFound
    )
}

/// Creates an entity once. The number of a failed one is burnt, and counts too.
async fn create(site: &Clients, told: &Told, agent: i32, ports: i32) -> Option<i32> {
    let wish = v1::PortWish { count: ports, protocol: 1, ..Default::default() };
    let mut request = Request::new(v1::CreateEntityRequest {
        endpoint: "kk".to_owned(),
        agent_id: agent,
        ports: (ports > 0).then_some(wish).into_iter().collect(),
        ..Default::default()
    });
    request.set_timeout(WAIT);
    let answer = site.entities().create_entity(request).await.map_err(|s| Error::from_status(&s));
    told.ended(&answer);
    match answer {
        Ok(answer) => {
            let number = answer.into_inner().entity.unwrap().number;
            told.ledger.append(&format!("entity {number} created"));
            Some(number)
        }
        Err(error) if is_passing(&error) => {
            if let Some(number) = error.metadata.get("entity") {
                told.ledger.append(&format!("entity {number} burnt"));
            }
            sleep(Duration::from_millis(50)).await;
            None
        }
        Err(error) => panic!("a create on agent {agent}: {error}"),
    }
}

/// Deletes an entity; again until it is answered when the caller is a patient one.
async fn delete(site: &Clients, told: &Told, number: i32, patient: bool) {
    loop {
        let mut request = Request::new(v1::DeleteEntityRequest {
            endpoint: "kk".to_owned(),
            number,
            ..Default::default()
        });
        request.set_timeout(WAIT);
        let answer = site.entities().delete_entity(request).await;
        let answer = answer.map_err(|s| Error::from_status(&s));
        told.ended(&answer);
        match answer {
            Ok(_) => return told.ledger.append(&format!("entity {number} deleted")),
            Err(error) if is_passing(&error) => {}
            Err(error) => panic!("delete of entity {number}: {error}"),
        }
        if !patient {
            return told.ledger.append(&format!("entity {number} perhaps deleted"));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Everything at once, in a seeded mix: three registrars, four who create and delete.
async fn load(site: &Clients, told: &Told, agents: &[i32], seed: u64) {
    let registrars = stream::iter(0..REGISTRATIONS)
        .for_each_concurrent(3, async |number| register(site, told, number).await);
    let creators = stream::iter(0..CREATES).for_each_concurrent(4, async |place| {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(place as u64));
        told.serves.subscribe().wait_for(|serves| *serves).await.unwrap();
        let agent = agents[random.random_range(0..agents.len())];
        let number = create(site, told, agent, random.random_range(0..3)).await;
        if let Some(number) = number
            && random.random_bool(0.5)
        {
            delete(site, told, number, random.random_bool(0.5)).await;
        }
    });
    tokio::join!(registrars, creators);
}

/// An entity as one side has it: number, state, ports.
type Seen = (i32, String, Vec<i64>);

/// What the manager has of an agent.
async fn recorded(site: &Clients, agent: i32) -> Option<BTreeSet<Seen>> {
    let mut seen = BTreeSet::new();
    let mut page_token = String::new();
    loop {
        let request = v1::IndexEntitiesRequest {
            endpoint: "kk".to_owned(),
            agent_id: agent,
            page_size: 100,
            page_token,
            filter: String::new(),
        };
        let page = site.entities().index_entities(request).await.ok()?.into_inner();
        for entity in page.entities {
            let ports = entity.ports.iter().map(|port| i64::from(port.port)).collect();
            let state = entity.state().as_str_name().replace("ENTITY_STATE_", "");
            seen.insert((entity.number, state, ports));
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Some(seen);
        }
    }
}

/// What an agent says of one number; nothing when it does not have it.
async fn held(site: &Clients, host: &str, number: i32) -> Option<Seen> {
    let args = json!({"entity": number});
    match site.call(host, "kk", "status_entity", args, SOON).await {
        Ok(answer) => {
            let ports = answer["result"]["ports"].as_array().into_iter().flatten();
            let mut ports: Vec<i64> = ports.map(|port| port["port"].as_i64().unwrap()).collect();
            ports.sort_unstable();
            Some((number, answer["state"].as_str().unwrap().to_owned(), ports))
        }
        Err(error) if error.reason == Reason::EntityNotFound => None,
        Err(error) => panic!("entity {number} on {host}: {error}"),
    }
}

/// How many entities and ports an agent has in all.
async fn counts(site: &Clients, host: &str) -> (u64, u64) {
    let status = site.call(host, "manager", "status_agent", json!({}), SOON).await.unwrap();
    let of = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    (of(&status["entities"]["kk"]), of(&status["ports"]["reserved"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_manager_killed_at_random() {
    let mut site = Site::start().await;
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        agents.push(Local::start(&site, number).await);
    }
    let ids: Vec<i32> = agents.iter().map(|agent| agent.id).collect();
    let serves = watch::Sender::new(true);
    let told = Told { ledger: Ledger::create(), ended: 0.into(), broken: 0.into(), serves };

    // The killer's clock is the number of operations that have ended, so that its kills fall
    // among them however fast the machine is.
    let given = std::env::var(SEED_ENV).ok();
    let seed = given.map_or(SEED, |text| text.parse().expect("a number as seed"));
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut kills = 0;
    {
        let loader = site.clients();
        let mut load = std::pin::pin!(load(&loader, &told, &ids, seed));
        let mut done = false;
        while !done {
            let next = told.ended.load(Ordering::Relaxed) + random.random_range(12..32);
            let late = Duration::from_micros(random.random_range(0..20_000));
            let due = async {
                while told.ended.load(Ordering::Relaxed) < next {
                    sleep(Duration::from_millis(2)).await;
                }
                sleep(late).await;
            };
            tokio::select! {
                () = &mut load => done = true,
                () = due, if kills < KILLS => {
                    told.serves.send_replace(false);
                    site.kill_manager();
                    kills += 1;
                    let mut start = std::pin::pin!(site.start_manager());
                    loop {
                        tokio::select! {
                            // The last ones may have been those that nobody repeats.
                            () = &mut load, if !done => done = true,
                            () = &mut start => break,
                        }
                    }
                    told.serves.send_replace(true);
                }
            }
        }
    }
    println!(
        "{kills} kills, {} operations ended, {} of them badly",
        told.ended.load(Ordering::Relaxed),
        told.broken.load(Ordering::Relaxed)
    );
    assert!(kills >= 10, "only {kills} kills");

    // Numbers: of agents, one for each host and never another's; of entities, answered once.
    let lines = told.ledger.lines();
    let words: Vec<Vec<&str>> = lines.iter().map(|line| line.splitn(3, ' ').collect()).collect();
    let mut hosts = BTreeMap::new();
    for word in words.iter().filter(|word| word[0] == "agent") {
        assert_eq!(hosts.insert(word[1], word[2]), None, "agent {} twice", word[1]);
    }
    assert_eq!(hosts.len(), REGISTRATIONS);
    let with = |what: &str| -> BTreeSet<i32> {
        let mut numbers = BTreeSet::new();
        for word in words.iter().filter(|word| word[0] == "entity" && word[2] == what) {
            assert!(numbers.insert(word[1].parse().unwrap()), "{what} twice: {}", word[1]);
        }
        numbers
    };
    let (created, burnt) = (with("created"), with("burnt"));
    let (deleted, perhaps) = (with("deleted"), with("perhaps deleted"));
    assert!(created.is_disjoint(&burnt), "a burnt number was given out");
    println!(
        "entities: {} created, {} burnt, {} deleted, {} perhaps",
        created.len(),
        burnt.len(),
        deleted.len(),
        perhaps.len()
    );

    // The record of the agents says the same, and has nobody twice.
    let mut recorded_hosts = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let request = v1::IndexAgentsRequest { page_size: 100, page_token, ..Default::default() };
        let page = site.agents().index_agents(request).await.unwrap().into_inner();
        for agent in page.agents {
            assert_eq!(recorded_hosts.insert(agent.host.clone(), agent.id), None, "{agent:?}");
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(recorded_hosts.len(), REGISTRATIONS + AGENTS);
    for (id, host) in &hosts {
        assert_eq!(recorded_hosts[*host].to_string(), *id, "the number of {host}");
    }

    // Reconcile: in the end both sides have the same, and nothing is on its way.
    let before = tokio::time::Instant::now();
    let highest = created.iter().chain(&burnt).max().copied().unwrap_or(0) + CREATES as i32;
    let mut all = BTreeSet::new();
    for agent in &agents {
        assert_eq!(*agent.handle.watch_status().borrow(), AgentStatus::Active);
        let settled = async || {
            let Some(record) = recorded(&site, agent.id).await else { return false };
            record.iter().all(|(_, state, _)| state == "READY")
                && counts(&site, &agent.host).await.0 == record.len() as u64
        };
        poll_until(MENDED, &format!("{} is settled", agent.host), settled).await;
        let record = recorded(&site, agent.id).await.unwrap();
        let has: BTreeSet<Seen> = stream::iter(1..=highest)
            .map(|number| held(&site, &agent.host, number))
            .buffer_unordered(16)
            .filter_map(async |seen| seen)
            .collect()
            .await;
        assert_eq!(record, has, "record and agent {} differ", agent.id);
        let ports: usize = has.iter().map(|(_, _, ports)| ports.len()).sum();
        assert_eq!(counts(&site, &agent.host).await, (has.len() as u64, ports as u64));
        let mut numbers = BTreeSet::new();
        for port in has.iter().flat_map(|(_, _, ports)| ports) {
            assert!(numbers.insert(*port), "port {port} has two owners");
        }
        for (number, _, _) in has {
            assert!(all.insert(number), "entity {number} is on two agents");
        }
    }
    println!("settled {:?} after the load, with {} entities", before.elapsed(), all.len());
    for number in created.difference(&deleted).filter(|number| !perhaps.contains(number)) {
        assert!(all.contains(number), "entity {number} was answered and is not there");
    }
    for number in &deleted {
        assert!(!all.contains(number), "entity {number} was deleted and is there");
    }
    // The counter is above everything.
    let next = create(&site, &told, ids[0], 0).await.unwrap();
    let last = created.iter().chain(&burnt).chain(&all).max().unwrap();
    assert!(next > *last, "number {next} after {last}");

    for agent in agents {
        agent.stop.cancel();
        assert_eq!(agent.living.await.unwrap().unwrap(), Exit::Stopped);
    }
    site.stop().await;
}
