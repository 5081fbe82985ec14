//! `frozen_port` and `free_ports`; foreign holders; commits that callers share.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process,
};

use futures::future::join_all;
use goperation_agent::ports::Protocol;
use goperation_harness::free_ports;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::*;
use crate::fleet::On;

fn toml(ports: &[u16]) -> String {
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    format!("ports_range = {ports:?}\n[endpoints.game]\n")
}

fn numbers(answer: &JsonObject, field: &str) -> Vec<u16> {
    let rows = answer[field].as_array().unwrap();
    rows.iter()
        .map(|row| row.get("port").unwrap_or(row).as_u64().unwrap().try_into().unwrap())
        .collect()
}

/// Reserves for entity `number`.
async fn freeze(
    fleet: &Fleet,
    agent: &TestAgent,
    number: i32,
    wishes: Value,
) -> Result<Vec<u16>, Error> {
    let args = json!({"endpoint": "game", "entity": number, "ports": wishes});
    call(fleet, agent, "frozen_port", args).await.map(|answer| numbers(&answer, "ports"))
}

/// Frees; what was freed and what was unknown.
async fn free(fleet: &Fleet, agent: &TestAgent, args: Value) -> (Vec<u16>, Vec<u16>) {
    let answer = call(fleet, agent, "free_ports", args).await.unwrap();
    (numbers(&answer, "freed"), numbers(&answer, "unknown"))
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_reserved_refused_by_name_and_freed() {
    let fleet = Fleet::start(On::Embedded).await;
    let own = free_ports(4);
    let agent = fleet.agent("h1", &toml(&own)).await;
    fleet.activate(&agent).await;
    let (one, two) = (create_entity(&fleet, &agent).await, create_entity(&fleet, &agent).await);

    let got = freeze(&fleet, &agent, one, json!([{"count": 2, "name": "game"}])).await.unwrap();
    assert_eq!(got, own[..2]);
    let given = json!([{"port": own[3], "protocol": "udp"}, {"protocol": "tcp"}]);
    assert_eq!(freeze(&fleet, &agent, two, given).await.unwrap(), [own[3], own[2]]);

    let taken = freeze(&fleet, &agent, two, json!([{"port": own[0]}])).await.unwrap_err();
    assert_eq!(taken.reason, Reason::PortTaken, "{taken}");
    assert_eq!(taken.metadata["port"], own[0].to_string());
    assert_eq!(taken.metadata["holder"], format!("game {one}"));
    let none = freeze(&fleet, &agent, two, json!([{}])).await.unwrap_err();
    assert_eq!(none.reason, Reason::PortsExhausted, "{none}");
    let outside = freeze(&fleet, &agent, two, json!([{"port": 1025}])).await.unwrap_err();
    assert_eq!(outside.reason, Reason::PortOutOfRange, "{outside}");
    let nobody = freeze(&fleet, &agent, two + 100, json!([{}])).await.unwrap_err();
    assert_eq!(nobody.reason, Reason::EntityNotFound, "{nobody}");
    // All or nothing: the port that was free is free still.
    let half = json!([{"port": own[2], "protocol": "udp"}, {"port": own[0]}]);
    assert_eq!(freeze(&fleet, &agent, two, half).await.unwrap_err().reason, Reason::PortTaken);
    let udp = json!([{"port": own[2], "protocol": "udp"}]);
    freeze(&fleet, &agent, two, udp).await.unwrap();

    // Only what is meant is freed; what is not known is told.
    let others = json!({"ports": [own[0], own[3]], "endpoint": "game", "entity": two});
    assert_eq!(free(&fleet, &agent, others).await, (vec![own[3]], vec![own[0]]));
    let half = json!({"ports": [own[1]], "protocol": "tcp"});
    assert_eq!(free(&fleet, &agent, half.clone()).await, (vec![own[1]], vec![]));
    assert_eq!(free(&fleet, &agent, half).await, (vec![], vec![own[1]]));

    // Strictly: all of them or none.
    for (args, missing) in [
        (json!({"ports": [own[3], own[0], own[1]]}), format!("{}", own[3])),
        (json!({"ports": own[..3], "endpoint": "game", "entity": one}), format!("{}", own[2])),
        (json!({"ports": own[..2], "entity": two}), format!("{},{}", own[0], own[1])),
        (json!({"ports": [own[1]], "protocol": "tcp"}), format!("{}", own[1])),
    ] {
        let mut args = args;
        args["strict"] = json!(true);
        let error = call(&fleet, &agent, "free_ports", args.clone()).await.unwrap_err();
        assert_eq!(error.reason, Reason::PortNotFound, "{args}: {error}");
        assert_eq!(error.metadata["ports"], missing, "{args}");
    }
    let held = freeze(&fleet, &agent, two, json!([{"port": own[0]}])).await.unwrap_err();
    assert_eq!(held.metadata["holder"], format!("game {one}"), "nothing was freed");
    let all = json!({"ports": [own[2]], "entity": two, "strict": true});
    // TCP and UDP were reserved one after the other.
    assert_eq!(free(&fleet, &agent, all).await, (vec![own[2], own[2]], vec![]));

    // What was answered is there after a restart.
    agent.stop().await;
    let agent = fleet.agent("h1", &toml(&own)).await;
    let taken = freeze(&fleet, &agent, two, json!([{"port": own[0]}])).await.unwrap_err();
    assert_eq!(taken.metadata["holder"], format!("game {one}"));
    let tcp = json!([{"port": own[1], "protocol": "tcp"}]);
    assert_eq!(freeze(&fleet, &agent, two, tcp).await.unwrap(), [own[1]]);
    agent.stop().await;
    fleet.stop().await;
}

/// A socket of this test that holds the port, as another program would.
fn hold(protocol: Protocol, ip: IpAddr, port: u16, reuse: bool) -> Socket {
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address((ip, 0).into()), kind, None).unwrap();
    socket.set_reuse_address(reuse).unwrap();
    if ip.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&SocketAddr::new(ip, port).into()).unwrap();
    if protocol == Protocol::Tcp {
        socket.listen(8).unwrap();
    }
    socket
}

