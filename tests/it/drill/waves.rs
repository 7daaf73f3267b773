//! The walkthrough of docs/operations.md, from the first command to the last: 200 nodes are drained in ten waves, the canary
//! first; a node that will not be drained uses the failure budget up; the task is resumed, and in the end rolled back. It is
//! seen in the API, on the command line and in the dashboard.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use milepost::simulator::Simulator;
use milepost_harness::{Chromium, HubMode};
use serde_json::{Value, json};

use super::seen::{assert_changed_once, assert_evicted_once, changes, in_work, most_at_once};
use super::{Site, Stage, User, pod, quick};
use crate::browser::Page;
use crate::support::{assert_orderly, is_terminal, until};

const WITHIN: Duration = Duration::from_secs(90);
/// Nodes in work at once.
const LANES: usize = 12;
/// The node with a pod that nothing would make anew.
const STUBBORN: &str = "node-080";
/// Nodes that somebody else has cordoned before.
const THEIRS: [&str; 2] = ["node-050", "node-150"];

/// Notes what the shown task's bar and its wave go through.
const NOTE: &str = "(() => {
    window.seen = { bar: [], waves: [] };
    const bar = document.querySelector('.panel .bar');
    const fact = [...document.querySelectorAll('.facts dt')].find((name) => name.textContent === 'Wave');
    const wave = fact.nextElementSibling;
    const note = () => {
        window.seen.bar.push(Number(bar.getAttribute('aria-valuenow')));
        if (wave.textContent) window.seen.waves.push(wave.textContent);
    };
    note();
    new MutationObserver(note).observe(document.querySelector('.panel'),
        { attributes: true, characterData: true, childList: true, subtree: true });
})()";

/// `milepost` as a user calls it.
fn command(stage: &Stage, user: &User, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_milepost"));
    command.args(args).env_clear().env("MILEPOST_SERVER_URL", &user.base).env("MILEPOST_TOKEN", &user.token);
    command.current_dir(stage.hub.folder());
    command
}

/// What it prints.
fn said(stage: &Stage, user: &User, args: &[&str]) -> String {
    let output = super::blocking(|| command(stage, user, args).output()).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{args:?}: {out}{err}");
    out + &err
}

/// A cluster with more room than is taken from it, in which somebody has been before.
async fn cluster() -> Site {
    let site = Site::start("prod", quick(260, 3)).await;
    let mut stray = pod(STUBBORN, "stray");
    stray["metadata"]["ownerReferences"] = json!([]);
    site.simulator.add_pod(&stray).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, site.kubeconfig()).unwrap();
    let args = ["cordon", THEIRS[0], THEIRS[1]];
    let kubectl = || Command::new("kubectl").env("KUBECONFIG", &kubeconfig).args(args).output();
    assert!(super::blocking(kubectl).unwrap().status.success());
    site
}

/// The wave of each node: one first, 23 at a time after that, the control plane at the end.
fn waves(nodes: &[String]) -> BTreeMap<String, usize> {
    let (last, first) = nodes.split_at(3);
    let order = first.iter().chain(last).enumerate();
    order.map(|(place, node)| (node.clone(), if place == 0 { 1 } else { (place - 1) / 23 + 2 })).collect()
}

fn cordoned(simulator: &Simulator) -> Vec<String> {
    let names = simulator.node_names().into_iter();
    names.filter(|name| simulator.node(name).unwrap()["spec"]["unschedulable"] == true).collect()
}

async fn at_task(browser: &Chromium, user: &User, task: &str) -> Page {
    let mut page = Page::open(browser).await.unwrap();
    page.size(1280, 900).await.unwrap();
    page.go(&format!("{}/#token={}", user.base, user.token)).await.unwrap();
    page.wait("document.querySelector('#connection').dataset.phase === 'open'").await.unwrap();
    page.eval::<()>(&format!("void (location.hash = '#/tasks/{task}')")).await.unwrap();
    page.wait("document.querySelector('.panel .bar').hasAttribute('aria-valuenow')").await.unwrap();
    page
}

