//! F22: a rolling upgrade from the commit before this one, and back, under load.
//!
//! `make unit` builds the other binary (`scripts/previous.sh`) and names it in `PREVIOUS_MILEPOST`. Without that, as in a shallow
//! clone, every replica is replaced by one of the same release.

use std::path::{Path, PathBuf};

use milepost_harness::{HubSpec, Replica};
use serde_json::Value;

use super::stage::{Stage, blocking, spec};
use crate::support::{PATIENCE, names, wait_batch};

fn batch(prefix: &str) -> Value {
    let mut batch = wait_batch(&names(prefix, 100), 200, 9);
    batch["concurrency"] = 5.into();
    batch
}

/// Stops a replica and starts it as another release.
fn replace(replica: &mut Replica, binary: &Path) {
    let replaced = replica.stop(PATIENCE).and_then(|()| {
        replica.replace_binary(binary);
        replica.run()
    });
    blocking(|| replaced).unwrap();
}

/// Replaces one replica after the other, with submits before each.
async fn roll(stage: &mut Stage, name: &str, binary: &Path) {
    for n in 0..stage.hub.workers.len() {
        stage.submit_at(n % 2, "ann", &batch(&format!("{name}-{n}"))).await;
        replace(&mut stage.hub.workers[n], binary);
    }
    for n in 0..stage.hub.gateways.len() {
        replace(&mut stage.hub.gateways[n], binary);
        stage.submit_at(n, "ann", &batch(&format!("{name}-gateway-{n}"))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_rolling_upgrade_and_back() {
    let current = PathBuf::from(env!("CARGO_BIN_EXE_milepost"));
    let named = std::env::var_os("PREVIOUS_MILEPOST").filter(|path| !path.is_empty());
    let previous = named.map_or_else(|| current.clone(), PathBuf::from);
    let mut stage = Stage::start(HubSpec { binary: previous.clone(), workers: 2, ..spec() });
    stage.watch("ann", 3).await;
    let fault = stage.fault("term-all-in-turn");
    stage.submit("ann", &batch("before")).await;
    // The schema of this release, and replicas of the one before.
    blocking(|| stage.hub.command_of(&current, &["migrate"])).unwrap();
    roll(&mut stage, "up", &current).await;
    roll(&mut stage, "back", &previous).await;
    let requeued = stage.sockets()[0].events(|event| event.kind == milepost::task::EventKind::Requeued);
    fault.bit(format!("{} batches were handed over between releases", requeued.len()));
    assert!(!requeued.is_empty(), "void: nothing was handed over");
    fault.healed();
    stage.judge().await;
}
