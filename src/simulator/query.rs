//! The query parameters that the simulator understands. Unknown ones are ignored, as the real API does.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Uri;
use serde::Deserialize;

use super::resources::Resource;
use super::selector::Selector;
use super::status::Refusal;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Query {
    label_selector: String,
    field_selector: String,
    limit: usize,
    r#continue: String,
    resource_version: String,
    watch: String,
    pub(super) timeout_seconds: Option<u64>,
    allow_watch_bookmarks: String,
    send_initial_events: String,
    dry_run: String,
}

impl Query {
    pub(super) fn parse(uri: &Uri) -> Result<Self, Refusal> {
        axum::extract::Query::try_from_uri(uri)
            .map(|axum::extract::Query(query)| query)
            .map_err(|error| Refusal::bad_request(error.to_string()))
    }

    /// What a list or a watch of a resource is about.
    pub(super) fn selector(&self, resource: &Resource, namespace: &str) -> Result<Selector, Refusal> {
        let selector = Selector::parse(&self.label_selector, &self.field_selector, resource.fields)?;
        Ok(selector.within(namespace))
    }

    pub(super) fn is_watch(&self) -> bool {
        truth(&self.watch)
    }

    pub(super) fn bookmarks(&self) -> bool {
        truth(&self.allow_watch_bookmarks)
    }

    pub(super) fn initial_events(&self) -> bool {
        truth(&self.send_initial_events)
    }

    /// Whether the request is a rehearsal.
    pub(super) fn dry_run(&self) -> Result<bool, Refusal> {
        dry_run(&self.dry_run)
    }

    /// Most objects of a page.
    pub(super) fn limit(&self) -> usize {
        if self.limit == 0 { usize::MAX } else { self.limit }
    }

    /// The version to read at or to watch from; `None` for "the newest you have".
    pub(super) fn version(&self) -> Result<Option<u64>, Refusal> {
        if matches!(self.resource_version.as_str(), "" | "0") {
            return Ok(None);
        }
        let version = self.resource_version.parse();
        version.map(Some).map_err(|_| {
            Refusal::bad_request(format!("invalid resource version {:?}", self.resource_version))
        })
    }

    /// The key behind which the page begins.
    pub(super) fn after(&self) -> Result<Option<String>, Refusal> {
        if self.r#continue.is_empty() {
            return Ok(None);
        }
        let name =
            URL_SAFE_NO_PAD.decode(&self.r#continue).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        name.map(Some).ok_or_else(|| Refusal::bad_request("continue key is not valid"))
    }
}

/// The token that continues behind a key.
pub(super) fn continue_after(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

/// Whether a text asks for a rehearsal; the only value that exists is `All`.
pub(super) fn dry_run(text: &str) -> Result<bool, Refusal> {
    match text {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(Refusal::bad_request(format!(
            "dryRun: Unsupported value: {other:?}: supported values: \"All\""
        ))),
    }
}

fn truth(text: &str) -> bool {
    matches!(text, "1" | "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(&format!("/api/v1/nodes?{text}").parse().unwrap()).unwrap()
    }

    #[test]
    fn a_page_continues_behind_the_name_it_ended_with() {
        let token = continue_after("node-002");
        assert_eq!(query(&format!("limit=2&continue={token}")).after().unwrap().as_deref(), Some("node-002"));
        assert_eq!(query("continue=%FF").after().unwrap_err().code, 400);
        assert_eq!(query("").limit(), usize::MAX);
    }

    #[test]
    fn words_are_read_as_clients_write_them() {
        assert!(
            query("watch=1").is_watch() && query("watch=true").is_watch() && !query("watch=0").is_watch()
        );
        assert_eq!(query("resourceVersion=0").version(), Ok(None));
        assert_eq!(query("resourceVersion=12&fieldManager=x").version(), Ok(Some(12)));
        assert_eq!(query("resourceVersion=x").version().unwrap_err().code, 400);
        assert_eq!(query("dryRun=All").dry_run(), Ok(true));
        assert_eq!(query("dryRun=Some").dry_run().unwrap_err().code, 400);
    }
}