fn addresses() -> Vec<IpAddr> {
    let mut addresses = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()];
    if std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        addresses.extend([IpAddr::from(Ipv6Addr::UNSPECIFIED), Ipv6Addr::LOCALHOST.into()]);
    } else {
        eprintln!("no IPv6 on this machine: IPv4 only");
    }
    addresses
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_holders_are_skipped_or_refused_by_name() {
    let fleet = Fleet::start(On::Embedded).await;
    let own = free_ports(2);
    let [held, other] = own[..] else { unreachable!() };
    let agent = fleet.agent("h1", &toml(&own)).await;
    fleet.activate(&agent).await;
    let entity = create_entity(&fleet, &agent).await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for (ip, reuse) in addresses().into_iter().flat_map(|ip| [(ip, false), (ip, true)]) {
            let what = format!("{protocol} on {ip}, SO_REUSEADDR {reuse}");
            let holder = hold(protocol, ip, held, reuse);
            for asked in [protocol, Protocol::Both] {
                let given = json!([{"port": held, "protocol": asked}]);
                let error = freeze(&fleet, &agent, entity, given).await.unwrap_err();
                assert_eq!(error.reason, Reason::PortTaken, "{what}: {error}");
                assert_eq!(error.metadata["port"], held.to_string(), "{what}");
                let holder = &error.metadata["holder"];
                assert!(
                    holder.starts_with(&format!("pid {} (", process::id())),
                    "{what}: {holder}"
                );
                assert!(error.message.contains(holder.as_str()), "{what}: {error}");
            }
            let any = json!([{"protocol": protocol}]);
            let got = freeze(&fleet, &agent, entity, any.clone()).await;
            assert_eq!(got.unwrap(), [other], "{what}: was not skipped");
            let none = freeze(&fleet, &agent, entity, any.clone()).await.unwrap_err();
            assert_eq!(none.reason, Reason::PortsExhausted, "{what}: {none}");
            drop(holder);
            assert_eq!(freeze(&fleet, &agent, entity, any).await.unwrap(), [held], "{what}: gone");
            free(&fleet, &agent, json!({"ports": own})).await;
        }
    }
    agent.stop().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_of_64_callers_share_commits() {
    const CALLERS: usize = 64;
    let fleet = Fleet::start(On::Embedded).await;
    let own = free_ports(80);
    let agent = fleet.agent("h1", &toml(&own)).await;
    fleet.activate(&agent).await;
    let made = join_all((0..CALLERS).map(|_| create_entity(&fleet, &agent))).await;
    let before = agent.handle.store_stats();
    let calls = made.iter().map(|&number| freeze(&fleet, &agent, number, json!([{}])));
    let ports: BTreeSet<u16> =
        join_all(calls).await.into_iter().map(|got| got.unwrap()[0]).collect();
    let after = agent.handle.store_stats();
    assert_eq!(ports.len(), CALLERS, "each has its own");
    let transactions = after.transactions - before.transactions;
    let groups = after.groups - before.groups;
    println!("{CALLERS} callers: {transactions} transactions in {groups} commits");
    // Received and started, the reservation, done.
    assert!(transactions >= 3 * CALLERS as u64, "{transactions} transactions");
    assert!(groups * 2 <= transactions, "{transactions} transactions took {groups} commits");
    agent.stop().await;
    fleet.stop().await;
}
