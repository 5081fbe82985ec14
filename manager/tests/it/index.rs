//! Lists: pages, filters and orders over everything that can be listed.

use goperation::{Reason, v1::*};

use crate::harness::{Manager, answer, has, renewal, secret};

async fn fleet() -> Manager {
    let manager = Manager::start().await;
    for i in 1..=5 {
        let host = format!("h{i}");
        let endpoints: &[&str] = if i % 2 == 0 { &["db"] } else { &["db", "game"] };
        let id = manager.agent(&host, endpoints).await;
        let agent = Agent {
            id,
            labels: [("zone".to_owned(), format!("z{}", i % 2))].into(),
            ..Agent::default()
        };
        let edit = EditAgentRequest { agent: Some(agent), update_mask: None };
        manager.agents().edit_agent(edit).await.unwrap();
        if i <= 2 {
            manager.renew(renewal(id, &host)).await.unwrap();
        }
    }
    manager
}

async fn ids(manager: &Manager, filter: &str, order_by: &str) -> Vec<i32> {
    let request = IndexAgentsRequest {
        filter: filter.to_owned(),
        order_by: order_by.to_owned(),
        ..IndexAgentsRequest::default()
    };
    let answer = answer(manager.agents().index_agents(request).await).unwrap();
    assert_eq!(answer.total_size as usize, answer.agents.len());
    answer.agents.into_iter().map(|agent| agent.id).collect()
}

#[tokio::test]
async fn agents_are_filtered_and_ordered() {
    let manager = fleet().await;
    for (filter, order, expected) in [
        ("", "", vec![1, 2, 3, 4, 5]),
        ("", "host desc", vec![5, 4, 3, 2, 1]),
        ("", "create_time", vec![1, 2, 3, 4, 5]),
        ("", "type desc", vec![5, 4, 3, 2, 1]),
        ("host = h2", "", vec![2]),
        ("id > 2 AND id <= 4", "", vec![3, 4]),
        ("endpoint = game", "id desc", vec![5, 3, 1]),
        ("labels.zone = z0", "", vec![2, 4]),
        ("online = true", "", vec![1, 2]),
        ("state = UNACTIVE AND status = 0 AND type = application", "", vec![1, 2, 3, 4, 5]),
        ("state != UNACTIVE", "", vec![]),
    ] {
        assert_eq!(ids(&manager, filter, order).await, expected, "{filter} / {order}");
    }
}

#[tokio::test]
async fn agents_are_ordered_by_what_their_hosts_have() {
    let manager = Manager::start().await;
    for (host, cpu, memory_mib, disk_mib) in
        [("h1", 8, 300, 5), ("h2", 256, 100, 70_000), ("h3", 4, 200, 300)]
    {
        let request = CreateAgentRequest {
            r#type: "application".to_owned(),
            host: host.to_owned(),
            secret: secret(host),
            facts: Some(AgentFacts { cpu, memory_mib, disk_mib, ..AgentFacts::default() }),
            ..CreateAgentRequest::default()
        };
        answer(manager.agents().create_agent(request).await).unwrap();
    }
    // One that has not said what it has.
    manager.register("h4").await;
    manager.renew(RenewAgentRequest { status: -20, ..renewal(2, "h2") }).await.unwrap();
    manager.renew(RenewAgentRequest { status: 1, ..renewal(3, "h3") }).await.unwrap();
    for (order, expected) in [
        ("status", [2, 1, 4, 3]),
        ("status desc", [3, 4, 1, 2]),
        ("cpu", [4, 3, 1, 2]),
        ("memory desc", [1, 3, 2, 4]),
        ("disk", [4, 1, 3, 2]),
    ] {
        assert_eq!(ids(&manager, "", order).await, expected, "{order}");
    }
}

#[tokio::test]
async fn bad_queries_are_refused_with_their_field() {
    let manager = fleet().await;
    let base = IndexAgentsRequest::default;
    for (request, field) in [
        (IndexAgentsRequest { filter: "nope = 1".into(), ..base() }, "filter"),
        (IndexAgentsRequest { order_by: "etag".into(), ..base() }, "order_by"),
        (IndexAgentsRequest { page_size: -1, ..base() }, "page_size"),
        (IndexAgentsRequest { page_token: "abc".into(), ..base() }, "page_token"),
    ] {
        let error = answer(manager.agents().index_agents(request).await).unwrap_err();
        assert_eq!(error.reason, Reason::InvalidArgument);
        assert_eq!(error.violations[0].field, field);
    }
}

