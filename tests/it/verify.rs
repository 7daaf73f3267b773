//! `milepost verify` as a person runs it: on files, with its words and exit codes.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn verify(args: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_milepost")).arg("verify").args(args).output().unwrap()
}

/// The example of the documentation.
fn example() -> String {
    let page = include_str!("../../docs/verify.md");
    let (_, rest) = page.split_once("```json\n").expect("the page has an example");
    rest.split_once("```").expect("the example ends").0.to_owned()
}

fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_example_of_the_documentation_passes_and_also_in_two_files() {
    let folder = tempfile::tempdir().unwrap();
    let whole = file(&folder, "run.jsonl", &example());
    let output = verify(&[&whole]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("passed: 1 tasks, 1 items run (0 of them again), 1 sockets"), "{text}");
    let lines: Vec<String> = example().lines().map(|line| format!("{line}\n")).collect();
    let first = file(&folder, "clients.jsonl", &lines[..8].concat());
    let second = file(&folder, "dump.jsonl", &lines[8..].concat());
    assert_eq!(verify(&[&first, &second]).status.code(), Some(0));
    let alone = verify(&[&first]);
    assert_eq!(alone.status.code(), Some(1));
    assert!(String::from_utf8(alone.stdout).unwrap().contains("void: the record at the end is missing"));
}

#[test]
fn a_violation_is_told_with_its_line_and_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let bad = example().replace(r#""seq":3,"status":"completed""#, r#""seq":4,"status":"completed""#);
    let bad = file(&folder, "bad.jsonl", &bad);
    let output = verify(&[&bad]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let told = format!(
        "I3b {}:9: task 019aa1f0-0000-7000-8000-000000000001 socket tab: 1 events before (1, 4) are missing",
        bad.display()
    );
    assert!(text.contains(&told), "{text}");
    let json = verify(&[&bad, Path::new("--json")]);
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&report["verdict"], &report["totals"]["events"]), (&"failed".into(), &4.into()));
    let finding = report["findings"].as_array().unwrap().iter().find(|f| f["violations"] == 1).unwrap();
    assert_eq!((&finding["invariant"], &finding["first"][0]["place"]), (&"I3b".into(), &"0:9".into()));
}

#[test]
fn lines_that_cannot_be_read_are_told_by_number_and_field() {
    let folder = tempfile::tempdir().unwrap();
    let cut =
        file(&folder, "cut.jsonl", &example().replace(r#""link":"connected""#, r#""link":"gone""#)[..700]);
    let output = verify(&[&cut]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("cut.jsonl:2: record `socket`, field `link`: unknown variant `gone`"), "{text}");
    assert!(text.contains("cut.jsonl:6: not a line of a history: EOF"), "{text}");
    let missing = verify(&[Path::new("/nowhere/run.jsonl")]);
    assert_eq!(missing.status.code(), Some(2));
}
