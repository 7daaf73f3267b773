//! The dashboard in a real browser, against real processes.

use milepost_harness::{Chromium, Hub, HubMode, HubSpec};
use serde_json::json;

use crate::browser::Page;
use crate::support::{Api, names, wait_batch};

pub const OPEN: &str = "document.querySelector('#connection').dataset.phase === 'open'";

/// Notes every value that the shown task's bar takes, with the task it belongs to.
const WATCH_BAR: &str = "(() => {
    window.stayed = true;
    window.seen = [];
    const bar = document.querySelector('.panel .bar');
    const note = () => window.seen.push([location.hash, Number(bar.getAttribute('aria-valuenow'))]);
    new MutationObserver(note).observe(bar, { attributeFilter: ['aria-valuenow'] });
})()";

/// What ended just before a page was opened is shown as ended, and not only when the task is over.
const FIRST_DONE_WHILE_RUNNING: &str = "document.querySelector('.panel .status').dataset.status === 'running' &&
    document.querySelectorAll('.items tbody tr.succeeded').length > 2 &&
    [...document.querySelectorAll('.items tbody tr')].slice(0, 3).every((row) => row.className === 'succeeded')";

/// That it is said why a task is paused, where it is looked at and in the list; after a resume, of the failures since.
fn used_up(more: &str) -> String {
    format!(
        "['.notice.warn:not([hidden])', '[data-task] .reason'].every((place) =>
        /failure budget is used up: [0-9]+ {more}failed, and 2 may/.test(document.querySelector(place).textContent))"
    )
}

/// What is said of a task that does not get on, to who saw it begin.
const STALLED: &str = "[...document.querySelectorAll('.notice.warn:not([hidden])')].some((notice) =>
    /^No node has finished for .* In work: slow-000, slow-001[.]$/.test(notice.textContent))";

fn spec(mode: HubMode) -> HubSpec {
    HubSpec { gateways: 1, workers: 1, nodes: 120, ..HubSpec::new(env!("CARGO_BIN_EXE_milepost"), mode) }
}

pub async fn signed_in(browser: &Chromium, hub: &Hub, role: &str) -> Page {
    let mut page = Page::open(browser).await.unwrap();
    page.size(1280, 800).await.unwrap();
    let token = hub.token("ada", role).unwrap();
    page.go(&format!("{}/#token={token}", hub.gateways[0].url())).await.unwrap();
    page.wait(OPEN).await.unwrap();
    page
}

/// Opens the form and selects the nodes that a search finds.
pub async fn choose(page: &mut Page, action: &str, search: &str) {
    page.click("a[href='#/new']").await.unwrap();
    page.wait("document.querySelectorAll('.node').length > 10").await.unwrap();
    page.click(&format!("[name=action][value={action}]")).await.unwrap();
    page.fill(".picker input[type=search]", search).await.unwrap();
    page.eval::<()>("[...document.querySelectorAll('.picker-bar button')].at(-1).click()").await.unwrap();
}

/// Sends the form as an impatient user does: twice.
async fn submit(page: &mut Page) {
    let twice = "(() => { const form = document.querySelector('form.submit');
        form.requestSubmit(); form.requestSubmit(); })()";
    page.eval::<()>(twice).await.unwrap();
    page.wait("location.hash.startsWith('#/tasks/')").await.unwrap();
}

pub async fn wait_status(page: &mut Page, status: &str) {
    page.wait(&format!("document.querySelector('.panel .status').dataset.status === '{status}'"))
        .await
        .unwrap();
}

