//! The delayed retry: each step lasts what it says, and none holds up another.

use std::time::Duration;

use goperation_bridge::{Kind, QueueName, Route, Transport as _, rabbit::CastQueue};
use tokio::time::Instant;

use crate::support::{fresh_of, message, next, number, registered, subscribed};

async fn steps_return(kind: CastQueue) {
    let rabbit = fresh_of(kind).await;
    let agent = registered(&rabbit, "h1.example").await;
    let mut subscription = subscribed(&rabbit, &agent).await;
    let start = Instant::now();
    // The long one first: it must not hold back the short ones behind it.
    for (n, step) in [(0, 3), (1, 0), (2, 0), (3, 1)] {
        let route = Route::RetryCast(agent.clone(), Route::STEPS[step]);
        rabbit.publish(&route, &message(Kind::Cast, n)).await.unwrap();
    }
    let route = Route::RetryAny(agent.clone(), Route::STEPS[0]);
    rabbit.publish(&route, &message(Kind::Cast, 4)).await.unwrap();

    let mut came = Vec::new();
    for _ in 0..5 {
        let delivery = next(&mut subscription).await;
        let any = delivery.queue == QueueName::Any(agent.agent_type.clone());
        assert_eq!(any, number(&delivery.message) == 4, "it returns to its own queue");
        came.push((number(&delivery.message), start.elapsed()));
        delivery.ack.ack().await;
    }
    let order: Vec<_> = came.iter().map(|(n, _)| *n).filter(|n| *n != 4).collect();
    assert_eq!(order, [1, 2, 3, 0]);
    for (n, after) in came {
        let step = [4000, 500, 500, 1000, 500][usize::try_from(n).unwrap()];
        let step = Duration::from_millis(step);
        assert!(after >= step && after < step + Duration::from_secs(10), "{n}: {after:?}");
    }
    rabbit.close().await;
}

#[tokio::test]
async fn steps_return_to_classic_queues() {
    steps_return(CastQueue::Classic).await;
}

#[tokio::test]
async fn steps_return_to_quorum_queues() {
    steps_return(CastQueue::Quorum).await;
}
