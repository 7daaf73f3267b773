//! `milepost nodes` and `milepost node`, against real processes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use milepost_harness::process::wait_for;
use milepost_harness::{Hub, HubMode, HubSpec};
use serde_json::{Value, json};

use crate::support::PATIENCE;

const BINARY: &str = env!("CARGO_BIN_EXE_milepost");

fn hub() -> Hub {
    Hub::start(HubSpec { gateways: 1, workers: 1, nodes: 12, ..HubSpec::new(BINARY, HubMode::Memory) })
        .unwrap()
}

fn command(hub: &Hub, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).current_dir(hub.folder()).env("MILEPOST_SERVER_URL", hub.gateways[0].url());
    command.env("MILEPOST_TOKEN", hub.token("ada", "operator").unwrap());
    command
}

fn run(hub: &Hub, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(hub, args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn names(out: &str) -> Vec<String> {
    out.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn nodes_are_listed_filtered_and_shown_one_by_one() {
    let hub = hub();
    let cluster = run(&hub, &["nodes", "--json", "--name", "node-007"]);
    let lines: Vec<Value> = cluster.1.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((cluster.0, lines.len()), (0, 2), "{cluster:?}");
    assert_eq!((&lines[0]["node"]["name"], &lines[1]["summary"]["total"]), (&json!("node-007"), &json!(12)));

    let (code, out, err) = run(&hub, &["nodes", "--role", "control-plane"]);
    assert_eq!(
        (code, names(&out)),
        (0, ["node-001", "node-002", "node-003"].map(String::from).to_vec()),
        "{err}"
    );
    assert!(err.starts_with("3 of 12 nodes: 12 ready; control-plane 3"), "{err}");
    assert!(!out.contains('\x1b'), "{out:?}");

    let clusters =
        run(&hub, &["submit", "cordon", "--cluster", "sim", "node-005", "--reason", "bad disk", "--watch"]);
    assert_eq!(clusters.0, 0, "{clusters:?}");
    // The gateway hears of it through its own watch, a moment later.
    let mut seen = String::new();
    let told = || {
        seen = run(&hub, &["nodes", "--status", "cordoned", "--reason", "DISK"]).1;
        Ok(seen.contains("cordoned by ada"))
    };
    wait_for(PATIENCE, "the cordon is seen", told).unwrap();
    assert!(seen.lines().last().unwrap().ends_with(": bad disk"), "{seen}");

    let (code, out, err) = run(&hub, &["node", "node-005"]);
    assert_eq!(code, 0, "{err}");
    for part in ["node       node-005", "status     Ready,cordoned", "bad disk (task ", "CONDITION", "pods"] {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    for (args, code, part) in [
        (&["nodes", "--status", "up"][..], 2, "status must be ready, not-ready, cordoned or schedulable"),
        (&["nodes", "--selector", "a b"], 2, "selector must be a label selector"),
        (&["nodes", "--cluster", "other"], 2, "there is no such cluster"),
        (&["node", "node-999"], 2, "the cluster has no such node"),
    ] {
        let (exit, out, err) = run(&hub, args);
        assert!(exit == code && err.contains(part) && out.is_empty(), "{args:?}: {exit} {err} {out}");
    }
}

#[test]
fn a_watch_tells_each_change_in_a_line() {
    let hub = hub();
    let mut child =
        command(&hub, &["nodes", "--watch"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let table: Vec<String> = lines.by_ref().take(13).collect();
    assert!(table[0].starts_with("NAME") && table[12].starts_with("node-012"), "{table:?}");
    let (code, _, err) =
        run(&hub, &["submit", "cordon", "--cluster", "sim", "node-004", "--reason", "fan", "--watch"]);
    assert_eq!(code, 0, "{err}");
    let line = lines.find(|line| line.contains("node-004")).unwrap();
    assert!(line.contains("cordoned by ada since ") && line.ends_with(": fan"), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}