/// Complaints other than that the network failed, which a killed gateway explains.
pub fn complaints(page: &Page) -> Vec<&String> {
    page.complaints().iter().filter(|complaint| !complaint.contains("\"source\":\"network\"")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_submitted_and_watched_and_a_restart_of_the_gateway_goes_unnoticed() {
    let spec = spec(HubMode::Redis).set("MILEPOST_ACTIONS__CALLS_PER_SECOND", "10");
    let mut hub = Hub::start(spec).unwrap();
    let browser = Chromium::start().unwrap();
    let mut page = signed_in(&browser, &hub, "operator").await;
    assert!(!page.eval::<String>("location.href").await.unwrap().contains("token"));

    page.eval::<()>(WATCH_BAR).await.unwrap();
    choose(&mut page, "cordon", "").await;
    submit(&mut page).await;
    page.wait("window.seen.length > 3 && document.querySelector('.panel .bar').ariaValueNow > 3")
        .await
        .unwrap();

    let mut late = signed_in(&browser, &hub, "viewer").await;
    late.click("[data-task] a").await.unwrap();
    late.wait(FIRST_DONE_WHILE_RUNNING).await.unwrap();
    page.bring_forward().await.unwrap();
    page.wait("document.querySelector('.panel .bar').ariaValueNow > 10").await.unwrap();

    hub.gateways[0].kill().unwrap();
    page.wait("document.querySelector('#connection').dataset.phase === 'waiting'").await.unwrap();
    hub.gateways[0].run().unwrap();
    page.wait(OPEN).await.unwrap();
    wait_status(&mut page, "completed").await;

    let seen: Vec<(String, u32)> = page.eval("window.seen").await.unwrap();
    let values: Vec<u32> = seen.iter().map(|(_, value)| *value).collect();
    assert!(values.is_sorted(), "the bar went back: {values:?}");
    assert!(values.len() > 6, "the bar hardly moved: {values:?}");
    assert_eq!(values.last(), Some(&120));
    assert_eq!(page.eval::<usize>("document.querySelectorAll('[data-task]').length").await.unwrap(), 1);
    assert!(page.eval::<bool>("window.stayed").await.unwrap());
    assert!(complaints(&page).is_empty(), "{:#?}", complaints(&page));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_failed_says_why_and_is_retried_and_nothing_overflows() {
    let hub = Hub::start(spec(HubMode::Memory)).unwrap();
    let browser = Chromium::start().unwrap();
    let mut page = signed_in(&browser, &hub, "operator").await;

    label(&mut page, "node-00", "gold").await;
    wait_status(&mut page, "completed").await;
    label(&mut page, "", "not a value").await;
    page.wait("document.querySelector('#fault-parameters').textContent.includes('tier')").await.unwrap();
    page.fill("[name=value]", "silver").await.unwrap();
    page.fill("#field-budget-percent", "100").await.unwrap();
    page.eval::<()>("document.querySelector('form.submit').requestSubmit()").await.unwrap();
    page.wait("document.querySelector('#fault-failure_budget').textContent.includes('percent')")
        .await
        .unwrap();
    page.fill("#field-budget-percent", "").await.unwrap();
    page.fill("#field-budget-failed", "100").await.unwrap();
    submit(&mut page).await;
    wait_status(&mut page, "completed_with_errors").await;
    page.click("[name=item-state][value=failed]").await.unwrap();
    page.wait("document.querySelector('.items tr.failed .why').textContent.includes('set overwrite')")
        .await
        .unwrap();
    page.wait("document.querySelector('.facts').textContent.includes('100 nodes may fail, then paused')")
        .await
        .unwrap();
    looks_right(&mut page, "errors", &["#/", "#/new"]).await;

    page.size(1280, 800).await.unwrap();
    page.eval::<()>("void (location.hash = '#/')").await.unwrap();
    retry_of_the_failed(&mut page).await;
    looks_right(&mut page, "retried", &[]).await;
    page.size(1280, 800).await.unwrap();
    edit_and_retry(&mut page).await;
    assert!(complaints(&page).is_empty(), "{:#?}", complaints(&page));
}

/// Fills and sends the form that labels the nodes a search finds.
async fn label(page: &mut Page, search: &str, value: &str) {
    choose(page, "label", search).await;
    page.fill("[name=key]", "tier").await.unwrap();
    page.fill("[name=value]", value).await.unwrap();
    page.eval::<()>("document.querySelector('form.submit').requestSubmit()").await.unwrap();
}

/// Retries what failed as a further task, which fails as well: each names the other, and they are added up.
async fn retry_of_the_failed(page: &mut Page) {
    page.click("[data-task] a").await.unwrap();
    let parent: String = page.eval("location.hash").await.unwrap();
    page.click("[data-verb=retry]:not([hidden])").await.unwrap();
    confirm(page).await;
    page.wait(&format!("location.hash !== {} && location.hash.startsWith('#/tasks/')", json!(parent)))
        .await
        .unwrap();
    wait_status(page, "failed").await;
    page.wait("document.querySelectorAll('[data-task] .retry:not([hidden])').length === 1").await.unwrap();
    page.click(".retry-of a").await.unwrap();
    page.wait(&format!("location.hash === {}", json!(parent))).await.unwrap();
    let added_up = "With its retries: 111 of 120 nodes succeeded, 9 failed.";
    page.wait(&format!("document.querySelector('.merged').textContent === {}", json!(added_up)))
        .await
        .unwrap();
    page.wait("document.querySelector('.retries .status').dataset.status === 'failed'").await.unwrap();
}

/// Submits something like it for what failed: the form comes filled, and what was wrong is changed.
async fn edit_and_retry(page: &mut Page) {
    page.click("[data-verb=edit]:not([hidden])").await.unwrap();
    page.wait("document.querySelector('.submit-foot .primary').textContent === 'Label · 9 nodes'")
        .await
        .unwrap();
    page.wait("document.querySelector('#field-budget-failed').value === '100'").await.unwrap();
    page.click("#field-overwrite").await.unwrap();
    submit(page).await;
    wait_status(page, "completed").await;
}

/// Says yes to the question that is open.
async fn confirm(page: &mut Page) {
    page.wait("document.querySelector('#confirm').open").await.unwrap();
    page.click("#confirm-yes").await.unwrap();
}

/// What is shown, and these places, at both widths, light and dark: nothing is wider than the window. Pictures are kept
/// in the folder that `DASHBOARD_PICTURES` names.
pub async fn looks_right(page: &mut Page, name: &str, places: &[&str]) {
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("DASHBOARD_PICTURES").map(std::path::PathBuf::from);
    let folder = kept.unwrap_or_else(|| temporary.path().to_owned());
    for place in std::iter::once(&"").chain(places) {
        if !place.is_empty() {
            page.eval::<()>(&format!("void (location.hash = {})", json!(place))).await.unwrap();
        }
        for (width, height) in [(1280, 800), (390, 844)] {
            for (dark, shade) in [(false, "light"), (true, "dark")] {
                page.size(width, height).await.unwrap();
                page.dark(dark).await.unwrap();
                let part = place.trim_start_matches("#/");
                let picture = folder.join(format!("{name}-{part}-{width}-{shade}.png"));
                page.screenshot(&picture).await.unwrap();
                assert!(std::fs::metadata(&picture).unwrap().len() > 5_000, "the page is empty");
                let wide: u32 = page.eval("document.scrollingElement.scrollWidth").await.unwrap();
                assert!(wide <= width, "{name} {place} is {wide} wide in a window of {width}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_too_often_is_paused_and_says_why() {
    let hub = Hub::start(spec(HubMode::Memory)).unwrap();
    let browser = Chromium::start().unwrap();
    let mut page = signed_in(&browser, &hub, "operator").await;
    label(&mut page, "node-00", "gold").await;
    wait_status(&mut page, "completed").await;
    choose(&mut page, "label", "").await;
    for (field, text) in [
        ("[name=key]", "tier"),
        ("[name=value]", "silver"),
        ("#field-concurrency", "1"),
        ("#field-budget-failed", "2"),
    ] {
        page.fill(field, text).await.unwrap();
    }
    submit(&mut page).await;
    page.wait(&used_up("")).await.unwrap();
    wait_status(&mut page, "paused").await;
    page.click("[data-verb=resume]:not([hidden])").await.unwrap();
    confirm(&mut page).await;
    page.wait(&used_up("more ")).await.unwrap();
    wait_status(&mut page, "paused").await;
    looks_right(&mut page, "paused", &["#/new"]).await;
    assert!(complaints(&page).is_empty(), "{:#?}", complaints(&page));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_does_not_get_on_says_so_and_how_much_runs_at_once_is_changed() {
    let hub = Hub::start(spec(HubMode::Memory).set("MILEPOST_WORKER__STALL_AFTER", "1s")).unwrap();
    let browser = Chromium::start().unwrap();
    let mut page = signed_in(&browser, &hub, "operator").await;
    let api = Api::new(&hub.gateways[0].url(), &hub.token("ada", "operator").unwrap());
    let mut batch = wait_batch(&names("slow", 40), 8_000, 0);
    batch["concurrency"] = json!(2);
    api.submit(&batch).await;
    page.wait("document.querySelector('[data-task] .status').dataset.status === 'stalled'").await.unwrap();
    page.click("[data-task] a").await.unwrap();
    wait_status(&mut page, "stalled").await;
    page.wait(STALLED).await.unwrap();
    looks_right(&mut page, "stalled", &[]).await;

    page.click("[data-verb=concurrency]:not([hidden])").await.unwrap();
    page.wait("document.querySelector('#confirm-number').value === '2'").await.unwrap();
    page.fill("#confirm-number", "30").await.unwrap();
    looks_right(&mut page, "question", &[]).await;
    confirm(&mut page).await;
    page.wait(
        "document.querySelector('[data-verb=concurrency]').previousElementSibling.textContent === '30'",
    )
    .await
    .unwrap();
    wait_status(&mut page, "running").await;
    assert!(complaints(&page).is_empty(), "{:#?}", complaints(&page));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_is_paused_resumed_and_after_a_question_cancelled() {
    let hub = Hub::start(spec(HubMode::Memory).set("MILEPOST_ACTIONS__CALLS_PER_SECOND", "4")).unwrap();
    let browser = Chromium::start().unwrap();
    let mut page = signed_in(&browser, &hub, "operator").await;
    choose(&mut page, "cordon", "").await;
    submit(&mut page).await;
    wait_status(&mut page, "running").await;
    for (verb, answer, status) in [
        ("cancel", "no", "running"),
        ("pause", "yes", "paused"),
        ("resume", "yes", "running"),
        ("cancel", "yes", "cancelled"),
    ] {
        page.click(&format!("[data-verb={verb}]:not([hidden])")).await.unwrap();
        page.wait("document.querySelector('#confirm').open").await.unwrap();
        page.click(&format!("#confirm button[value={answer}]")).await.unwrap();
        wait_status(&mut page, status).await;
    }
    page.wait("document.querySelectorAll('.items tr.cancelled').length > 0").await.unwrap();
    assert!(complaints(&page).is_empty(), "{:#?}", complaints(&page));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_is_offered_no_changes_and_a_bad_token_is_asked_for_again() {
    let hub = Hub::start(spec(HubMode::Memory)).unwrap();
    let browser = Chromium::start().unwrap();
    let mut page = Page::open(&browser).await.unwrap();
    page.go(&hub.gateways[0].url()).await.unwrap();
    for (token, then) in [
        ("nonsense".to_owned(), "document.querySelector('#token-why').textContent !== ''"),
        (hub.token("eve", "viewer").unwrap(), OPEN),
    ] {
        page.wait("document.activeElement.id === 'token'").await.unwrap();
        page.fill("#token", &token).await.unwrap();
        page.eval::<()>("document.querySelector('.sign-in form').requestSubmit()").await.unwrap();
        page.wait(then).await.unwrap();
    }
    assert!(page.eval::<bool>("document.querySelector('a[href=\"#/new\"]').hidden").await.unwrap());
    page.eval::<()>("void (location.hash = '#/new')").await.unwrap();
    page.wait("!document.querySelector('.board').hidden && document.querySelector('form.submit').hidden")
        .await
        .unwrap();
    assert!(complaints(&page).is_empty(), "{:#?}", complaints(&page));
}
