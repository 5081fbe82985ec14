//! Durable inserts per second at 1 and 64 callers: `cargo run --example throughput [folder]`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

use goperation_store::{Durability, Error, Options, SledStore, Store, Txn};
use tokio::task::JoinSet;

const RUN: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> io::Result<()> {
    let parent = env::args_os().nth(1).map_or_else(env::temp_dir, PathBuf::from);
    let folder = parent.join(format!("goperation-throughput-{}", process::id()));
    for durability in [Durability::Crash, Durability::Power] {
        for callers in [1, 64] {
            let line = measure(&folder, durability, callers).await.map_err(io::Error::other);
            fs::remove_dir_all(&folder)?;
            println!("{durability:?}, {callers} callers: {}", line?);
        }
    }
    Ok(())
}

async fn measure(folder: &Path, durability: Durability, callers: u64) -> Result<String, Error> {
    let store = SledStore::open(Options::new(folder).durability(durability))?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let store = store.clone();
        tasks.spawn(async move {
            let mut n = 0_u64;
            while start.elapsed() < RUN {
                let key = [caller, n].map(u64::to_be_bytes).concat();
                store.commit(Txn::new().absent(key.clone()).put(key, [7; 100])).await?;
                n += 1;
            }
            Ok::<_, Error>(())
        });
    }
    for done in tasks.join_all().await {
        done?;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let stats = store.stats();
    store.close().await;
    let rate = stats.transactions as f64 / elapsed;
    let share = stats.transactions as f64 / stats.groups as f64;
    Ok(format!("{rate:.0} inserts/s, {share:.1} to a flush"))
}
