//! What goes over the wire for one node, against a scripted server: paths, queries, bodies, and what each answer leads to.

use std::sync::Mutex;

use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response};
use kube::client::{Body, ClientBuilder};
use serde_json::{Value, json};
use tower_test::mock::pair;

use super::super::annotations::note;
use super::super::{agent, busy};
use super::*;
use crate::clock::ManualClock;
use crate::task::ItemName;

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The answer to a request, of which it gets the line "METHOD path?query" and the body. `None`: never.
type Answers<'a> = &'a mut dyn FnMut(&str, &Value) -> Option<(u16, Value)>;

struct Run {
    result: Result<Done, ActionError>,
    lines: Vec<String>,
    bodies: Vec<Value>,
    steps: Vec<Step>,
}

impl Run {
    fn bodies_of<'a>(&'a self, part: &'a str) -> impl Iterator<Item = &'a Value> {
        self.lines.iter().zip(&self.bodies).filter(move |(line, _)| line.contains(part)).map(|(_, body)| body)
    }

    fn count(&self, part: &str) -> usize {
        self.bodies_of(part).count()
    }

    fn error(&self) -> String {
        self.result.as_ref().unwrap_err().to_string()
    }
}

async fn drain(asked: DrainParameters, answers: Answers<'_>) -> Run {
    drain_until(asked, answers, CancellationToken::new()).await
}

/// Drains node `n1` while the answers are given.
async fn drain_until(asked: DrainParameters, answers: Answers<'_>, stopping: CancellationToken) -> Run {
    let (service, mut server) = pair::<Request<Body>, Response<Body>>();
    let cluster = Cluster::with_client(busy::client(ClientBuilder::new(service, "default")), CALL_TIMEOUT);
    let drain = Drain {
        evictions: super::super::rights::Evictions::Everywhere,
        cluster: Arc::new(cluster),
        annotations: Annotations::new("milepost.dev", &[]),
        note: note(Some("disk")),
        asked,
        clock: Arc::new(ManualClock::default()),
        sender: agent::of_nobody(),
        guard: None,
    };
    let steps = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&steps);
    let context = Context::new(stopping, None, Arc::new(move |step| taken.lock().unwrap().push(step)));
    let name = ItemName::new("n1").unwrap();
    let acting = async {
        let result = drain.run(Target { index: 0, name: &name }, &context).await;
        drop(drain);
        result
    };
    let (mut lines, mut bodies, mut never) = (Vec::new(), Vec::new(), Vec::new());
    let serving = async {
        while let Some((request, send)) = server.next_request().await {
            let line = format!("{} {}", request.method(), request.uri());
            let body = request.into_body().collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            match answers(&line, &body) {
                Some((code, answer)) => send.send_response(response(code, &answer)),
                None => never.push(send),
            }
            lines.push(line);
            bodies.push(body);
        }
    };
    let (result, ()) = tokio::join!(acting, serving);
    let steps = steps.lock().unwrap().clone();
    Run { result, lines, bodies, steps }
}

fn response(code: u16, body: &Value) -> Response<Body> {
    // A watch is lines, anything else one object.
    let text = match body.as_array() {
        Some(lines) => lines.iter().map(|line| format!("{line}\n")).collect(),
        None => body.to_string(),
    };
    let mut response = Response::new(Body::from(text.into_bytes()));
    *response.status_mut() = code.try_into().unwrap();
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().unwrap());
    response
}

fn node(uid: &str, unschedulable: bool) -> Value {
    json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1", "uid": uid, "resourceVersion": "5"},
        "spec": {"unschedulable": unschedulable}})
}

fn pod(name: &str, uid: &str) -> Value {
    let owner =
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "x", "controller": true});
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "ownerReferences": [owner]},
        "spec": {"containers": [], "nodeName": "n1"}, "status": {"phase": "Running"}})
}

fn pods(items: &[Value]) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "70"}, "items": items})
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "Some", "message": message})
}

fn over_budget() -> Value {
    let mut status = status(429, "Cannot evict pod as it would violate the pod's disruption budget.");
    let said = "The disruption budget web needs 2 healthy pods and has 2 currently";
    status["details"] = json!({"causes": [{"reason": "DisruptionBudget", "message": said}]});
    status
}

