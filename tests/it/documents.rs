//! What the documentation names exists: every test that a page names is one, so that a promise does not outlive its test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The pages that name tests.
const PAGES: [&str; 2] = ["docs/guarantees.md", "docs/parity.md"];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every `a::b::c` that is written as code on a page.
fn names(page: &str) -> BTreeSet<String> {
    let code = page.split('`').skip(1).step_by(2);
    let is_name = |text: &&str| {
        text.contains("::") && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    code.filter(is_name).map(str::to_owned).collect()
}

fn sources(folder: &Path, into: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            into.push((path, text));
        }
    }
}

/// Whether the words of a name are, in this order, on the path of a file, with the last one perhaps a function in it.
fn exists(name: &str, sources: &[(PathBuf, String)]) -> bool {
    let words: Vec<&str> = name.split("::").collect();
    let on_path = |path: &Path, words: &[&str]| {
        let path = path.with_extension("");
        let mut parts = path.iter().filter_map(|part| part.to_str());
        words.iter().filter(|word| **word != "tests").all(|word| parts.any(|part| part == *word))
    };
    let (last, modules) = words.split_last().unwrap();
    let function = format!("fn {last}(");
    sources
        .iter()
        .any(|(path, text)| on_path(path, &words) || (on_path(path, modules) && text.contains(&function)))
}

#[test]
fn every_test_that_a_page_names_exists() {
    let mut all = Vec::new();
    for folder in ["src", "tests"] {
        sources(&repository().join(folder), &mut all);
    }
    for page in PAGES {
        let names = names(&std::fs::read_to_string(repository().join(page)).unwrap());
        assert!(names.len() > 10, "{page}");
        let missing: Vec<_> = names.iter().filter(|name| !exists(name, &all)).collect();
        assert!(missing.is_empty(), "{page} names tests that do not exist: {missing:#?}");
    }
    assert!(!exists("gateway_live::a_test_that_is_not_there", &all));
}
