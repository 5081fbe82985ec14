
use crate::support::*;
use goperation_bridge::{rabbit::*, *};
use std::sync::Arc;
use tokio::time::Instant;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scratch_measure() {
    for kind in [CastQueue::Classic, CastQueue::Quorum] {
    let rabbit = fresh_of(kind).await;
    let a = registered(&rabbit, "h0").await;
    let mut sub = subscribed(&rabbit, &a).await;
    let pump = tokio::spawn(async move { loop { let d = next(&mut sub).await; tokio::spawn(async move { d.ack.ack().await }); } });
    for workers in [1usize, 64] {
        let n = if workers == 1 { 2000 } else { 20000 };
        let start = Instant::now();
        let mut set = tokio::task::JoinSet::new();
        for _ in 0..workers {
            let (r, a) = (Arc::clone(&rabbit), a.clone());
            set.spawn(async move { for i in 0..n/workers { r.publish(&Route::Cast(a.clone()), &message(Kind::Cast, i as u64)).await.unwrap(); } });
        }
        while let Some(r) = set.join_next().await { r.unwrap(); }
        println!("{kind:?} {workers} publishers: {:.0}/s", n as f64 / start.elapsed().as_secs_f64());
    }
    pump.abort();
    let start = Instant::now();
    for i in 0..300 { rabbit.ensure_agent(&agent(&format!("m{i}")), &[goperation::EndpointName::parse("e","game").unwrap()], &[]).await.unwrap(); }
    println!("{kind:?} ensure_agent new: {:.0}/s", 300.0 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    for i in 0..300 { rabbit.ensure_agent(&agent(&format!("m{i}")), &[goperation::EndpointName::parse("e","game").unwrap()], &[]).await.unwrap(); }
    println!("{kind:?} ensure_agent again: {:.0}/s", 300.0 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    for i in 0..300 { rabbit.remove_agent(&agent(&format!("m{i}"))).await.unwrap(); }
    println!("{kind:?} remove_agent: {:.0}/s", 300.0 / start.elapsed().as_secs_f64());
    rabbit.close().await;
    }
}
