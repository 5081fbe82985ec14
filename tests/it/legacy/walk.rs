//! One walk from the first sign of a host to the last, every field compared.

use goperation_harness::free_ports;
use serde_json::{Value, json};

use super::curl::{Curl, shape};
use crate::{fleet::script, procs::Site};

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_in_plain_curl() {
    let site = Site::start().await;
    let curl = Curl::new(site.url());
    let make = script(site.path(), "make", "cat > input.json; echo '{\"made\": 7}'");
    let ports = free_ports(4);
    let (first, last) = (ports[0], ports[3]);
    let range = format!("{first}-{last}");

    // A host comes online: it must register.
    let online = "/v1.0/caches/host/h1/online";
    let metadata = json!({"local_ip": "10.1.1.1", "zone": "z1"});
    let body = json!({"agent_type": "application", "metadata": metadata, "expire": 300});
    let reply = curl.send("POST", online, Some(&body)).await;
    assert_eq!(reply.row(), &json!({"agent_id": null}));

    // Register.
    let body = json!({"host": "h1", "agent_type": "application", "cpu": 4, "memory": 8192,
                      "disk": 102_400, "ports_range": [range], "endpoints": ["gogame"]});
    let reply = curl.send("POST", "/v1.0/agents", Some(&body)).await;
    let row = reply.row();
    assert_eq!(shape(row), "{agent_id:int,endpoints:[str],host:str,ports_range:[str],status:int}");
    let id = row["agent_id"].as_i64().unwrap();
    assert_eq!(
        row,
        &json!({"agent_id": id, "host": "h1", "status": 0, "ports_range": [range],
                "endpoints": ["gogame"]})
    );
    curl.send("POST", "/v1.0/agents", Some(&body)).await.refused();
    let again =
        json!({"agent_type": "application", "metadata": {"local_ip": "10.1.1.2"}, "expire": 0});
    let reply = curl.send("POST", online, Some(&again)).await;
    assert_eq!(reply.row(), &json!({"agent_id": id}));

    // As the agent itself looked at its record, with a body on GET.
    let agent_path = format!("/v1.0/agents/{id}");
    let whole = json!({"ports": true, "entitys": true});
    let reply = curl.send("GET", &agent_path, Some(&whole)).await;
    assert_eq!(
        reply.row(),
        &json!({"agent_id": id, "host": "h1", "agent_type": "application", "status": 0, "cpu": 4,
                "memory": 8192, "disk": 102_400, "ports_range": [range],
                "endpoints": {"gogame": []}, "metadata": {"local_ip": "10.1.1.2"}})
    );

    // The real agent takes the record over.
    let toml = format!(
        "ports_ranges = [\"{range}\"]\n[endpoints.gogame.methods.create]\nprogram = [{make:?}]\n"
    );
    let mut agent = site.agent("h1", &toml);
    agent.start().await;
    assert_eq!(i64::from(agent.id), id);

    // Activate.
    let reply =
        curl.send("PATCH", &format!("{agent_path}/active"), Some(&json!({"status": 1}))).await;
    let row = reply.row();
    let metadata = "{agent_type:str,dnsnames:[],external_ips:[],host:str,kernel:str,local_ip:str,\
                    machine:str,os:str,zone:str}";
    assert_eq!(
        shape(row),
        format!("{{agent_id:int,agent_type:str,host:str,metadata:{metadata},status:int}}")
    );
    assert_eq!(
        (&row["agent_id"], &row["host"], &row["agent_type"], &row["status"]),
        (&json!(id), &json!("h1"), &json!("application"), &json!(1))
    );
    let known = &row["metadata"];
    assert_eq!((&known["local_ip"], &known["host"]), (&json!("127.0.0.1"), &json!("h1")));

    // Create an entity with a given port and any port; what is not known goes to its method.
    let entitys = format!("/v1.0/agent/{id}/endpoint/gogame/entitys");
    let body = json!({"ports": [last, null], "desc": "game one", "zone": "z1"});
    let reply = curl.send("POST", &entitys, Some(&body)).await;
    let row = reply.row();
    assert_eq!(
        shape(row),
        format!(
            "{{agent_id:int,endpoint:str,entity:int,metadata:{metadata},\
             notify:{{made:int,result:str,resultcode:int}},ports:[int]}}"
        )
    );
    assert_eq!(
        (&row["entity"], &row["agent_id"], &row["endpoint"]),
        (&json!(1), &json!(id), &json!("gogame"))
    );
    assert_eq!((&row["notify"]["resultcode"], &row["notify"]["made"]), (&json!(0), &json!(7)));
    let reserved = numbers(&row["ports"]);
    let any = reserved[0];
    assert!(reserved.len() == 2 && reserved[1] == u64::from(last), "{reserved:?}");
    assert!((u64::from(first)..u64::from(last)).contains(&any), "{any}");
    let input = std::fs::read_to_string(site.path().join("h1/gogame/1/input.json")).unwrap();
    let input: Value = serde_json::from_str(&input).unwrap();
    assert_eq!(input["args"], json!({"zone": "z1"}));

    // List, in both ways that there are of asking.
    let want = json!([{"entity": 1, "ports": reserved}]);
    let body = json!({"ports": true});
    let reply = curl.send("GET", &entitys, Some(&body)).await;
    assert_eq!(json!(reply.rows()), want);
    let reply = curl.send("POST", &format!("{entitys}?_method=GET"), Some(&body)).await;
    assert_eq!(json!(reply.rows()), want);
    let reply = curl.send("GET", "/v1.0/endpoint/gogame/entitys/1", Some(&body)).await;
    assert_eq!(
        reply.row(),
        &json!({"endpoint": "gogame", "agent_id": id, "metadata": known, "entity": 1,
                "ports": reserved})
    );
    let reply = curl.send("GET", &agent_path, Some(&whole)).await;
    assert_eq!(reply.row()["endpoints"], json!({"gogame": want}));
    let reply = curl.send("GET", &format!("/v1.0/agent/{id}/endpoints"), None).await;
    let port = |port: u64| {
        json!({"port": port, "agent_id": id, "entity_id": 1, "endpoint_id": id,
               "endpoint": "gogame", "entity": 1, "desc": null})
    };
    assert_eq!(
        reply.row(),
        &json!({"id": id, "endpoint": "gogame", "agent_id": id, "entitys": [
            {"id": 1, "entity": 1, "endpoint": "gogame", "endpoint_id": id, "agent_id": id,
             "desc": "game one", "ports": [port(any), port(reserved[1])]}]})
    );

    // Ports: add, list, delete.
    let of_entity = format!("/v1.0/agent/{id}/endpoint/gogame/entity/1/ports");
    let reply = curl.send("POST", &of_entity, Some(&json!({"ports": [null]}))).await;
    assert!(reply.rows().is_empty());
    let reply = curl.send("GET", &of_entity, None).await;
    let listed = reply.rows();
    assert!(
        listed.len() == 3 && listed.iter().all(|row| shape(row) == "{desc:null,port:int}"),
        "{reply:?}"
    );
    let on_agent = curl.send("GET", &format!("/v1.0/agent/{id}/ports"), None).await;
    assert_eq!(on_agent.rows(), listed);
    let reply = curl.send("DELETE", &format!("{of_entity}/{any},{last}"), None).await;
    assert!(reply.rows().is_empty());
    let reply = curl.send("DELETE", &format!("{of_entity}/{any}"), None).await;
    reply.failed(400, "InvalidArgument: Argument is Invalid: ");
    let loose = json!({"strict": false});
    let reply = curl.send("DELETE", &format!("{of_entity}/{any}"), Some(&loose)).await;
    assert!(reply.rows().is_empty());
    assert_eq!(curl.send("GET", &of_entity, None).await.rows().len(), 1);

    // Delete the entity, announced by a token; then the agent, which had to wait for that.
    curl.send("DELETE", &agent_path, None).await.failed(400, "InvalidArgument: ");
    let path = "/v1.0/endpoint/gogame/entitys/1";
    let body = json!({"token": "0123456789abcdef0123456789abcdef", "why": "done"});
    let reply = curl.send("DELETE", path, Some(&body)).await;
    let row = reply.row();
    assert_eq!(shape(row), "{endpoint:str,entity:int,notify:{result:str,resultcode:int}}");
    assert_eq!(
        (&row["entity"], &row["endpoint"], &row["notify"]["resultcode"]),
        (&json!(1), &json!("gogame"), &json!(0))
    );
    assert!(!site.path().join("h1/gogame/1").exists());
    curl.send("GET", path, None).await.failed(400, "InvalidArgument: ");

    let reply = curl.send("DELETE", &agent_path, None).await;
    assert_eq!(
        reply.row(),
        &json!({"agent_id": id, "host": "h1", "status": -127, "metadata": known,
                "ports_range": [range]})
    );
    assert_eq!(agent.exit_code().await, Some(3));
    curl.send("GET", &agent_path, None).await.failed(400, "InvalidArgument: ");
    let gone = curl.send("GET", "/v1.0/agents", Some(&json!({"deleted": true}))).await;
    assert_eq!(gone.row()["agent_id"], id);
    let reply = curl.send("POST", &format!("{agent_path}/clean"), None).await;
    assert!(reply.rows().is_empty());
    let none = curl.send("GET", "/v1.0/agents", Some(&json!({"deleted": true}))).await;
    assert!(none.rows().is_empty());
    site.stop().await;
}

fn numbers(list: &Value) -> Vec<u64> {
    list.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
}
