//! Everything that templates promise, one named function per promise. Each backend runs all of it against its real server. A
//! broken promise panics with what was seen.

use std::sync::Arc;

use super::{Expected, TEMPLATES_MAX, Template, TemplateError, Templates};
use crate::task::template::{TemplateAction, TemplateEntry, TemplateName, TemplateSpec};
use crate::task::{By, UserId};

/// A backend under test, without any template.
pub trait Fixture: Send + Sync {
    /// The templates as gateway replica 0 or 1 sees them, on the same server.
    fn templates(&self, replica: usize) -> Arc<dyn Templates>;
}

/// Runs every promise.
///
/// # Panics
/// When one is broken.
pub async fn holds(fixture: &dyn Fixture) {
    what_is_kept_comes_back_as_it_was_and_anywhere(fixture).await;
    a_change_makes_another_version_and_says_whose_it_is(fixture).await;
    a_change_is_made_to_the_version_it_was_meant_for_or_not_at_all(fixture).await;
    of_many_changes_of_one_version_one_is_made(fixture).await;
    what_is_removed_is_gone_and_begins_anew(fixture).await;
    there_is_a_most(fixture).await;
}

fn name(text: &str) -> TemplateName {
    text.parse().expect("a name")
}

fn by(text: &str) -> By {
    By::of(UserId::new(text).expect("a user"))
}

fn spec(value: &str) -> TemplateSpec {
    let entry = |key: &str, values: &[&str]| TemplateEntry {
        key: key.into(),
        values: values.iter().map(ToString::to_string).collect(),
        effect: None,
    };
    TemplateSpec {
        description: "für \"alle\" \\ \n".into(),
        action: TemplateAction::Label,
        entries: vec![entry("team", &[value]), entry("tier", &["gold", "silver", ""])],
    }
}

async fn put(
    fixture: &dyn Fixture,
    at: &str,
    value: &str,
    expected: Expected,
) -> Result<Template, TemplateError> {
    fixture.templates(0).put(&name(at), &spec(value), &by("ada"), expected).await
}

async fn what_is_kept_comes_back_as_it_was_and_anywhere(fixture: &dyn Fixture) {
    assert_eq!(fixture.templates(1).get(&name("same")).await.expect("get"), None);
    let kept = put(fixture, "same", "web", Expected::Missing).await.expect("put");
    assert_eq!((kept.version, &kept.spec, kept.updated_by.as_str()), (1, &spec("web"), "ada"));
    assert_eq!(fixture.templates(1).get(&name("same")).await.expect("get"), Some(kept.clone()));
    put(fixture, "a-first", "web", Expected::Any).await.expect("put");
    let listed = fixture.templates(1).list().await.expect("list");
    let names: Vec<&str> = listed.iter().map(|template| template.name.as_str()).collect();
    assert_eq!(names, ["a-first", "same"], "by name");
    assert_eq!(listed[1], kept);
}

async fn a_change_makes_another_version_and_says_whose_it_is(fixture: &dyn Fixture) {
    let first = put(fixture, "changed", "web", Expected::Any).await.expect("put");
    let templates = fixture.templates(1);
    let second = templates.put(&name("changed"), &spec("db"), &by("eve"), Expected::Any).await.expect("put");
    assert_eq!((second.version, second.updated_by.as_str()), (first.version + 1, "eve"));
    assert!(second.updated_at >= first.updated_at);
    assert_eq!(fixture.templates(0).get(&name("changed")).await.expect("get"), Some(second));
}

async fn a_change_is_made_to_the_version_it_was_meant_for_or_not_at_all(fixture: &dyn Fixture) {
    let conflict = |result: Result<Template, TemplateError>| matches!(result, Err(TemplateError::Conflict));
    assert!(conflict(put(fixture, "meant", "web", Expected::Version(1)).await), "there is none");
    put(fixture, "meant", "web", Expected::Missing).await.expect("put");
    assert!(conflict(put(fixture, "meant", "db", Expected::Missing).await), "there is one");
    assert!(conflict(put(fixture, "meant", "db", Expected::Version(2)).await), "it is another version");
    let there = fixture.templates(0).get(&name("meant")).await.expect("get").expect("it is there");
    assert_eq!((there.version, &there.spec), (1, &spec("web")));
    assert_eq!(put(fixture, "meant", "db", Expected::Version(1)).await.expect("put").version, 2);
}

async fn of_many_changes_of_one_version_one_is_made(fixture: &dyn Fixture) {
    for expected in [Expected::Missing, Expected::Version(1)] {
        let racers = (0..12).map(|n| {
            let templates = fixture.templates(n % 2);
            tokio::spawn(async move { templates.put(&name("raced"), &spec("x"), &by("ada"), expected).await })
        });
        let mut made = 0;
        for racer in racers.collect::<Vec<_>>() {
            match racer.await.expect("no panic") {
                Ok(_) => made += 1,
                Err(TemplateError::Conflict) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(made, 1, "{expected:?}");
    }
}

async fn what_is_removed_is_gone_and_begins_anew(fixture: &dyn Fixture) {
    let templates = fixture.templates(0);
    put(fixture, "gone", "web", Expected::Any).await.expect("put");
    put(fixture, "gone", "db", Expected::Any).await.expect("put");
    assert!(templates.delete(&name("gone"), &by("eve")).await.expect("delete"));
    assert!(!templates.delete(&name("gone"), &by("eve")).await.expect("delete"));
    assert_eq!(fixture.templates(1).get(&name("gone")).await.expect("get"), None);
    assert_eq!(put(fixture, "gone", "web", Expected::Missing).await.expect("put").version, 1);
}

async fn there_is_a_most(fixture: &dyn Fixture) {
    let there = fixture.templates(0).list().await.expect("list").len();
    for n in there..TEMPLATES_MAX {
        put(fixture, &format!("n-{n}"), "x", Expected::Any).await.expect("put");
    }
    for expected in [Expected::Any, Expected::Missing] {
        assert!(matches!(put(fixture, "too-many", "x", expected).await, Err(TemplateError::Full)));
    }
    put(fixture, "same", "y", Expected::Any).await.expect("a change of one that is there");
}
