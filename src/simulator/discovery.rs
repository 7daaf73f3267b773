//! What clients ask before they ask for anything: version, groups, resources. A resource that is added to the
//! simulator gets its line here.

use serde_json::{Value, json};

use super::nodes::KUBERNETES_VERSION;

/// The document at a discovery path.
pub(super) fn document(path: &str) -> Option<Value> {
    match path {
        "/version" => Some(version()),
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        "/apis" => Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
        "/api/v1" => Some(core_resources()),
        _ => None,
    }
}

fn version() -> Value {
    let mut numbers = KUBERNETES_VERSION.trim_start_matches('v').split('.');
    json!({
        "major": numbers.next(), "minor": numbers.next(), "gitVersion": KUBERNETES_VERSION,
        "gitCommit": "simulated", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "none", "platform": "linux/amd64",
    })
}

fn core_resources() -> Value {
    json!({
        "kind": "APIResourceList", "groupVersion": "v1",
        "resources": [{
            "name": "nodes", "singularName": "node", "namespaced": false, "kind": "Node", "shortNames": ["no"],
            "verbs": ["get", "list", "patch", "watch"],
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_split_as_clients_read_it() {
        let version = document("/version").unwrap();
        assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("33")));
        assert_eq!(document("/openapi/v2"), None);
    }
}
