//! How objects are shown: as they are, as a table for people, or as their metadata alone. The client chooses by its
//! `Accept` header. Pure.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::collection::Page;
use super::nodes::roles;
use super::object::Object;
use super::resources::Resource;

/// Objects of a list that are written in one piece.
const PIECE: usize = 100;

/// What the client wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Object,
    Metadata,
    Table,
}

/// A shape, the kind of what is shown, and the time that ages are counted to.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) shape: Shape,
    pub(super) now: Timestamp,
    pub(super) resource: &'static Resource,
}

impl Shape {
    pub(super) fn from_accept(accept: &str) -> Self {
        let first = accept.split(',').next().unwrap_or_default();
        if first.contains("as=Table") {
            Self::Table
        } else if first.contains("as=PartialObjectMetadata") {
            Self::Metadata
        } else {
            Self::Object
        }
    }
}

impl View {
    /// One object.
    pub(super) fn one(&self, object: &impl Object) -> Value {
        let shown = object.show();
        match self.shape {
            Shape::Object => shown.into_owned(),
            Shape::Metadata => metadata(&shown),
            Shape::Table => {
                let version = &shown["metadata"]["resourceVersion"];
                self.table(&json!({"resourceVersion": version}), &[self.row(&shown)])
            }
        }
    }

    /// A page of a list, in pieces so that a long one is never in memory whole; `next` is the token that the client
    /// continues with.
    pub(super) fn list<T: Object>(
        self,
        page: Page<T>,
        next: Option<String>,
    ) -> impl Iterator<Item = Bytes> + Send + 'static {
        let mut meta = json!({"resourceVersion": page.version.to_string()});
        if let Some(next) = next {
            meta["continue"] = next.into();
            meta["remainingItemCount"] = page.remaining.into();
        }
        let (head, tail) = self.frame(&meta);
        let mut items = page.items.into_iter();
        let mut first = true;
        let bodies = std::iter::from_fn(move || {
            let mut piece = String::new();
            for object in items.by_ref().take(PIECE) {
                if !std::mem::take(&mut first) {
                    piece.push(',');
                }
                piece.push_str(&self.item(&object.show()).to_string());
            }
            (!piece.is_empty()).then(|| Bytes::from(piece))
        });
        std::iter::once(Bytes::from(head)).chain(bodies).chain(std::iter::once(Bytes::from(tail)))
    }

    /// What stands before and behind the objects of a list.
    fn frame(&self, meta: &Value) -> (String, String) {
        let (whole, field) = match self.shape {
            Shape::Object => {
                let kind = format!("{}List", self.resource.kind);
                (json!({"kind": kind, "apiVersion": self.resource.api_version(), "metadata": meta}), "items")
            }
            Shape::Metadata => (
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta}),
                "items",
            ),
            Shape::Table => {
                let mut table = self.table(meta, &[]);
                table.as_object_mut().map(|table| table.remove("rows"));
                (table, "rows")
            }
        };
        let mut head = whole.to_string();
        head.pop();
        head.push_str(&format!(",\"{field}\":["));
        (head, "]}".to_owned())
    }

    fn item(&self, object: &Value) -> Value {
        match self.shape {
            Shape::Object => object.clone(),
            Shape::Metadata => metadata(object),
            Shape::Table => self.row(object),
        }
    }

    fn table(&self, meta: &Value, rows: &[Value]) -> Value {
        let names: &[&str] = match self.resource.kind {
            "Node" => &["Name", "Status", "Roles", "Age", "Version"],
            "Pod" => &["Name", "Ready", "Status", "Restarts", "Age", "Node"],
            "PodDisruptionBudget" => {
                &["Name", "Min Available", "Max Unavailable", "Allowed Disruptions", "Age"]
            }
            _ => &["Name", "Age"],
        };
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
            "columnDefinitions": names.iter().map(|name| column(name)).collect::<Vec<_>>(), "rows": rows,
        })
    }

    fn row(&self, object: &Value) -> Value {
        let (name, age) = (object.name(), self.age(object));
        let cells = match self.resource.kind {
            "Node" => {
                let version = &object["status"]["nodeInfo"]["kubeletVersion"];
                json!([name, readiness(object), roles(object), age, version])
            }
            "Pod" => {
                json!([name, containers(object), pod_status(object), "0", age, object["spec"]["nodeName"]])
            }
            "PodDisruptionBudget" => {
                let allowed = &object["status"]["disruptionsAllowed"];
                json!([
                    name,
                    or_none(&object["spec"]["minAvailable"]),
                    or_none(&object["spec"]["maxUnavailable"]),
                    allowed,
                    age
                ])
            }
            _ => json!([name, age]),
        };
        json!({"cells": cells, "object": metadata(object)})
    }

    fn age(&self, object: &Value) -> String {
        let created = object["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse().ok());
        created.map_or_else(
            || "<unknown>".to_owned(),
            |created: Timestamp| age(self.now.duration_since(created).as_secs()),
        )
    }
}