#[tokio::test]
async fn pages_of_agents_join_to_the_whole_list() {
    let manager = fleet().await;
    let mut request = IndexAgentsRequest {
        page_size: 2,
        filter: "id != 3".to_owned(),
        ..IndexAgentsRequest::default()
    };
    let mut all = Vec::new();
    loop {
        let page = answer(manager.agents().index_agents(request.clone()).await).unwrap();
        assert_eq!(page.total_size, 4);
        all.extend(page.agents.iter().map(|agent| agent.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(all, [1, 2, 4, 5]);
    request.filter = "id != 4".to_owned();
    let error = answer(manager.agents().index_agents(request).await).unwrap_err();
    assert_eq!(error.violations[0].field, "page_token");
}

#[tokio::test]
async fn deleted_agents_are_listed_only_when_asked_for() {
    let manager = fleet().await;
    let force = DeleteAgentRequest { id: 3, force: true, etag: String::new() };
    manager.agents().delete_agent(force).await.unwrap();
    assert_eq!(ids(&manager, "", "").await, [1, 2, 4, 5]);
    let request = IndexAgentsRequest {
        show_deleted: true,
        filter: "state = DELETED".to_owned(),
        ..IndexAgentsRequest::default()
    };
    let deleted = answer(manager.agents().index_agents(request).await).unwrap().agents;
    assert_eq!(deleted.iter().map(|agent| agent.id).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn endpoints_are_what_agents_and_entities_say() {
    let manager = fleet().await;
    manager.sync(1, "h1", 2, &["db", "game"], &[has("game", 1), has("game", 2)]).await.unwrap();
    let index = |q: IndexEndpointsRequest| {
        let mut client = manager.endpoints();
        async move {
            let answer = answer(client.index_endpoints(q).await).unwrap();
            let row = |e: &Endpoint| (e.name.clone(), e.agents, e.entities);
            answer.endpoints.iter().map(row).collect::<Vec<_>>()
        }
    };
    let row = |name: &str, agents, entities| (name.to_owned(), agents, entities);
    let all = IndexEndpointsRequest::default();
    assert_eq!(index(all.clone()).await, [row("db", 5, 0), row("game", 3, 2)]);
    let some = IndexEndpointsRequest { filter: "entities > 0".into(), ..all.clone() };
    assert_eq!(index(some).await, [row("game", 3, 2)]);
    let of_agent = IndexEndpointsRequest { agent_id: 2, ..all };
    assert_eq!(index(of_agent).await, [row("db", 1, 0)]);

    let show = ShowEndpointRequest { name: "GAME".to_owned(), agent_id: 0 };
    let game = answer(manager.endpoints().show_endpoint(show).await).unwrap().endpoint.unwrap();
    assert_eq!(game.methods[0].name, "echo");
    let show = ShowEndpointRequest { name: "cdn".to_owned(), agent_id: 0 };
    let error = answer(manager.endpoints().show_endpoint(show).await).unwrap_err();
    assert_eq!(error.reason, Reason::EndpointNotFound);

    let show = |name: &str, agent_id| {
        let mut client = manager.endpoints();
        let request = ShowEndpointRequest { name: name.to_owned(), agent_id };
        async move { answer(client.show_endpoint(request).await).map(|a| a.endpoint.unwrap()) }
    };
    let game = show("game", 1).await.unwrap();
    assert_eq!((game.agents, game.entities, game.methods.len()), (1, 2, 1));
    assert_eq!(show("db", 1).await.unwrap().entities, 0);
    let error = show("game", 2).await.unwrap_err();
    assert_eq!((error.reason, &*error.metadata["agent"]), (Reason::EndpointNotFound, "2"));
    assert_eq!(show("game", 99).await.unwrap_err().reason, Reason::AgentNotFound);
    // Entities of an endpoint that the agent does not have any more.
    manager.sync(1, "h1", 3, &["db"], &[has("game", 1), has("game", 2)]).await.unwrap();
    assert_eq!(show("game", 1).await.unwrap_err().reason, Reason::EndpointNotFound);
    manager.sync(1, "h1", 4, &["db", "game"], &[has("game", 1), has("game", 2)]).await.unwrap();

    let agents = AgentsEndpointRequest {
        name: "game".to_owned(),
        filter: "id > 1".to_owned(),
        ..AgentsEndpointRequest::default()
    };
    let agents = answer(manager.endpoints().agents_endpoint(agents).await).unwrap().agents;
    assert_eq!(agents.iter().map(|agent| agent.id).collect::<Vec<_>>(), [3, 5]);
    let count = CountEndpointsRequest { names: vec!["game".to_owned(), "cdn".to_owned()] };
    let counts = answer(manager.endpoints().count_endpoints(count).await).unwrap().counts;
    let counts: Vec<_> = counts.iter().map(|c| (c.name.as_str(), c.agents, c.entities)).collect();
    assert_eq!(counts, [("cdn", 0, 0), ("game", 3, 2)]);
}

#[tokio::test]
async fn an_agent_without_an_endpoint_is_not_counted_for_it_any_more() {
    let manager = fleet().await;
    manager.sync(1, "h1", 2, &["db"], &[]).await.unwrap();
    let agents = AgentsEndpointRequest { name: "game".into(), ..AgentsEndpointRequest::default() };
    let agents = answer(manager.endpoints().agents_endpoint(agents).await).unwrap().agents;
    assert_eq!(agents.iter().map(|agent| agent.id).collect::<Vec<_>>(), [3, 5]);
}

#[tokio::test]
async fn entities_are_listed_in_order_of_endpoint_and_number() {
    let manager = fleet().await;
    let on_one: Vec<_> = (1..=300).map(|number| has("game", number)).collect();
    manager.sync(1, "h1", 2, &["db", "game"], &on_one).await.unwrap();
    manager.sync(2, "h2", 2, &["db"], &[has("db", 2), has("db", 1)]).await.unwrap();
    let index = |q: IndexEntitiesRequest| {
        let mut client = manager.entities();
        async move { answer(client.index_entities(q).await) }
    };
    let base = IndexEntitiesRequest { page_size: 3, ..IndexEntitiesRequest::default() };
    let page = index(base.clone()).await.unwrap();
    let names: Vec<_> = page.entities.iter().map(|e| (e.endpoint.as_str(), e.number)).collect();
    assert_eq!(names, [("db", 1), ("db", 2), ("game", 1)]);
    assert_eq!(page.total_size, 302);
    let page = index(IndexEntitiesRequest { page_token: page.next_page_token, ..base.clone() });
    assert_eq!(page.await.unwrap().entities[0].number, 2);
    let page = index(IndexEntitiesRequest { agent_id: 2, ..base.clone() }).await.unwrap();
    assert_eq!(page.total_size, 2);
    let filter = "number >= 256 AND agent_id = 1 AND state = READY".to_owned();
    let page = index(IndexEntitiesRequest { endpoint: "game".into(), filter, ..base.clone() });
    let page = page.await.unwrap();
    assert_eq!((page.total_size, page.entities[0].number), (45, 256));
    let error = index(IndexEntitiesRequest { agent_id: 99, ..base }).await.unwrap_err();
    assert_eq!(error.reason, Reason::AgentNotFound);
    assert_eq!(manager.show(1).await.unwrap().entities, 300);
}

#[tokio::test]
async fn blank_resources_name_their_constraints() {
    let manager = Manager::start().await;
    let agent = manager.agents().new_agent(NewAgentRequest {}).await.unwrap().into_inner();
    assert!(agent.constraints.contains_key("secret"));
    let request = NewEntityRequest { endpoint: "db".to_owned() };
    let entity = manager.entities().new_entity(request).await.unwrap().into_inner();
    assert_eq!(entity.entity.unwrap().endpoint, "db");
    let id = manager.register("h1").await;
    let port = manager.ports().new_port(NewPortRequest { agent_id: id }).await.unwrap();
    assert!(port.into_inner().constraints["port"].contains("7000-7999"));
}
