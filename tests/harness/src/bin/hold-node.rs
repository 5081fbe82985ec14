//! Starts a RabbitMQ node, prints its scratch folder and AMQP port, and waits to be killed.
//!
//! For the harness's own test that a killed process leaves nothing behind.

use goperation_harness::{RabbitNode, guard};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let node = RabbitNode::start().await;
    println!("{} {}", guard::scratch().display(), node.addr().port());
    std::future::pending::<()>().await;
}