fn column(name: &str) -> Value {
    let format = if name == "Name" { "name" } else { "" };
    // People see where a pod runs only when they ask for a wide table.
    let priority = u8::from(name == "Node");
    json!({"name": name, "type": "string", "format": format, "description": "", "priority": priority})
}

fn or_none(value: &Value) -> Value {
    if value.is_null() { "N/A".into() } else { value.clone() }
}

fn containers(pod: &Value) -> String {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let ready = statuses.into_iter().flatten().filter(|status| status["ready"] == true).count();
    let all = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    format!("{ready}/{all}")
}

fn pod_status(pod: &Value) -> &str {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating";
    }
    match pod["status"]["phase"].as_str().unwrap_or_default() {
        "Succeeded" => "Completed",
        "Failed" => "Error",
        other => other,
    }
}

fn metadata(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn readiness(node: &Value) -> String {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let cordoned = if node["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    format!("{}{cordoned}", if ready { "Ready" } else { "NotReady" })
}

fn age(secs: i64) -> String {
    match secs.max(0) {
        secs @ 0..120 => format!("{secs}s"),
        secs @ 120..10_800 => format!("{}m", secs / 60),
        secs @ 10_800..172_800 => format!("{}h", secs / 3_600),
        secs => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::super::resources::RESOURCES;
    use super::*;

    #[test]
    fn a_list_in_pieces_is_one_document() {
        let node = |i: usize| std::sync::Arc::new(json!({"metadata": {"name": i.to_string()}}));
        for shape in [Shape::Object, Shape::Metadata, Shape::Table] {
            for count in [0, 1, PIECE, 2 * PIECE + 1] {
                let items: Vec<_> = (0..count).map(node).collect();
                let page = Page { items, version: 7, last: None, remaining: 3 };
                let view = View { shape, now: Timestamp::UNIX_EPOCH, resource: &RESOURCES[0] };
                let pieces: Vec<_> = view.list(page, Some("next".into())).collect();
                let whole: Value = serde_json::from_slice(&pieces.concat()).unwrap();
                let items = whole.get("items").or(whole.get("rows")).unwrap().as_array().unwrap();
                assert_eq!((items.len(), &whole["metadata"]["continue"]), (count, &json!("next")));
            }
        }
    }

    #[test]
    fn kubectl_gets_a_table_and_programs_get_objects() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(Shape::from_accept(kubectl), Shape::Table);
        assert_eq!(Shape::from_accept("application/json"), Shape::Object);
        assert_eq!(
            Shape::from_accept("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"),
            Shape::Metadata
        );
    }

    #[test]
    fn a_row_says_what_kubectl_would() {
        let node = json!({
            "metadata": {"name": "n", "creationTimestamp": "1970-01-01T00:00:00Z", "labels": {"node-role.kubernetes.io/worker": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"}},
        });
        let now = Timestamp::from_second(7_200).unwrap();
        let view = View { shape: Shape::Table, now, resource: &RESOURCES[0] };
        let expected = json!(["n", "Ready,SchedulingDisabled", "worker", "120m", "v1"]);
        assert_eq!(view.one(&node)["rows"][0]["cells"], expected);
    }
}
