//! One broker user per agent: enough to be one agent, not enough to touch another.

use goperation_bridge::{
    Kind, PublishError, QueueName, Route, Source, Transport as _,
    rabbit::{Rabbit, RabbitConfig},
};
use goperation_harness::RabbitNode;
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};

use crate::support::{config, connected, message, next, number, registered, taken};

#[tokio::test]
async fn an_agents_user_can_be_that_agent_and_no_other() {
    let node = RabbitNode::shared().await;
    let vhost = node.new_vhost().await;
    let bridge = Rabbit::connect(config(&vhost.uri)).unwrap();
    let own = registered(&bridge, "h1").await;
    // Its name begins with the other's: what is not anchored would reach it.
    let other = registered(&bridge, "h10").await;

    let rights = bridge.layout().agent_rights(&own);
    let user = format!("agent-{}", vhost.name);
    let uri = node
        .add_user(&user, "secret", &vhost.name, &rights.configure, &rights.write, &rights.read)
        .await;
    let limited = Rabbit::connect(RabbitConfig { uri: uri.clone(), ..config(&vhost.uri) }).unwrap();

    // It runs fully.
    let mut replies = bridge.subscribe(Source::Replies("b1".into()), 16).await.unwrap();
    connected(&mut replies, crate::support::SOON).await;
    let mut subscription = crate::support::subscribed(&limited, &own).await;
    for (route, n) in [
        (Route::Cast(own.clone()), 1),
        (Route::Call(own.clone()), 2),
        (Route::Any(own.agent_type.clone()), 3),
        (Route::AnyCall(own.agent_type.clone()), 4),
    ] {
        bridge.publish(&route, &message(Kind::Cast, n)).await.unwrap();
        assert_eq!(number(&taken(&mut subscription).await), n, "{route:?}");
    }
    limited.publish(&Route::Reply("b1".into()), &message(Kind::Reply, 5)).await.unwrap();
    assert_eq!(number(&taken(&mut replies).await), 5);
    let retry = Route::RetryCast(own.clone(), Route::STEPS[0]);
    limited.publish(&retry, &message(Kind::Cast, 6)).await.unwrap();
    let back = next(&mut subscription).await;
    assert_eq!((number(&back.message), back.queue), (6, QueueName::Cast(own.clone())));
    back.ack.ack().await;
    let any = Route::RetryAny(own.clone(), Route::STEPS[0]);
    limited.publish(&any, &message(Kind::Cast, 7)).await.unwrap();
    assert_eq!(number(&taken(&mut subscription).await), 7);
    limited.publish(&Route::Dead(own.clone()), &message(Kind::Cast, 8)).await.unwrap();
    assert_eq!(bridge.dead_letters(10).await.unwrap().len(), 1);

    // Through our own code it reaches nobody else.
    for route in [Route::RetryCast(other.clone(), Route::STEPS[0]), Route::Dead(other.clone())] {
        let refused = limited.publish(&route, &message(Kind::Cast, 9)).await;
        assert!(matches!(refused, Err(PublishError::Unavailable(_))), "{route:?}: {refused:?}");
    }

    // Nor by AMQP itself.
    let connection = Connection::connect(&uri, ConnectionProperties::default()).await.unwrap();
    for exchange in [
        "",
        "gop.direct",
        "gop.agent.application.h10",
        "gop.fanout.agent",
        "gop.return",
        "gop.step",
        "gop.dead",
        "gop.notify",
        "gop.type.application",
        "amq.direct",
    ] {
        let sent = publish(&connection, exchange, "cast.application.h10").await;
        assert_eq!(sent, Err(403), "{exchange}");
    }
    // Its own exchange knows only its own keys.
    for key in [
        "cast.application.h10",
        "500.cast.application.h10",
        "call.application.h10",
        "dead.application.h10",
        "500.cast.application.h1.h10",
    ] {
        assert_eq!(publish(&connection, "gop.agent.application.h1", key).await, Ok(true), "{key}");
    }
    for queue in ["gop.cast.classic.application.h10", "gop.call.application.h10", "gop.dead"] {
        let channel = connection.create_channel().await.unwrap();
        let got = channel.basic_get(queue.into(), BasicGetOptions::default()).await;
        assert_eq!(code(got.map(drop)), 403, "{queue}");
        let channel = connection.create_channel().await.unwrap();
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumed = channel.basic_consume(queue.into(), "".into(), options, none).await;
        assert_eq!(code(consumed.map(drop)), 403, "{queue}");
    }
    // Another's CALL queue cannot be taken, and its messages cannot be diverted.
    let channel = connection.create_channel().await.unwrap();
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let taken = channel
        .queue_declare("gop.call.application.h10".into(), options, FieldTable::default())
        .await;
    assert_eq!(code(taken.map(drop)), 403);
    for exchange in ["gop.direct", "gop.agent.application.h10", "gop.fanout.agent", "gop.reply"] {
        let channel = connection.create_channel().await.unwrap();
        let bound = bind(&channel, exchange).await;
        assert_eq!(bound, 403, "{exchange}");
    }
    connection.close(200, "".into()).await.unwrap();
    assert_eq!(bridge.queue(&QueueName::Cast(other)).await.unwrap().unwrap().depth, 0);
    limited.close().await;
    bridge.close().await;
}

/// Whether the message came back, or the broker's reply code.
async fn publish(connection: &Connection, exchange: &str, key: &str) -> Result<bool, u16> {
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let confirm = channel
        .basic_publish(exchange.into(), key.into(), options, b"{}", Default::default())
        .await
        .unwrap();
    match confirm.await {
        Ok(confirmed) => Ok(confirmed.take_message().is_some()),
        Err(error) => Err(code(Err(error))),
    }
}

async fn bind(channel: &Channel, exchange: &str) -> u16 {
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    let queue = "gop.anycall.application";
    code(channel.queue_bind(queue.into(), exchange.into(), "x".into(), options, none).await)
}

/// The broker's reply code; 0 when it agreed.
fn code(done: lapin::Result<()>) -> u16 {
    match done {
        Ok(()) => 0,
        Err(error) => match error.kind() {
            lapin::ErrorKind::ProtocolError(e) => e.get_id(),
            other => panic!("{other:?}"),
        },
    }
}
