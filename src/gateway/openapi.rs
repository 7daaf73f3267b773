//! The OpenAPI document, made from the routes. `docs/openapi.json` is a copy of it that a test keeps current.

use std::sync::LazyLock;

use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::error::{FieldError, Problem};
use super::routes::{clusters, live, nodes, tasks};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Milepost",
        description = "Runs batch operations and streams every step. Errors are problem documents (RFC 9457). \
                       The frames of live connections are described in docs/protocol.md."
    ),
    paths(
        nodes::cordon, nodes::uncordon, nodes::label, nodes::unlabel, nodes::taint, nodes::untaint,
        tasks::create, tasks::list, tasks::get, tasks::items, tasks::cancel, tasks::pause, tasks::resume,
        clusters::list, clusters::nodes,
        live::ticket, live::ws, live::events
    ),
    components(schemas(Problem, FieldError)),
    modifiers(&Bearer),
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
}
