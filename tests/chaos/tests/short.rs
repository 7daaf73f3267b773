//! A short run of the whole with a fixed seed and the faults that need little time. `make chaos` runs longer ones.

use std::time::Duration;

use milepost::verify::Verdict;
use milepost_chaos::{Kind, Settings, run, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_random_mix_of_faults_breaks_no_promise() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        duration: Duration::from_secs(40),
        seed: 3,
        kinds: vec![
            Kind::KillWorker,
            Kind::KillGateway,
            Kind::FlushRedis,
            Kind::RestartRedis,
            Kind::ResetPostgres,
            Kind::TermWorker,
        ],
        users: 5,
        sockets: 10,
        binary: world::binary().unwrap(),
        history: folder.path().join("history.jsonl"),
    };
    let report = run(&settings).await.unwrap();
    if report.verdict != Verdict::Passed {
        let path = folder.keep();
        panic!("see {}: {:#?} {:?}", path.display(), report.violations().collect::<Vec<_>>(), report.void);
    }
    assert!(report.totals.accepted > 20 && report.totals.reconnects > 20, "{:?}", report.totals);
}
