//! Each route by itself: what it answers, and what it says when it cannot.
//!
//! A route of the table that is asked nowhere here fails the test.

use std::{collections::BTreeSet, sync::Mutex};

use goperation_harness::free_ports;
use serde_json::{Value, json};

use super::{
    agents,
    curl::{Curl, Reply},
    entitys, others, requests,
};
use crate::{
    fleet::script,
    procs::{AgentProcess, Site},
};

/// How a message begins that says what is wrong with a request.
pub(super) const INVALID: &str = "InvalidArgument: Argument is Invalid: ";

/// What there is to ask, and what was asked.
pub(super) struct Ground {
    pub(super) site: Site,
    pub(super) curl: Curl,
    seen: Mutex<BTreeSet<String>>,
    /// Agent `h1`: ACTIVE, with entity 1 of `db` on it, and the endpoint `bare` that has nothing.
    pub(super) h1: String,
    /// Agent `h2`: offline, with entity 2 of `db` on it.
    pub(super) h2: String,
    /// Agent `r1`: reserved, with the endpoints `aa` and `bb`.
    pub(super) r1: String,
    /// Ports of `h1`; the first is reserved.
    pub(super) ports: Vec<u16>,
    _agents: [AgentProcess; 2],
}

impl Ground {
    async fn new() -> Self {
        let site = Site::start().await;
        let curl = Curl::new(site.url());
        let logs = script(site.path(), "logs", "echo '{\"files\": [\"a.log\"]}'");
        let readlog = script(
            site.path(),
            "readlog",
            "cat > \"$(dirname \"$0\")/asked.json\"\n\
             echo '{\"port\": 7, \"token\": \"t\", \"ipaddr\": \"127.0.0.1\"}'",
        );
        let mut ports = free_ports(4);
        let other = ports.pop().unwrap();
        let toml = |a: u16, b: u16| {
            format!(
                "ports_ranges = [\"{a}-{b}\"]\n[endpoints.bare]\n[endpoints.db.methods]\n\
                 logs = {{ program = [{logs:?}], read_only = true }}\n\
                 readlog = {{ program = [{readlog:?}], read_only = true }}\n"
            )
        };
        let one = site.active_agent("h1", &toml(ports[0], ports[2])).await;
        let two = site.active_agent("h2", &toml(other, other)).await;
        let seen = Mutex::default();
        let (h1, h2, r1) = (one.id.to_string(), two.id.to_string(), String::new());
        let mut ground = Self { site, curl, seen, h1, h2, r1, ports, _agents: [one, two] };

        let create = "POST /agent/{agent_id}/endpoint/{endpoint}/entitys";
        for (agent, port) in [(&ground.h1, ground.ports[0]), (&ground.h2, other)] {
            let body = json!({"ports": [port], "desc": "one"});
            ground.ask(create, &[agent, "db"], body).await.row();
        }
        ground._agents[1].kill();
        let body = json!({"host": "r1", "agent_type": "application", "cpu": 2, "memory": 1024,
                          "disk": 2048, "ports_range": ["20000-20001"], "endpoints": "aa,bb"});
        let reserved = ground.ask("POST /agents", &[], body).await;
        ground.r1 = reserved.row()["agent_id"].to_string();
        ground
    }

    /// Asks a route of the table: `GET /agents/{agent_id}`, its variables in order. No body when
    /// it is null.
    pub(super) async fn ask(&self, route: &str, args: &[&str], body: Value) -> Reply {
        let (method, path) = route.split_once(' ').unwrap();
        let path = match path {
            public if public.starts_with("/n1.0/") => public.to_owned(),
            path => format!("/v1.0{path}"),
        };
        self.seen.lock().unwrap().insert(format!("{method} {path}"));
        let mut args = args.iter();
        let segments: Vec<_> = path
            .split('/')
            .map(|part| if part.starts_with('{') { args.next().expect("a variable") } else { part })
            .collect();
        assert!(args.next().is_none(), "{route}");
        let body = Some(body).filter(|body| !body.is_null());
        self.curl.send(method, &segments.join("/"), body.as_ref()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_route_and_each_of_its_errors() {
    let ground = Ground::new().await;
    others::every_request(&ground).await;
    agents::lists(&ground).await;
    agents::records(&ground).await;
    requests::each(&ground).await;
    entitys::endpoints(&ground).await;
    entitys::entitys(&ground).await;
    entitys::ports(&ground).await;
    others::caches(&ground).await;
    others::later(&ground).await;
    // Last, because it takes agents away.
    agents::deletes(&ground).await;

    let asked = ground.seen.lock().unwrap().clone();
    let all: BTreeSet<_> =
        goperation_rest::legacy_routes().map(|(method, path)| format!("{method} {path}")).collect();
    let missed: Vec<_> = all.difference(&asked).collect();
    assert!(missed.is_empty(), "no test asks {missed:?}");
    let unknown: Vec<_> = asked.difference(&all).collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");
    ground.site.stop().await;
}
