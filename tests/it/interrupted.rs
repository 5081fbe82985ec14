//! An agent that dies between *started* and *done* (contract §3): INTERRUPTED, unless the method
//! is idempotent, and nothing of the first run is left.

use std::{fs, path::PathBuf, time::Duration};

use goperation::{Error, Reason, v1};
use goperation_harness::{Ledger, poll_for, poll_until};
use serde_json::{Value, json};
use tonic::Request;

use crate::{
    fleet::{SOON, script},
    procs::{AgentProcess, LEASE, Site},
};

/// Longer than a kill and a start take on a busy machine.
const LONG: Duration = Duration::from_secs(40);

/// Ends before the kill, and leaves time for a start, and for the typed answer before its end.
const HASTY: Duration = Duration::from_secs(5);

/// A site with one agent whose programs say that they have started, and then wait.
struct Stage {
    site: Site,
    agent: AgentProcess,
    /// A line per run: method and message id.
    ledger: Ledger,
    /// Programs wait until this is there.
    go: PathBuf,
}

impl Stage {
    async fn start() -> Self {
        let site = Site::start_waiting(LONG).await;
        let ledger = Ledger::create();
        let go = site.path().join("go");
        let wait = script(
            site.path(),
            "wait",
            &format!(
                "cat >/dev/null; echo \"$$ $GOP_METHOD $GOP_MESSAGE_ID\" >> {}\n\
                 n=0; while [ ! -e {go:?} ] && [ $n -lt 1200 ]; do n=$((n+1)); sleep 0.1; done\n\
                 echo '{{\"ran\":1}}'",
                ledger.path().display(),
            ),
        );
        let toml = ["once", "again", "create", "delete"].map(|method| {
            format!(
                "[endpoints.tt.methods.{method}]\nprogram = [{wait:?}]\ntimeout = \"2m\"\n\
                 idempotent = {}\n",
                method == "again"
            )
        });
        let toml = format!("ports_ranges = [\"21000-21999\"]\n{}", toml.concat());
        let agent = site.active_agent("h1", &toml).await;
        Self { site, agent, ledger, go }
    }

    /// Waits until that method runs for the n-th time; answers pid and message id.
    async fn run_of(&self, method: &str, n: usize) -> (u32, String) {
        poll_for(SOON, &format!("run {n} of {method}"), async || {
            let lines = self.ledger.lines();
            let mut runs = lines.iter().filter_map(|line| {
                let mut words = line.split(' ');
                let (pid, name, id) = (words.next()?, words.next()?, words.next()?);
                (name == method).then(|| (pid.parse().unwrap(), id.to_owned()))
            });
            runs.nth(n - 1)
        })
        .await
    }

    fn runs(&self, method: &str) -> usize {
        let word = format!(" {method} ");
        self.ledger.lines().iter().filter(|line| line.contains(&word)).count()
    }

    async fn call(&self, method: &str, wait: Duration, id: &str) -> Result<Value, Error> {
        let answer = self.site.call_as("h1", "tt", method, json!({}), wait, id).await;
        answer.map(Value::Object)
    }

    async fn create(&self, wait: Duration) -> Result<v1::Entity, Error> {
        let mut request = Request::new(v1::CreateEntityRequest {
            endpoint: "tt".to_owned(),
            agent_id: self.agent.id,
            ports: vec![v1::PortWish { count: 2, protocol: 3, ..Default::default() }],
            ..Default::default()
        });
        request.set_timeout(wait);
        let created = self.site.entities().create_entity(request).await;
        Ok(created.map_err(|s| Error::from_status(&s))?.into_inner().entity.unwrap())
    }

    async fn delete(&self, number: i32, wait: Duration) -> Result<(), Error> {
        let mut request = Request::new(v1::DeleteEntityRequest {
            endpoint: "tt".to_owned(),
            number,
            ..Default::default()
        });
        request.set_timeout(wait);
        let deleted = self.site.entities().delete_entity(request).await;
        deleted.map(drop).map_err(|s| Error::from_status(&s))
    }

