//! What the files of `gop manager` and `gop agent` say of the broker, as the broker sees it.

use goperation_bridge::rabbit::{CastQueue, RabbitConfig};
use goperation_harness::RabbitNode;
use serde_json::json;

use crate::{
    delete::TOML,
    procs::{Site, WAIT},
};

#[tokio::test(flavor = "multi_thread")]
async fn prefix_and_queue_type_of_the_files_hold() {
    let config = RabbitConfig {
        prefix: "farm-1".to_owned(),
        cast_queue: CastQueue::Quorum,
        ..RabbitConfig::default()
    };
    let site = Site::start_with(WAIT, config).await;
    let _agent = site.active_agent("h1", TOML).await;
    site.call("h1", "tt", "note", json!({}), WAIT).await.unwrap();
    let vhost = site.vhost();
    let names = RabbitNode::shared().await.ctl(["list_queues", "-p", vhost, "name"]).await.unwrap();
    let names: Vec<&str> = names.lines().map(str::trim).collect();
    for name in ["farm-1.cast.quorum.application.h1", "farm-1.call.application.h1"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(!names.iter().any(|name| name.starts_with("gop.")), "{names:?}");
    site.stop().await;
}
