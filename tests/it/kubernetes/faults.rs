//! A cluster that misbehaves: each fault becomes the error it is documented to become, and the node is as it was.

use std::time::Duration;

use milepost::action::{ActionError, ClusterError, Clusters};
use milepost::simulator::{Fault, Rule};
use serde_json::Value;

use super::{ALREADY, CHANGED, Hub, cluster, simulator};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn faults_become_the_errors_they_should() {
    let simulator = simulator(1).await;
    let hub = Hub::new(&simulator);
    let before = simulator.node("node-001");
    let later =
        [Fault::Throttle { retry_after_secs: 3 }, Fault::Reset, Fault::Status(429), Fault::Status(503)];
    let later = later.map(|fault| (fault, "later"));
    let transient = [409, 500, 504].map(|code| (Fault::Status(code), "transient"));
    let permanent = [400, 401, 403, 404, 422].map(|code| (Fault::Status(code), "permanent"));
    for (fault, expected) in later.into_iter().chain(transient).chain(permanent) {
        simulator.set_rules(vec![Rule::on("patch", fault.clone()).path("/api/v1/nodes/*")]);
        let error = hub.run("cordon", Value::Null, "node-001").await.unwrap_err();
        let kind = match error {
            ActionError::Later { .. } => "later",
            ActionError::Transient { .. } => "transient",
            ActionError::Permanent { .. } => "permanent",
            ActionError::Stopped { .. } => "stopped",
        };
        assert_eq!(kind, expected, "{fault:?}: {error}");
        assert_eq!(simulator.node("node-001"), before);
    }
    simulator.set_rules(Vec::new());
    assert_eq!(hub.run("cordon", Value::Null, "node-001").await, CHANGED);
}

#[tokio::test]
async fn refusals_are_sentences_for_users() {
    let simulator = simulator(1).await;
    let hub = Hub::new(&simulator);
    let missing = hub.run("cordon", Value::Null, "node-999").await;
    assert_eq!(missing, Err(ActionError::permanent("node node-999 does not exist in cluster sim")));
    simulator.set_rules(vec![Rule::on("patch", Fault::Status(403))]);
    let forbidden = hub.run("cordon", Value::Null, "node-001").await;
    assert_eq!(forbidden, Err(ActionError::permanent("forbidden: needs patch on nodes in cluster sim")));
    simulator.set_rules(vec![Rule::on("get", Fault::Throttle { retry_after_secs: 3 })]);
    let Err(ActionError::Later { retry_after, .. }) = hub.run("cordon", Value::Null, "node-001").await else {
        panic!("a busy cluster is asked again")
    };
    assert_eq!(retry_after, 3 * SECOND);
}

#[tokio::test]
async fn a_few_conflicts_are_overcome_and_no_refusal_is_retried() {
    let simulator = simulator(1).await;
    let hub = Hub::new(&simulator);
    let patches = || simulator.requests().iter().filter(|request| request.verb == "patch").count();
    simulator.set_rules(vec![Rule::on("patch", Fault::Status(409)).times(3)]);
    assert_eq!(hub.run("cordon", Value::Null, "node-001").await, CHANGED);
    assert_eq!(patches(), 4);
    simulator.set_rules(vec![Rule::on("patch", Fault::Status(503))]);
    hub.run("uncordon", Value::Null, "node-001").await.unwrap_err();
    assert_eq!(patches(), 5, "a 503 is the worker's to retry");
}

#[tokio::test]
async fn a_slow_cluster_costs_one_call_timeout() {
    let simulator = simulator(1).await;
    let hub = Hub::with(&simulator, |actions| actions.call_timeout = SECOND / 2);
    simulator.set_rules(vec![Rule::on("get", Fault::Latency { from: 300 * SECOND, to: 300 * SECOND })]);
    let acting = hub.run("uncordon", Value::Null, "node-001");
    let error =
        tokio::time::timeout(30 * SECOND, acting).await.expect("the call has a deadline").unwrap_err();
    let message = "cluster sim: no answer within 500ms".into();
    assert_eq!(error, ActionError::Later { message, retry_after: SECOND });
    simulator.set_rules(vec![Rule::on("list", Fault::Latency { from: 300 * SECOND, to: 300 * SECOND })]);
    let listing = tokio::time::timeout(30 * SECOND, async { hub.registry.nodes(&cluster("sim")).await });
    assert!(matches!(listing.await.expect("so has a list"), Err(ClusterError::Unavailable { .. })));
}

#[tokio::test]
async fn a_patch_whose_answer_is_lost_is_found_done() {
    let simulator = simulator(1).await;
    let hub = Hub::new(&simulator);
    simulator.set_rules(vec![Rule::on("patch", Fault::ResetAfter).times(1)]);
    let lost = hub.run("cordon", Value::Null, "node-001").await.unwrap_err();
    assert!(matches!(lost, ActionError::Later { .. }), "{lost}");
    assert_eq!(hub.run("cordon", Value::Null, "node-001").await, ALREADY);
}

#[tokio::test]
async fn calls_stay_under_the_rate_of_the_cluster() {
    let simulator = simulator(1).await;
    let hub = Hub::with(&simulator, |actions| actions.calls_per_second = 20);
    for _ in 0..60 {
        hub.run("uncordon", Value::Null, "node-001").await.unwrap();
    }
    let requests = simulator.requests();
    let took = requests.last().unwrap().at.saturating_sub(requests[0].at);
    assert!(took >= SECOND * 9 / 10, "40 calls are the burst, 20 more take a second: {took:?}");
}

#[tokio::test]
async fn a_cluster_that_is_gone_is_unreachable() {
    let simulator = simulator(1).await;
    let hub = Hub::new(&simulator);
    drop(simulator);
    tokio::time::timeout(30 * SECOND, async {
        while let Ok(done) = hub.run("uncordon", Value::Null, "node-001").await {
            assert_eq!(Ok(done), ALREADY);
        }
    })
    .await
    .expect("a dropped simulator stops");
    let error = hub.run("uncordon", Value::Null, "node-001").await.unwrap_err();
    assert!(error.to_string().starts_with("cluster sim cannot be reached: "), "{error}");
    let error = hub.run("cordon", Value::Null, "node-001").await.unwrap_err();
    assert!(error.to_string().starts_with("cluster sim: its nodes are not known: "), "{error}");
}
