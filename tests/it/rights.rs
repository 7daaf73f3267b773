//! What somebody may not do is told where they would do it: by the CLI in one sentence, by the dashboard before they try. What
//! an admin may, both offer.

use std::process::{Command, Output};

use milepost_harness::{Chromium, Hub, HubMode, HubSpec};
use serde_json::{Value, json};

use crate::dashboard::{OPEN, choose, complaints, signed_in};

const BINARY: &str = env!("CARGO_BIN_EXE_milepost");

/// Everybody holds one capability on the cluster, and no other.
fn hub() -> Hub {
    let grants = json!([{"clusters": ["sim"], "may": ["bypass-pdb"]}]).to_string();
    let env = vec![("MILEPOST_AUTH__GRANTS".to_owned(), grants)];
    let spec = HubSpec::new(BINARY, HubMode::Memory);
    Hub::start(HubSpec { gateways: 1, workers: 1, nodes: 12, env, ..spec }).unwrap()
}

fn milepost(hub: &Hub, user: &str, role: &str, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.current_dir(hub.folder()).args(args);
    command.env("MILEPOST_SERVER_URL", hub.gateways[0].url());
    command.env("MILEPOST_TOKEN", hub.token(user, role).unwrap());
    command
}

/// Submits 40 waits of 50 ms, one after the other, and gives the id.
fn two_seconds_of_work(hub: &Hub, user: &str) -> String {
    let args =
        ["submit", "wait", "-c", "local", "n-[01-40]", "--duration", "50ms", "--concurrency", "1", "--json"];
    let output = milepost(hub, user, "operator", &args).output().unwrap();
    let submitted: Value = serde_json::from_slice(&output.stdout).expect("a submit that tells its task");
    submitted["task"]["task_id"].as_str().unwrap().to_owned()
}

#[test]
fn an_admin_watches_the_tasks_of_another_by_the_command_line() {
    let hub = hub();
    let id = two_seconds_of_work(&hub, "bob");
    let watch = |user, role| {
        let Output { status, stdout, stderr } =
            milepost(&hub, user, role, &["watch", "--owner", "bob", &id[id.len() - 6..], "--json"])
                .output()
                .unwrap();
        (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    };
    let (done, _, said) = watch("ada", "operator");
    assert!(!done && said.contains("only admins may see the tasks of others"), "{said}");
    let (done, told, said) = watch("root", "admin");
    assert!(done && told.lines().count() > 20, "each result is heard as it comes: {told} {said}");
}

#[tokio::test]
async fn an_admin_watches_the_tasks_of_another_live_in_the_dashboard() {
    let hub = hub();
    let browser = Chromium::start().unwrap();
    let mut page = signed_in(&browser, &hub, "admin").await;
    page.fill("#owner", "bob").await.unwrap();
    page.eval::<()>("document.querySelector('#owner').form.requestSubmit()").await.unwrap();
    page.wait("document.querySelector('h1')?.textContent === 'Tasks of bob'").await.unwrap();
    page.wait(OPEN).await.unwrap();
    let id = two_seconds_of_work(&hub, "bob");
    let row = format!("document.querySelector('[data-task=\"{id}\"]')");
    page.wait(&format!("{row}?.querySelector('.amount').textContent === '40 / 40'")).await.unwrap();
    assert!(page.eval::<bool>("document.querySelector('a[href=\"#/new\"]').hidden").await.unwrap());
    assert!(complaints(&page).is_empty(), "{:#?}", complaints(&page));

    let mut page = signed_in(&browser, &hub, "operator").await;
    assert!(page.eval::<bool>("document.querySelector('#owner').closest('form').hidden").await.unwrap());
    page.go(&format!("{}/?owner=bob", hub.gateways[0].url())).await.unwrap();
    page.wait("document.querySelector('#connection').dataset.phase === 'refused'").await.unwrap();
}

#[test]
fn the_cli_names_what_is_missing_where_and_who_can_give_it() {
    let hub = hub();
    let submit = |flag: &str| {
        let args = ["submit", "drain", "--cluster", "sim", "node-005", flag];
        let Output { status, stderr, .. } = milepost(&hub, "ada", "operator", &args).output().unwrap();
        (status.success(), String::from_utf8(stderr).unwrap())
    };
    let (done, said) = submit("--force");
    let sentence = "ada needs the capability force on the cluster sim; whoever runs Milepost (auth.grants) or issues its \
                    tokens (claim clusters) can give it";
    assert!(!done && said.contains(sentence) && !said.contains("viewer <"), "{said}");
    let (done, said) = submit("--bypass-pdb");
    assert!(done, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_disables_what_takes_a_capability_and_says_which() {
    let hub = hub();
    let browser = Chromium::start().unwrap();
    let mut page = signed_in(&browser, &hub, "operator").await;
    choose(&mut page, "drain", "node-00").await;
    page.wait("document.querySelector('#field-force').disabled").await.unwrap();
    let hint: String = page.eval("document.querySelector('#hint-force').textContent").await.unwrap();
    assert!(hint.contains("It takes the capability force on sim") && hint.contains("auth.grants"), "{hint}");
    assert!(!page.eval::<bool>("document.querySelector('#field-bypass_pdb').disabled").await.unwrap());
    assert!(complaints(&page).is_empty(), "{:#?}", complaints(&page));
}
