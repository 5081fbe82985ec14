//! Claims of messages for any one agent.

use futures::future::join_all;
use goperation::{Error, Reason, now_millis, to_timestamp, v1::*};
use goperation_store::{Scan, Store as _};

use crate::harness::{Manager, answer, secret, until};

async fn claim(
    manager: &Manager,
    id: i32,
    host: &str,
    message: &str,
    keep: u64,
) -> Result<ClaimMessageResponse, Error> {
    let request = ClaimMessageRequest {
        id,
        secret: secret(host),
        message_id: message.to_owned(),
        keep_until: Some(to_timestamp(now_millis() + keep)),
    };
    answer(manager.agents().claim_message(request).await)
}

#[tokio::test]
async fn one_agent_has_it_and_is_told_so_again() {
    let manager = Manager::start().await;
    let hosts: Vec<String> = (1..=8).map(|i| format!("h{i}")).collect();
    for host in &hosts {
        manager.register(host).await;
    }
    let claims = hosts.iter().zip(1..).map(|(host, id)| claim(&manager, id, host, "m1", 60_000));
    let claims = join_all(claims).await;
    let holders: Vec<_> = claims.iter().map(|c| c.as_ref().unwrap().holder).collect();
    let winner = holders[0];
    assert!(holders.iter().all(|&holder| holder == winner));
    assert_eq!(claims.iter().filter(|c| c.as_ref().unwrap().claimed).count(), 1);

    let manager = manager.crash().await;
    let host = format!("h{winner}");
    assert!(claim(&manager, winner, &host, "m1", 60_000).await.unwrap().claimed);
    let other = if winner == 1 { 2 } else { 1 };
    let answer = claim(&manager, other, &format!("h{other}"), "m1", 60_000).await.unwrap();
    assert_eq!((answer.claimed, answer.holder), (false, winner));
}

#[tokio::test]
async fn a_claim_ends_with_its_time() {
    let manager = Manager::start().await;
    let (a, b) = (manager.register("h1").await, manager.register("h2").await);
    assert!(claim(&manager, a, "h1", "m1", 200).await.unwrap().claimed);
    until("the other may have it", || async {
        claim(&manager, b, "h2", "m1", 60_000).await.unwrap().claimed
    })
    .await;
    assert_eq!(claim(&manager, a, "h1", "m1", 200).await.unwrap().holder, b);
}

#[tokio::test]
async fn bad_claims_are_refused() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    let error = claim(&manager, id, "h2", "m1", 1000).await.unwrap_err();
    assert_eq!(error.reason, Reason::PermissionDenied);
    let error = claim(&manager, id, "h1", "a b", 1000).await.unwrap_err();
    assert_eq!(error.violations[0].field, "message_id");
    let error = claim(&manager, id, "h1", "m1", 9 * 24 * 3600 * 1000).await.unwrap_err();
    assert_eq!(error.violations[0].field, "keep_until");
}

#[tokio::test]
async fn old_claims_are_removed() {
    let manager = Manager::start().await;
    let id = manager.register("h1").await;
    for i in 0..20 {
        claim(&manager, id, "h1", &format!("old{i}"), 0).await.unwrap();
    }
    claim(&manager, id, "h1", "new", 60_000).await.unwrap();
    let manager = manager.restart().await;
    until("only the new one is left", || async {
        let claims = manager.store().scan(Scan::prefix(*b"m/claim")).await.unwrap();
        // The claim, and when it ends.
        claims.len() == 2
    })
    .await;
    assert!(claim(&manager, id, "h1", "new", 60_000).await.unwrap().claimed);
}