async fn wait_status(page: &mut Page, status: &str) {
    let holds = format!("document.querySelector('.panel .status').dataset.status === '{status}'");
    page.wait(&holds).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_nodes_are_drained_in_ten_waves_stopped_resumed_and_rolled_back() {
    let site = cluster().await;
    let simulator = &site.simulator;
    let lanes = LANES.to_string();
    let stage =
        Stage::start(HubMode::Redis, 2, &[&site], &[("MILEPOST_WORKER__LANES_PER_TASK", &lanes)]).await;
    let (user, browser) = (stage.user("ada"), Chromium::start().unwrap());
    let mut watcher = user.watch().await;
    let nodes = simulator.node_names()[..200].to_vec();
    let wave_of = waves(&nodes);

    let submit = [
        "submit",
        "drain",
        "--cluster",
        "prod",
        "node-[001-200]",
        "--reason",
        "kernel 6.12",
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--canary",
        "1",
        "--waves",
        "23",
        "--order",
        "control-plane-last",
        "--max-failed",
        "0",
        "--json",
    ];
    let submitted = said(&stage, &user, &submit);
    let submitted: Value = serde_json::from_str(submitted.lines().next().unwrap()).unwrap();
    let task = submitted["task"]["task_id"].as_str().unwrap().to_owned();
    let mut follow = command(&stage, &user, &["watch", &task]);
    let follow = follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut page = at_task(&browser, &user, &task).await;
    page.eval::<()>(NOTE).await.unwrap();

    let mut events = watcher.events_until(&task, |event| event["type"] == "paused").await;
    let stopped = "the failure budget is used up: 1 failed, and 0 may";
    assert_eq!(events.last().unwrap()["message"], stopped);
    let path = format!("tasks/{task}");
    until("it rests", async || user.api.get(&path).await.get("worker").is_none()).await;
    let (paused, number) = (user.api.get(&path).await, wave_of[STUBBORN]);
    assert_eq!(paused["wave"], json!({"number": number, "of": 10}), "{paused}");
    let begun = in_work(simulator, &task);
    assert!(begun.keys().all(|node| wave_of[node] <= number), "a later wave was begun: {begun:?}");
    let shown = said(&stage, &user, &["tasks", "show", &task]);
    assert!(shown.contains(stopped) && shown.contains(&format!("wave {number} of 10")), "{shown}");
    let failed = said(&stage, &user, &["tasks", "show", &task, "--state", "failed"]);
    assert!(failed.contains(STUBBORN) && failed.contains("shop/stray"), "{failed}");
    wait_status(&mut page, "paused").await;
    page.wait(&format!(
        "document.querySelector('.notice.warn:not([hidden])').textContent.includes('{}')",
        &stopped[4..]
    ))
    .await
    .unwrap();
    page.click("[name=item-state][value=failed]").await.unwrap();
    page.wait(&format!(
        "document.querySelector('.items tr.failed').textContent.includes('{STUBBORN}') &&
         document.querySelector('.items tr.failed .why').textContent.includes('shop/stray')"
    ))
    .await
    .unwrap();

    said(&stage, &user, &["resume", &task]);
    events.extend(watcher.events_until(&task, is_terminal).await);
    assert_orderly(&events);
    let over = user.ended(&task, WITHIN).await;
    let (status, failed, succeeded) = (&over["status"], &over["failed"], &over["succeeded"]);
    assert_eq!(
        (status, failed, succeeded),
        (&json!("completed_with_errors"), &json!(1), &json!(199)),
        "{over}"
    );
    let seen: Vec<_> = events.iter().filter_map(|event| event["wave"]["number"].as_u64()).collect();
    assert!(seen.is_sorted() && (1..=10).all(|wave| seen.contains(&wave)), "{seen:?}");
    wait_status(&mut page, "completed_with_errors").await;
    assert_dashboard_followed(&mut page).await;
    assert_watch_told(follow.wait_with_output().unwrap(), stopped, number);
    assert_waves_kept_apart(simulator, &task, &wave_of);

    page.click("[data-verb=rollback]:not([hidden])").await.unwrap();
    page.wait("document.querySelector('.submit-foot .primary').textContent === 'Uncordon · 200 nodes'")
        .await
        .unwrap();
    assert_rolled_back(&stage, &user, &site, &task).await;
    assert!(page.complaints().is_empty(), "{:#?}", page.complaints());
}

/// The bar only grew, and every wave that lasted was shown.
async fn assert_dashboard_followed(page: &mut Page) {
    let bar: Vec<u32> = page.eval("window.seen.bar").await.unwrap();
    let waves: Vec<String> = page.eval("window.seen.waves").await.unwrap();
    assert!(bar.is_sorted() && bar.last() == Some(&200), "{bar:?}");
    let number = |words: &String| words.split_once(" of 10").unwrap().0.parse::<u32>().unwrap();
    let waves: Vec<u32> = waves.iter().map(number).collect();
    assert!(waves.is_sorted() && waves.last() == Some(&10), "{waves:?}");
    let different: std::collections::BTreeSet<_> = waves.iter().collect();
    assert!(different.len() >= 5, "the dashboard missed most waves: {different:?}");
}

/// `milepost watch` told the story in plain lines, and its exit code was the outcome.
fn assert_watch_told(watched: std::process::Output, stopped: &str, number: usize) {
    let out = String::from_utf8(watched.stdout).unwrap();
    assert_eq!(watched.status.code(), Some(1), "{out}");
    let at = |words: &str| out.find(words).unwrap_or_else(|| panic!("{words:?} is not in\n{out}"));
    let failure = at(&format!("{STUBBORN} failed: "));
    let story = [at("wave 1 of 10"), at(&format!("wave {number} of 10")), at(stopped), at("wave 10 of 10")];
    assert!(story.is_sorted() && failure < at("wave 10 of 10"), "{out}");
    let last = out.lines().last().unwrap();
    assert!(last.contains("completed with errors, 199 succeeded") && last.contains("1 failed"), "{out}");
}

/// No node of a wave was touched before the last one of the wave before was through, nor more at once than lanes.
fn assert_waves_kept_apart(simulator: &Simulator, task: &str, wave_of: &BTreeMap<String, usize>) {
    let spans = in_work(simulator, task);
    assert_eq!(spans.len(), 200);
    let most = most_at_once(spans.values());
    assert!((LANES / 2..=LANES).contains(&most), "{most} nodes at once");
    for wave in 2..=10 {
        let of =
            |wanted| spans.iter().filter(move |(node, _)| wave_of[*node] == wanted).map(|(_, span)| span);
        let begun = of(wave).map(|(from, _)| from).min().unwrap();
        let through = of(wave - 1).map(|(_, to)| to).max().unwrap();
        assert!(
            begun > through,
            "wave {wave} began at {begun:?}, and the one before it ended at {through:?}"
        );
    }
    assert!(assert_evicted_once(simulator) >= 350);
    let ours: Vec<String> = wave_of.keys().filter(|node| !THEIRS.contains(&node.as_str())).cloned().collect();
    assert_changed_once(simulator, task, &ours);
}

/// What the task cordoned is in service again, the node that failed too; what others cordoned is not.
async fn assert_rolled_back(stage: &Stage, user: &User, site: &Site, task: &str) {
    assert_eq!(cordoned(&site.simulator).len(), 200);
    let undo = ["submit", "uncordon", "--cluster", "prod", "--of-task", task, "--json"];
    let undo: Value = serde_json::from_str(said(stage, user, &undo).lines().next().unwrap()).unwrap();
    let undo = undo["task"]["task_id"].as_str().unwrap();
    let record = user.ended(undo, WITHIN).await;
    assert_eq!((&record["succeeded"], &record["skipped"]), (&json!(198), &json!(2)), "{record}");
    assert_eq!(cordoned(&site.simulator), THEIRS);
    let skipped = said(stage, user, &["tasks", "show", undo, "--state", "skipped"]);
    assert!(skipped.contains("not that task's cordon but that of somebody else"), "{skipped}");
    assert!(changes(&site.simulator, undo).values().all(|times| *times == 1));
}
