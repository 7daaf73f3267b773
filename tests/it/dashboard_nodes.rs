//! The list of nodes in the dashboard, while somebody else changes them.

use milepost_harness::{Chromium, Hub, HubMode, HubSpec};
use serde_json::{Value, json};

use crate::browser::Page;
use crate::support::{Api, PATIENCE};

const LONG: &str = "ip-10-123-123-123.eu-central-1.compute.internal.rack-17.example.com";

fn row(name: &str) -> String {
    format!("[...document.querySelectorAll('.node')].find((row) => row.dataset.name === '{name}')")
}

/// Another writer of the cluster, as kubectl is one.
struct Writer {
    http: reqwest::Client,
    api: String,
}

impl Writer {
    fn new(hub: &Hub) -> Self {
        let kubeconfig = std::fs::read_to_string(hub.kubeconfig()).unwrap();
        let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server:")).unwrap();
        Self { http: reqwest::Client::new(), api: format!("{}/api/v1/nodes", server.trim()) }
    }

    async fn patch(&self, name: &str, patch: &Value) {
        let request = self.http.patch(format!("{}/{name}", self.api)).body(patch.to_string());
        let request = request.header("content-type", "application/merge-patch+json").timeout(PATIENCE);
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_others_change_change_before_ones_eyes_and_the_selection_stays() {
    let spec = HubSpec {
        gateways: 1,
        workers: 1,
        nodes: 120,
        ..HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Memory)
    };
    let hub = Hub::start(spec).unwrap();
    let others = Writer::new(&hub);
    let browser = Chromium::start().unwrap();
    let mut page = Page::open(&browser).await.unwrap();
    page.size(1280, 800).await.unwrap();
    let token = hub.token("ada", "operator").unwrap();
    page.go(&format!("{}/#token={token}", hub.gateways[0].url())).await.unwrap();
    page.click("a[href='#/new']").await.unwrap();
    page.wait("document.querySelectorAll('.node').length > 10").await.unwrap();

    let (first, second) = (row("node-001"), row("node-002"));
    page.eval::<()>(&format!("{first}.click(); {second}.click(); window.first = {first}; undefined"))
        .await
        .unwrap();
    page.eval::<()>("document.querySelector('.nodes').scrollTop = 17; undefined").await.unwrap();
    let reason = json!({"spec": {"unschedulable": true}, "metadata": {"annotations": {
        "milepost.dev/cordon-task": "t", "milepost.dev/cordon-actor": "eve", "milepost.dev/cordon-reason": LONG}}});
    others.patch("node-001", &reason).await;
    page.wait(&format!("{first}.textContent.includes('Cordoned')")).await.unwrap();
    let kept: bool = page
        .eval(&format!(
            "window.first === {first} && document.querySelector('.nodes').scrollTop === 17 &&
            [{first}, {second}].every((row) => row.ariaSelected === 'true') &&
            document.querySelector('.picker-bar p').textContent.startsWith('2 of 120')"
        ))
        .await
        .unwrap();
    assert!(kept, "a row is changed in its place, and what was selected and in view stays so");

    // A filter that is on is kept, and takes in what begins to fit it.
    page.click("[name=node-filter][value=cordoned]").await.unwrap();
    page.wait("document.querySelectorAll('.node').length === 1").await.unwrap();
    others.patch("node-050", &json!({"spec": {"unschedulable": true}})).await;
    page.wait("document.querySelectorAll('.node').length === 2").await.unwrap();
    others.patch("node-001", &json!({"spec": {"unschedulable": null}})).await;
    page.wait(&format!("document.querySelectorAll('.node').length === 1 && {}", row("node-050")))
        .await
        .unwrap();
    page.click("[name=node-filter][value=all]").await.unwrap();

    let api = Api::new(&hub.gateways[0].url(), &token);
    let batch = json!({"action": "cordon", "cluster": "sim", "items": ["node-002"], "reason": "disk"});
    api.finished(&api.submit(&batch).await).await;
    page.eval::<()>(&format!("{second}.querySelector('.more').click()")).await.unwrap();
    let whole = "document.querySelector('.node-dialog').open &&
        /Pods/.test(document.querySelector('.node-detail').textContent) &&
        /ada.*cordon.*Succeeded.*disk/s.test(document.querySelector('.history').textContent) &&
        /KubeletReady|Ready/.test(document.querySelector('.node-detail').textContent) &&
        document.querySelector('#node-title').textContent === 'node-002'";
    page.wait(whole).await.unwrap();
    let fits = "document.documentElement.scrollWidth <= innerWidth";
    assert!(page.eval::<bool>(fits).await.unwrap());
    assert!(page.complaints().is_empty(), "{:#?}", page.complaints());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_followed_again_after_a_restart_of_the_gateway() {
    let spec = HubSpec {
        gateways: 1,
        workers: 1,
        nodes: 30,
        ..HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Postgres)
    };
    let mut hub = Hub::start(spec).unwrap();
    let others = Writer::new(&hub);
    let browser = Chromium::start().unwrap();
    let mut page = Page::open(&browser).await.unwrap();
    page.size(1280, 800).await.unwrap();
    let token = hub.token("ada", "operator").unwrap();
    page.go(&format!("{}/#token={token}", hub.gateways[0].url())).await.unwrap();
    page.click("a[href='#/new']").await.unwrap();
    page.wait("document.querySelectorAll('.node').length > 10").await.unwrap();
    page.eval::<()>(&format!("{}.click()", row("node-003"))).await.unwrap();
    hub.gateways[0].kill().unwrap();
    others.patch("node-004", &json!({"spec": {"unschedulable": true}})).await;
    hub.gateways[0].run().unwrap();
    page.wait(&format!("{}.textContent.includes('Cordoned')", row("node-004"))).await.unwrap();
    assert!(page.eval::<bool>(&format!("{}.ariaSelected === 'true'", row("node-003"))).await.unwrap());
}
