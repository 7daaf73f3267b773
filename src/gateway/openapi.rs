//! The OpenAPI document, made from the routes. `docs/openapi.json` is a copy of it that a test keeps current.

use std::sync::LazyLock;

use utoipa::openapi::path::PathItem;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{RefOr, Response};
use utoipa::{Modify, OpenApi};

use super::error::{FieldError, Problem};
use super::routes::{audit, clusters, control, live, node_list, nodes, plans, tasks, templates};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Milepost",
        description = "Runs batch operations and streams every step. Errors are problem documents (RFC 9457). \
                       The frames of live connections are described in docs/protocol.md."
    ),
    paths(
        nodes::cordon, nodes::uncordon, nodes::drain, nodes::label, nodes::unlabel, nodes::taint, nodes::untaint,
        nodes::copy_taints, nodes::annotate, nodes::unannotate,
        tasks::create, plans::create, tasks::list, tasks::get, tasks::items, control::cancel, control::pause, control::resume,
        control::concurrency, control::retry,
        clusters::list, node_list::list, node_list::get, node_list::follow,
        templates::list, templates::get, templates::put, templates::delete, templates::apply,
        audit::list, audit::nodes,
        live::ticket, live::ws, live::events
    ),
    components(schemas(Problem, FieldError)),
    modifiers(&Bearer, &Problems),
    security(("bearer" = []))
)]
struct Api;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme =
            SecurityScheme::Http(Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build());
        api.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

/// Gives every refusal the media type that problem documents are sent with.
struct Problems;

impl Modify for Problems {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        for response in api.paths.paths.values_mut().flat_map(refusals) {
            if let Some(content) = response.content.shift_remove("application/json") {
                response.content.insert("application/problem+json".to_owned(), content);
            }
        }
    }
}

fn refusals(path: &mut PathItem) -> impl Iterator<Item = &mut Response> {
    let operations = [&mut path.get, &mut path.post, &mut path.put, &mut path.delete].into_iter().flatten();
    let answers = operations.flat_map(|operation| &mut operation.responses.responses);
    answers.filter(|(status, _)| status.starts_with(['4', '5'])).filter_map(|(_, answer)| match answer {
        RefOr::T(response) => Some(response),
        RefOr::Ref(_) => None,
    })
}

/// The document as JSON.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let mut text = Api::openapi().to_pretty_json().expect("the document is plain JSON");
        text.push('\n');
        text
    });
    &DOCUMENT
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

    /// `MILEPOST_UPDATE=1 cargo test openapi` writes the copy anew.
    #[test]
    fn the_committed_copy_is_current() {
        if std::env::var_os("MILEPOST_UPDATE").is_some() {
            std::fs::write(COPY, document()).unwrap();
        }
        let copy = std::fs::read_to_string(COPY).unwrap();
        assert!(copy == document(), "docs/openapi.json is not what the routes say; see this test");
    }

    #[test]
    fn refusals_are_problem_documents() {
        let document: serde_json::Value = serde_json::from_str(document()).unwrap();
        let paths = document["paths"].as_object().unwrap().values();
        let operations = paths.flat_map(|path| path.as_object().unwrap().values());
        let mut refusals = 0;
        for (status, answer) in operations.flat_map(|one| one["responses"].as_object().unwrap()) {
            let types: Vec<&String> =
                answer["content"].as_object().into_iter().flat_map(|c| c.keys()).collect();
            if status.starts_with(['4', '5']) {
                assert_eq!(types, ["application/problem+json"], "{status}: {answer}");
                refusals += 1;
            }
        }
        assert!(refusals > 20, "{refusals} refusals are described");
    }
}
