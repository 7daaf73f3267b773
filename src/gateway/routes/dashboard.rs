//! `/` and `/assets/*`: the dashboard, built into the binary from `web/`.
//!
//! Its files are plain browser standards, so what is in the repository is what is served. Names do not change between
//! releases; browsers ask again each time and get a 304 while nothing has changed. Not here: the API the pages call,
//! and the headers that all answers have in common (the gateway's router).

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

/// A file of `web/` and the address it is served at.
struct File {
    path: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($address:literal => $file:literal,)*) => {
        &[$(File { path: $address, bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/", $file)) }),*]
    };
}

/// Every file, checked by a test to be all there are.
const FILES: &[File] = files! {
    "/" => "index.html",
    "/assets/api.js" => "assets/api.js",
    "/assets/base.css" => "assets/base.css",
    "/assets/control.js" => "assets/control.js",
    "/assets/controls.css" => "assets/controls.css",
    "/assets/dom.js" => "assets/dom.js",
    "/assets/draft.js" => "assets/draft.js",
    "/assets/favicon.svg" => "assets/favicon.svg",
    "/assets/follow.js" => "assets/follow.js",
    "/assets/format.js" => "assets/format.js",
    "/assets/items.js" => "assets/items.js",
    "/assets/live.js" => "assets/live.js",
    "/assets/main.js" => "assets/main.js",
    "/assets/nodes.js" => "assets/nodes.js",
    "/assets/pace.js" => "assets/pace.js",
    "/assets/plan.css" => "assets/plan.css",
    "/assets/plan.js" => "assets/plan.js",
    "/assets/rights.js" => "assets/rights.js",
    "/assets/session.js" => "assets/session.js",
    "/assets/socket.js" => "assets/socket.js",
    "/assets/store.js" => "assets/store.js",
    "/assets/submit.css" => "assets/submit.css",
    "/assets/task.css" => "assets/task.css",
    "/assets/tasks.css" => "assets/tasks.css",
    "/assets/theme.js" => "assets/theme.js",
    "/assets/views/bar.js" => "assets/views/bar.js",
    "/assets/views/budget.js" => "assets/views/budget.js",
    "/assets/views/drain.js" => "assets/views/drain.js",
    "/assets/views/family.js" => "assets/views/family.js",
    "/assets/views/items.js" => "assets/views/items.js",
    "/assets/views/list.js" => "assets/views/list.js",
    "/assets/views/node.js" => "assets/views/node.js",
    "/assets/views/parameters.js" => "assets/views/parameters.js",
    "/assets/views/parts.js" => "assets/views/parts.js",
    "/assets/views/picker.js" => "assets/views/picker.js",
    "/assets/views/plan.js" => "assets/views/plan.js",
    "/assets/views/signin.js" => "assets/views/signin.js",
    "/assets/views/strategy.js" => "assets/views/strategy.js",
    "/assets/views/submit.js" => "assets/views/submit.js",
    "/assets/views/task.js" => "assets/views/task.js",
    "/assets/views/template.js" => "assets/views/template.js",
    "/assets/views/top.js" => "assets/views/top.js",
};

/// The routes of the dashboard. They need no token: what they serve is public, and the pages ask for one.
pub(crate) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.iter().fold(Router::new(), |router, file| {
        let tag = tag(file.bytes);
        router.route(file.path, get(move |headers: HeaderMap| async move { answer(file, &tag, &headers) }))
    })
}

/// The entity tag of a content: part of its hash, quoted.
fn tag(bytes: &[u8]) -> HeaderValue {
    let hash: String = Sha256::digest(bytes).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("\"{hash}\"")).expect("hexadecimal digits in quotes are ASCII")
}

fn answer(file: &File, tag: &HeaderValue, headers: &HeaderMap) -> Response {
    let common = [(ETAG, tag.clone()), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    if headers.get_all(IF_NONE_MATCH).iter().any(|known| names(known, tag)) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let kind = [(CONTENT_TYPE, HeaderValue::from_static(content_type(file.path)))];
    (common, kind, Bytes::from_static(file.bytes)).into_response()
}

/// Whether the tags in an If-None-Match header name this one. A proxy may have made it weak.
fn names(known: &HeaderValue, tag: &HeaderValue) -> bool {
    let tag = tag.to_str().unwrap_or_default();
    let known = known.to_str().unwrap_or_default();
    known.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, ending)| ending) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn ask(path: &str, if_none_match: Option<&str>) -> Response {
        let mut request = Request::get(path);
        if let Some(tags) = if_none_match {
            request = request.header(IF_NONE_MATCH, tags);
        }
        router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    fn addresses_under(folder: &Path, address: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let address = format!("{address}/{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                addresses_under(&entry.path(), &address, found);
            } else {
                found.insert(address);
            }
        }
    }

    #[test]
    fn every_file_of_the_dashboard_is_served() {
        let mut there = BTreeSet::from(["/".to_owned()]);
        let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
        addresses_under(&web.join("assets"), "/assets", &mut there);
        let served: BTreeSet<String> = FILES.iter().map(|file| file.path.to_owned()).collect();
        assert_eq!(there, served);
    }

    #[tokio::test]
    async fn files_come_with_their_type_and_a_tag() {
        let page = ask("/", None).await;
        assert_eq!(page.status(), StatusCode::OK);
        assert_eq!(page.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(page.headers()[CACHE_CONTROL], "no-cache");
        let body = to_bytes(page.into_body(), usize::MAX).await.unwrap();
        assert!(body.starts_with(b"<!doctype html>"));
        let script = ask("/assets/main.js", None).await;
        assert_eq!(script.headers()[CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert_eq!(ask("/assets/none.js", None).await.status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn what_the_browser_has_is_not_sent_again() {
        let tag = ask("/assets/main.js", None).await.headers()[ETAG].to_str().unwrap().to_owned();
        for tags in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let answer = ask("/assets/main.js", Some(&tags)).await;
            assert_eq!(answer.status(), StatusCode::NOT_MODIFIED, "{tags}");
            assert_eq!(answer.headers()[ETAG].to_str().unwrap(), tag);
        }
        assert_eq!(ask("/assets/main.js", Some("\"other\"")).await.status(), StatusCode::OK);
    }

    /// The page's policy forbids anything inline or foreign; what breaks it would silently not work.
    #[test]
    fn nothing_inline_and_nothing_foreign() {
        for file in FILES.iter().filter(|file| !file.path.ends_with(".svg")) {
            let text = std::str::from_utf8(file.bytes).unwrap();
            for bad in ["style=\"", "onclick=\"", "<style", "innerHTML", "https://", "data:image", "@import"]
            {
                assert!(!text.contains(bad), "{} holds {bad}", file.path);
            }
        }
    }
}