    async fn state(&self, number: i32) -> Option<v1::EntityState> {
        self.site.entity("tt", number).await.ok().map(|entity| entity.state())
    }

    fn let_go(&self) {
        fs::write(&self.go, "").unwrap();
    }

    fn hold(&self) {
        fs::remove_file(&self.go).unwrap();
    }
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended.
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_started_method_is_interrupted_unless_idempotent() {
    let mut stage = Stage::start().await;

    // Three callers: one that waits over the restart, one that gives up before it, and one of a
    // method that may run again.
    let (site, ledger) = (&stage.site, &stage.ledger);
    let call = async |method: &str, wait: Duration, id: &str| {
        site.call_as("h1", "tt", method, json!({}), wait, id).await
    };
    let kill_and_start = async |agent: &mut AgentProcess| {
        let pids = poll_for(SOON, "all three run", async || {
            let lines = ledger.lines();
            let pid = |line: &String| line.split(' ').next().unwrap().parse::<u32>().unwrap();
            (lines.len() == 3).then(|| lines.iter().map(pid).collect::<Vec<_>>())
        })
        .await;
        // Longer than the hasty one waits.
        tokio::time::sleep(HASTY + Duration::from_millis(500)).await;
        agent.kill();
        assert!(pids.iter().all(|&pid| lives(pid)), "a program went with its agent");
        agent.start().await;
        pids
    };
    let agent = &mut stage.agent;
    let (patient, hasty, again, pids) = tokio::join!(
        call("once", LONG, "patient"),
        call("once", HASTY, "hasty"),
        call("again", LONG, "idempotent"),
        async {
            let pids = kill_and_start(agent).await;
            for pid in &pids {
                poll_until(SOON, "the orphan is gone", async || !lives(*pid)).await;
            }
            // The second run of the idempotent one.
            poll_until(SOON, "it runs again", async || ledger.lines().len() == 4).await;
            fs::write(&stage.go, "").unwrap();
            pids
        }
    );
    assert_eq!(pids.len(), 3);
    let error = patient.unwrap_err();
    assert_eq!(error.reason, Reason::Interrupted, "{error}");
    let error = hasty.unwrap_err();
    assert_eq!(error.reason, Reason::OutcomeUnknown, "{error}");
    assert_eq!(error.metadata.get("message_id").map(String::as_str), Some("hasty"));
    assert_eq!(json!(again.unwrap()), json!({"ran": 1}));

    // The stored answers, now and after another start.
    for _ in 0..2 {
        for id in ["patient", "hasty"] {
            let error = stage.call("once", LONG, id).await.unwrap_err();
            assert_eq!(error.reason, Reason::Interrupted, "{error}");
        }
        let answer = stage.call("again", LONG, "idempotent").await.unwrap();
        assert_eq!(answer, json!({"ran": 1}));
        stage.agent.kill();
        stage.agent.start().await;
    }
    assert_eq!((stage.runs("once"), stage.runs("again")), (2, 2), "{:?}", stage.ledger.lines());
    // Another id is another message.
    assert_eq!(stage.call("once", LONG, "other").await.unwrap(), json!({"ran": 1}));
    stage.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_create_is_failed_and_can_be_deleted() {
    let mut stage = Stage::start().await;
    // The caller of the first waits over the restart, that of the second does not.
    for (n, wait) in [(1, LONG), (2, HASTY)] {
        let (created, pid) = {
            let (site, id, ledger) = (&stage.site, stage.agent.id, &stage.ledger);
            let agent = &mut stage.agent;
            let create = async {
                let mut request = Request::new(v1::CreateEntityRequest {
                    endpoint: "tt".to_owned(),
                    agent_id: id,
                    ports: vec![v1::PortWish { count: 2, protocol: 3, ..Default::default() }],
                    ..Default::default()
                });
                request.set_timeout(wait);
                site.entities().create_entity(request).await.map_err(|s| Error::from_status(&s))
            };
            tokio::join!(create, async {
                let pid = poll_for(SOON, "the create runs", async || {
                    let lines = ledger.lines();
                    let mut runs = lines.iter().filter(|line| line.contains(" create "));
                    let line = runs.nth(n - 1)?;
                    line.split(' ').next()?.parse::<u32>().ok()
                })
                .await;
                if wait < LONG {
                    tokio::time::sleep(wait).await;
                }
                agent.kill();
                assert!(lives(pid), "the program went with its agent");
                agent.start().await;
                pid
            })
        };
        let error = created.unwrap_err();
        let reason = if wait == LONG { Reason::Interrupted } else { Reason::OutcomeUnknown };
        assert_eq!(error.reason, reason, "{error}");
        let number: i32 = error.metadata["entity"].parse().unwrap();
        assert!(!lives(pid), "the orphan is there after the start");
        poll_until(SOON, "it is FAILED", async || {
            stage.state(number).await == Some(v1::EntityState::Failed)
        })
        .await;
        let ports = async |stage: &Stage| {
            let request = v1::IndexPortsRequest { agent_id: stage.agent.id, ..Default::default() };
            stage.site.ports().index_ports(request).await.unwrap().into_inner().ports.len()
        };
        poll_until(SOON, "its ports are on record", async || ports(&stage).await == 2).await;

        // What it left is the operator's to look at; nothing runs on it.
        let args = json!({"entity": number});
        let error = stage.site.call("h1", "tt", "once", args, LONG).await.unwrap_err();
        assert_eq!(error.reason, Reason::StateRefused, "{error}");

        stage.let_go();
        stage.delete(number, LONG).await.unwrap();
        assert_eq!(stage.state(number).await, None);
        poll_until(SOON, "its ports are free", async || ports(&stage).await == 0).await;
        stage.hold();
    }

    // A delete that is interrupted: the entity stays in it until it is deleted again.
    stage.let_go();
    let entity = stage.create(LONG).await.unwrap();
    stage.hold();
    let before = stage.runs("delete");
    let deleted = {
        let (site, ledger) = (&stage.site, &stage.ledger);
        let agent = &mut stage.agent;
        let delete = async {
            let mut request = Request::new(v1::DeleteEntityRequest {
                endpoint: "tt".to_owned(),
                number: entity.number,
                ..Default::default()
            });
            request.set_timeout(LONG);
            site.entities().delete_entity(request).await.map_err(|s| Error::from_status(&s))
        };
        tokio::join!(delete, async {
            poll_until(SOON, "the delete runs", async || {
                let lines = ledger.lines();
                lines.iter().filter(|line| line.contains(" delete ")).count() > before
            })
            .await;
            agent.kill();
            agent.start().await;
        })
        .0
    };
    // The sync asks for its removal, whose program takes its time; the lease is renewed meanwhile.
    stage.run_of("delete", before + 2).await;
    let until = tokio::time::Instant::now() + LEASE + Duration::from_secs(1);
    while tokio::time::Instant::now() < until {
        let record = stage.site.show(stage.agent.id).await.unwrap();
        assert!(record.online, "a removal keeps the agent from renewing its lease");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.let_go();
    match deleted {
        Err(error) => assert_eq!(error.reason, Reason::Interrupted, "{error}"),
        Ok(_) => panic!("an interrupted delete was answered OK"),
    }
    let again = stage.delete(entity.number, LONG).await;
    if let Err(error) = again {
        panic!("deleted again: {error}");
    }
    poll_until(SOON, "it is gone", async || stage.state(entity.number).await.is_none()).await;
    // The repeat came after the removal, and found nothing to delete.
    assert_eq!(stage.runs("delete"), before + 2);
    stage.site.stop().await;
}
