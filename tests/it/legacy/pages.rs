//! Pages of a long list, of which the old system could only give the first.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use goperation::v1;
use serde_json::json;

use super::{curl::Curl, routes::INVALID};
use crate::fleet::{Fleet, On};

/// Rows of a page.
const PAGE: usize = 2000;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_after_2000_rows_is_there() {
    let fleet = Fleet::start(On::Embedded).await;
    let reserve = |number: usize| {
        let mut agents = fleet.agents();
        let request = v1::CreateAgentRequest {
            r#type: "application".to_owned(),
            host: format!("h{number}"),
            reserve: true,
            ..v1::CreateAgentRequest::default()
        };
        async move { agents.create_agent(request).await.map(|_| ()) }
    };
    let all = stream::iter((0..PAGE + 5).map(reserve)).buffer_unordered(4);
    all.try_for_each(|()| async { Ok(()) }).await.unwrap();

    let curl = Curl::new(format!("http://{}", fleet.address()));
    let mut ids = Vec::new();
    for (page, rows) in [(0, PAGE), (1, 5)] {
        let reply = curl.send("GET", "/v1.0/agents", Some(&json!({ "page_num": page }))).await;
        assert_eq!((reply.rows().len(), &reply.body["pagenum"]), (rows, &json!(page)));
        ids.extend(reply.rows().iter().map(|row| row["agent_id"].as_u64().unwrap()));
    }
    assert_eq!(ids, (1..=2005).collect::<Vec<_>>());
    let past = curl.send("GET", "/v1.0/agents", Some(&json!({"page_num": 2}))).await;
    past.failed(400, INVALID);
    assert_eq!(curl.send("GET", "/v1.0/allagents", None).await.rows().len(), PAGE + 5);
    fleet.stop().await;
}
