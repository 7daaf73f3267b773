//! A plan in the dashboard: looked at, run, and refused when the cluster is another one by then.

use milepost_harness::{Chromium, Hub, HubMode, HubSpec};
use serde_json::json;

use crate::browser::Page;
use crate::dashboard::{choose, complaints, looks_right, signed_in, wait_status};
use crate::support::Api;

const PLAN: &str = "!document.querySelector('.plan').hidden";

fn says(place: &str, words: &str) -> String {
    format!("document.querySelector('{place}').textContent.includes({})", json!(words))
}

async fn send(page: &mut Page) {
    page.eval::<()>("document.querySelector('form.submit').requestSubmit()").await.unwrap();
}

async fn plan(page: &mut Page) {
    let look =
        "[...document.querySelectorAll('.submit-foot button')].find((one) => one.textContent === 'Plan')";
    page.eval::<()>(&format!("{look}.click()")).await.unwrap();
    page.wait(PLAN).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_looked_at_refused_when_it_is_another_one_and_run() {
    let spec = HubSpec {
        gateways: 1,
        workers: 1,
        nodes: 120,
        ..HubSpec::new(env!("CARGO_BIN_EXE_milepost"), HubMode::Memory)
    };
    let hub = Hub::start(spec).unwrap();
    let browser = Chromium::start().unwrap();
    let mut page = signed_in(&browser, &hub, "operator").await;
    choose(&mut page, "label", "node-00").await;
    page.fill("[name=key]", "tier").await.unwrap();
    page.fill("[name=value]", "gold").await.unwrap();
    plan(&mut page).await;
    page.wait(&says(".plan-counts", "9 to change")).await.unwrap();
    page.wait(&says(".submit-foot .primary", "Run this plan")).await.unwrap();
    assert_eq!(page.eval::<usize>("document.querySelectorAll('.plan details').length").await.unwrap(), 9);
    page.click(".plan summary").await.unwrap();
    page.wait(&says(".plan-changes", "label tier")).await.unwrap();
    looks_right(&mut page, "plan", &[]).await;

    // Back in the form everything is as it was, and nothing was submitted.
    page.size(1280, 800).await.unwrap();
    let edit =
        "[...document.querySelectorAll('.submit-foot button')].find((one) => one.textContent === 'Edit')";
    page.eval::<()>(&format!("{edit}.click()")).await.unwrap();
    page.wait(&says(".submit-foot .primary", "Label · 9 nodes")).await.unwrap();
    let api = Api::new(&hub.gateways[0].url(), &hub.token("ada", "operator").unwrap());
    assert_eq!(api.get("tasks").await["tasks"], json!([]));

    plan(&mut page).await;
    let other = json!({"action": "label", "cluster": hub_cluster(&api).await, "items": ["node-003"],
        "parameters": {"labels": {"tier": "silver"}}});
    let task = api.submit(&other).await;
    api.finished(&task).await;
    send(&mut page).await;
    page.wait("!document.querySelector('.plan-differences').hidden").await.unwrap();
    page.wait(&says(".plan-differences", "node-003: add label tier=gold")).await.unwrap();
    page.wait(&says(".plan-counts", "1 would fail")).await.unwrap();
    looks_right(&mut page, "plan-changed", &[]).await;

    page.size(1280, 800).await.unwrap();
    send(&mut page).await;
    page.wait("location.hash.startsWith('#/tasks/')").await.unwrap();
    wait_status(&mut page, "completed_with_errors").await;
    let refused = complaints(&page).into_iter().filter(|complaint| !complaint.contains("409")).count();
    assert_eq!(refused, 0, "{:#?}", complaints(&page));
}

/// The cluster that has nodes.
async fn hub_cluster(api: &Api) -> String {
    let clusters = api.get("clusters").await;
    let mut names = clusters["clusters"].as_array().unwrap().iter().filter_map(|name| name.as_str());
    names.find(|name| *name != "local").unwrap().to_owned()
}