/// A cluster with one node and some pods, each of which goes when it is evicted.
struct Cloud {
    uid: &'static str,
    pods: Vec<Value>,
}

impl Cloud {
    fn with(names: &[&str]) -> Self {
        Self { uid: "node-1", pods: names.iter().map(|name| pod(name, &format!("uid-{name}"))).collect() }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is an answer like any other, which may never come")]
    fn answer(&mut self, line: &str, _: &Value) -> Option<(u16, Value)> {
        if line.starts_with("GET /api/v1/nodes/n1") {
            return Some((200, node(self.uid, false)));
        }
        if line.starts_with("PATCH /api/v1/nodes/n1") {
            return Some((200, json!({"metadata": {"name": "n1"}})));
        }
        if let Some(name) = line.strip_suffix("/eviction?").and_then(|line| line.rsplit('/').next()) {
            self.pods.retain(|pod| pod["metadata"]["name"] != name);
            return Some((201, json!({"kind": "Status", "status": "Success"})));
        }
        if line.contains("watch=true") {
            return Some((200, json!([])));
        }
        assert!(line.starts_with("GET /api/v1/pods?"), "{line}");
        Some((200, pods(&self.pods)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_cordons_lists_evicts_by_uid_and_waits_until_the_pods_are_gone() {
    let mut cloud = Cloud::with(&["web-1", "web-2"]);
    let asked = DrainParameters { grace_period_seconds: Some(7), ..DrainParameters::default() };
    let run = drain(asked, &mut |line, body| cloud.answer(line, body)).await;
    assert_eq!(run.result, Ok(Done::Succeeded(Effect::Changed)));
    assert_eq!(run.lines[0], "GET /api/v1/nodes/n1");
    assert_eq!(run.lines[1], "PATCH /api/v1/nodes/n1?&fieldManager=milepost");
    assert_eq!(run.bodies[1]["metadata"]["resourceVersion"], "5");
    assert_eq!(run.bodies[1]["metadata"]["annotations"]["milepost.dev/cordon-reason"], "disk");
    assert_eq!(run.lines[2], "GET /api/v1/pods?&fieldSelector=spec.nodeName%3Dn1&limit=500");
    let evictions: Vec<_> = run.bodies_of("/eviction").collect();
    assert_eq!(evictions.len(), 2);
    assert_eq!(
        evictions[0],
        &json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web-1", "namespace": "shop"},
            "deleteOptions": {"preconditions": {"uid": "uid-web-1"}, "gracePeriodSeconds": 7}})
    );
    let watch = run.lines.iter().find(|line| line.contains("watch=true")).unwrap();
    assert!(
        watch.contains("fieldSelector=spec.nodeName%3Dn1") && watch.contains("resourceVersion=70"),
        "{watch}"
    );
    let last = run.steps.last().unwrap().pods.unwrap();
    assert_eq!((last.gone, last.total), (2, 2));
    assert_eq!(run.steps[0], Step::doing("cordoning"));
}

#[tokio::test(start_paused = true)]
async fn without_a_grace_period_each_pod_has_its_own() {
    let mut cloud = Cloud::with(&["web-1"]);
    let run = drain(DrainParameters::default(), &mut |line, body| cloud.answer(line, body)).await;
    let options = &run.bodies_of("/eviction").next().unwrap()["deleteOptions"];
    assert_eq!(options, &json!({"preconditions": {"uid": "uid-web-1"}}));
}

#[tokio::test(start_paused = true)]
async fn what_is_done_already_is_only_looked_at() {
    let run = drain(DrainParameters::default(), &mut |line, _| match line {
        "GET /api/v1/nodes/n1" => Some((200, node("node-1", true))),
        _ => Some((200, pods(&[]))),
    })
    .await;
    assert_eq!(run.result, Ok(Done::Succeeded(Effect::Already)));
    assert_eq!(run.lines.len(), 2, "{:?}", run.lines);
}

#[tokio::test(start_paused = true)]
async fn a_refused_pod_is_found_before_the_first_eviction() {
    let mut cloud = Cloud::with(&["web-1", "bare"]);
    cloud.pods[1]["metadata"]["ownerReferences"] = json!([]);
    let run = drain(DrainParameters::default(), &mut |line, body| cloud.answer(line, body)).await;
    assert!(run.error().contains("pods that nothing would make anew (set force to evict them): shop/bare"));
    assert_eq!(run.count("/eviction"), 0);
    assert_eq!(run.count("PATCH"), 1, "the node stays cordoned, as with kubectl");
}

#[tokio::test(start_paused = true)]
async fn each_daemon_set_is_looked_up_once_and_an_unreadable_one_is_a_refusal() {
    let daemon = |name: &str| {
        let mut pod = pod(name, name);
        pod["metadata"]["ownerReferences"][0]["kind"] = "DaemonSet".into();
        pod
    };
    let asked = DrainParameters { ignore_daemonsets: true, ..DrainParameters::default() };
    for (code, sets) in [(200, json!({})), (403, status(403, "you may not"))] {
        let mut cloud = Cloud::with(&[]);
        cloud.pods = vec![daemon("d-1"), daemon("d-2")];
        let run = drain(asked.clone(), &mut |line, body| match line {
            "GET /apis/apps/v1/namespaces/shop/daemonsets/r" => Some((code, sets.clone())),
            _ => cloud.answer(line, body),
        })
        .await;
        assert_eq!(run.count("daemonsets"), 1);
        match code {
            200 => assert_eq!(run.result, Ok(Done::Succeeded(Effect::Changed))),
            _ => assert!(
                run.error().contains("whose DaemonSet cannot be read (you may not): shop/d-1, shop/d-2")
            ),
        }
        assert_eq!(run.count("/eviction"), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_several_pages_is_read_to_its_end_and_begun_again_when_it_expired() {
    let mut cloud = Cloud::with(&[]);
    let mut lists = 0;
    let asked = DrainParameters { pod_selector: Some("app=web".into()), ..DrainParameters::default() };
    let run = drain(asked, &mut |line, body| {
        if !line.starts_with("GET /api/v1/pods?") {
            return cloud.answer(line, body);
        }
        assert!(line.contains("labelSelector=app%3Dweb"), "{line}");
        lists += 1;
        match lists {
            1 | 3 => {
                let mut page = pods(&[]);
                page["metadata"]["continue"] = "more".into();
                Some((200, page))
            }
            2 => Some((410, status(410, "too old"))),
            _ => {
                assert!(line.contains("continue=more"), "{line}");
                Some((200, pods(&[])))
            }
        }
    })
    .await;
    assert_eq!((run.result, lists), (Ok(Done::Succeeded(Effect::Changed)), 4));
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_frees_is_waited_for_and_shown_meanwhile() {
    let mut cloud = Cloud::with(&["web-1"]);
    let mut refusals = 3;
    let run = drain(DrainParameters::default(), &mut |line, body| {
        if line.contains("/eviction") && refusals > 0 {
            refusals -= 1;
            return Some((429, over_budget()));
        }
        cloud.answer(line, body)
    })
    .await;
    assert_eq!(run.result, Ok(Done::Succeeded(Effect::Changed)));
    assert_eq!(run.count("/eviction"), 4);
    let shown = run.steps.iter().flat_map(|step| &step.obstacles).next().unwrap();
    assert_eq!((shown.by.as_str(), shown.pod.as_str()), ("budget web", "shop/web-1"));
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_never_frees_ends_with_the_time_and_the_error_names_it() {
    let mut cloud = Cloud::with(&["web-1", "web-2"]);
    let began = Instant::now();
    let asked = DrainParameters { timeout_seconds: Some(90), ..DrainParameters::default() };
    let run = drain(asked, &mut |line, body| match line.contains("web-1/eviction") {
        true => Some((429, over_budget())),
        false => cloud.answer(line, body),
    })
    .await;
    let error = run.error();
    assert!(
        error.starts_with("not drained within 90 s: 1 of 2 pods left: shop/web-1: kept by budget web"),
        "{error}"
    );
    assert!(error.contains("needs 2 healthy pods and has 2 currently"), "{error}");
    assert_eq!(began.elapsed().as_secs(), 90);
    assert!((9..20).contains(&run.count("web-1/eviction")), "{}", run.count("web-1/eviction"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_two_budgets_fails_at_once() {
    let mut cloud = Cloud::with(&["web-1", "web-2"]);
    let two =
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    let run = drain(DrainParameters::default(), &mut |line, body| match line.contains("web-1/eviction") {
        true => Some((500, status(500, two))),
        false => cloud.answer(line, body),
    })
    .await;
    assert!(
        run.error().starts_with("not drained: 1 of 2 pods left: shop/web-1: This pod has more"),
        "{}",
        run.error()
    );
    assert_eq!((run.count("web-1/eviction"), run.count("web-2/eviction")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_got_another_uid_is_done_and_its_successor_is_left_alone() {
    let mut cloud = Cloud::with(&["web-1"]);
    let run = drain(DrainParameters::default(), &mut |line, body| match line {
        "POST /api/v1/namespaces/shop/pods/web-1/eviction?" => {
            Some((409, status(409, "Precondition failed")))
        }
        "GET /api/v1/namespaces/shop/pods/web-1" => Some((200, pod("web-1", "another"))),
        _ => cloud.answer(line, body),
    })
    .await;
    assert_eq!(run.result, Ok(Done::Succeeded(Effect::Changed)));
    assert_eq!(run.count("/eviction"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_eviction_that_is_not_answered_is_asked_for_again_after_twenty_seconds() {
    let mut cloud = Cloud::with(&["web-1"]);
    let began = Instant::now();
    let mut hangs = 1;
    let run = drain(DrainParameters::default(), &mut |line, body| {
        if line.contains("/eviction") && hangs > 0 {
            hangs -= 1;
            return None;
        }
        cloud.answer(line, body)
    })
    .await;
    assert_eq!((run.result.is_ok(), run.count("/eviction")), (true, 2));
    assert!((20..25).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_falls_silent_or_is_forgotten_is_made_up_for_by_a_list() {
    for forgotten in [true, false] {
        let mut cloud = Cloud::with(&["web-1"]);
        let began = Instant::now();
        let gone = json!([{"type": "ERROR", "object": status(410, "too old resource version")}]);
        let run = drain(DrainParameters::default(), &mut |line, body| match line.contains("watch=true") {
            true if forgotten => Some((200, gone.clone())),
            true => None,
            false => cloud.answer(line, body),
        })
        .await;
        assert_eq!(run.result, Ok(Done::Succeeded(Effect::Changed)));
        assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn another_node_under_the_name_is_not_drained() {
    let mut cloud = Cloud::with(&["web-1"]);
    let run = drain(DrainParameters::default(), &mut |line, body| {
        if line.contains("/eviction") {
            cloud.uid = "node-2";
        }
        cloud.answer(line, body)
    })
    .await;
    let why = "the node was replaced or removed while it was drained".to_owned();
    assert_eq!(run.result, Ok(Done::Skipped(why)));
}

#[tokio::test(start_paused = true)]
async fn after_the_order_to_stop_nothing_is_evicted_any_more() {
    let stopping = CancellationToken::new();
    let mut cloud = Cloud::with(&["a", "b", "c"]);
    let mut asked_again = 0;
    let stop = stopping.clone();
    let run = drain_until(
        DrainParameters::default(),
        &mut |line, body| {
            if line.contains("a/eviction") || line.contains("b/eviction") {
                assert!(!stop.is_cancelled());
                asked_again += 1;
                if asked_again == 6 {
                    stop.cancel();
                }
                return Some((429, over_budget()));
            }
            cloud.answer(line, body)
        },
        stopping,
    )
    .await;
    let Err(ActionError::Stopped { message }) = run.result else { panic!("{:?}", run.result) };
    assert!(
        message
            .starts_with("stopped with the node cordoned and 2 of 3 pods left: shop/a: kept by budget web"),
        "{message}"
    );
    assert_eq!(asked_again, 6);
}

#[tokio::test(start_paused = true)]
async fn missing_rights_are_named() {
    for (part, what) in
        [("/api/v1/pods?", "needs list on pods"), ("/eviction", "may not create pods/eviction")]
    {
        let mut cloud = Cloud::with(&["web-1"]);
        let run = drain(DrainParameters::default(), &mut |line, body| match line.contains(part) {
            true => Some((403, status(403, "may not create pods/eviction"))),
            false => cloud.answer(line, body),
        })
        .await;
        assert!(run.error().contains(what), "{}", run.error());
    }
}
