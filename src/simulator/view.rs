//! How objects are shown: as they are, as a table for people, or as their metadata alone. The client chooses by its
//! `Accept` header. Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::collection::{Page, name_of};
use super::nodes::roles;

/// What the client wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Object,
    Metadata,
    Table,
}

/// A shape, and the time that ages are counted to.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) shape: Shape,
    pub(super) now: Timestamp,
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
    pub(super) fn one(&self, object: &Value) -> Value {
        match self.shape {
            Shape::Object => object.clone(),
            Shape::Metadata => metadata(object),
            Shape::Table => {
                let version = &object["metadata"]["resourceVersion"];
                self.table(&json!({"resourceVersion": version}), [object])
            }
        }
    }

    /// A page of a list; `next` is the token that the client continues with.
    pub(super) fn list(&self, page: &Page, next: Option<String>) -> Value {
        let mut meta = json!({"resourceVersion": page.version.to_string()});
        if let Some(next) = next {
            meta["continue"] = next.into();
            meta["remainingItemCount"] = page.remaining.into();
        }
        let objects = page.items.iter().map(AsRef::as_ref);
        match self.shape {
            Shape::Object => {
                json!({"kind": "NodeList", "apiVersion": "v1", "metadata": meta, "items": objects.collect::<Vec<_>>()})
            }
            Shape::Metadata => {
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
                    "items": objects.map(metadata).collect::<Vec<_>>()})
            }
            Shape::Table => self.table(&meta, objects),
        }
    }

    fn table<'a>(&self, meta: &Value, nodes: impl IntoIterator<Item = &'a Value>) -> Value {
        let rows: Vec<_> = nodes.into_iter().map(|node| self.row(node)).collect();
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
            "columnDefinitions": [
                column("Name", "name"), column("Status", ""), column("Roles", ""), column("Age", ""),
                column("Version", ""),
            ],
            "rows": rows,
        })
    }

    fn row(&self, node: &Value) -> Value {
        let version = &node["status"]["nodeInfo"]["kubeletVersion"];
        let cells = json!([name_of(node), readiness(node), roles(node), self.age(node), version]);
        json!({"cells": cells, "object": metadata(node)})
    }

    fn age(&self, node: &Value) -> String {
        let created = node["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse().ok());
        created.map_or_else(
            || "<unknown>".to_owned(),
            |created: Timestamp| age(self.now.duration_since(created).as_secs()),
        )
    }
}

fn column(name: &str, format: &str) -> Value {
    json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0})
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
    use super::*;

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
        let view = View { shape: Shape::Table, now: Timestamp::from_second(7_200).unwrap() };
        let expected = json!(["n", "Ready,SchedulingDisabled", "worker", "120m", "v1"]);
        assert_eq!(view.one(&node)["rows"][0]["cells"], expected);
    }
}
