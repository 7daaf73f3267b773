//! What clients ask before they ask for anything: version, groups, resources. It follows from what is served.

use serde_json::{Value, json};

use super::nodes::KUBERNETES_VERSION;
use super::resources::{RESOURCES, Resource};

/// The document at a discovery path.
pub(super) fn document(path: &str) -> Option<Value> {
    match path {
        "/version" => Some(version()),
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        "/apis" => Some(groups()),
        "/api/v1" => Some(resources("")),
        _ => {
            let group = path.strip_prefix("/apis/")?.strip_suffix("/v1")?;
            RESOURCES.iter().any(|resource| resource.group == group).then(|| resources(group))
        }
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

fn groups() -> Value {
    let mut names: Vec<_> = RESOURCES.iter().map(|resource| resource.group).collect();
    names.retain(|name| !name.is_empty());
    names.dedup();
    let groups = names.iter().map(|name| {
        let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    });
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>()})
}

fn resources(group: &str) -> Value {
    let served = RESOURCES.iter().filter(|resource| resource.group == group);
    let mut resources: Vec<_> = served.map(resource).collect();
    if group.is_empty() {
        // From this line clients learn that pods can be evicted, and in which version to ask for it.
        resources.push(json!({
            "name": "pods/eviction", "singularName": "", "namespaced": true,
            "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"],
        }));
    }
    let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})
}

fn resource(resource: &Resource) -> Value {
    json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "shortNames": resource.short_names, "verbs": resource.verbs,
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

    #[test]
    fn every_group_is_announced_once_and_lists_its_resources() {
        let groups = document("/apis").unwrap();
        let names: Vec<_> = groups["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
        assert_eq!(names, ["apps", "policy", "authorization.k8s.io"]);
        let policy = document("/apis/policy/v1").unwrap();
        assert_eq!(policy["resources"][0]["name"], "poddisruptionbudgets");
        let core = document("/api/v1").unwrap().to_string();
        assert!(core.contains("pods/eviction"), "{core}");
        assert_eq!(document("/apis/batch/v1"), None);
    }
}
