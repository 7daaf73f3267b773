//! The resources that are served, and which of them a path is about. A resource that is added gets its line here; what
//! clients discover follows from it. Pure.

/// A resource of the API. All are served in version `v1` of their group.
#[derive(Debug)]
pub(super) struct Resource {
    /// Empty for the core group.
    pub(super) group: &'static str,
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    pub(super) kind: &'static str,
    pub(super) namespaced: bool,
    pub(super) short_names: &'static [&'static str],
    pub(super) verbs: &'static [&'static str],
    /// What a field selector may name.
    pub(super) fields: &'static [&'static str],
}

const CORE: &str = "";
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "get", "list", "patch", "watch"];
const NAMES: &[&str] = &["metadata.name", "metadata.namespace"];

/// What is served.
pub(super) const RESOURCES: [Resource; 7] = [
    Resource {
        group: CORE,
        plural: "nodes",
        singular: "node",
        kind: "Node",
        namespaced: false,
        short_names: &["no"],
        verbs: &["delete", "get", "list", "patch", "watch"],
        fields: &["metadata.name", "spec.unschedulable"],
    },
    Resource {
        group: CORE,
        plural: "pods",
        singular: "pod",
        kind: "Pod",
        namespaced: true,
        short_names: &["po"],
        verbs: WRITE,
        fields: &["metadata.name", "metadata.namespace", "spec.nodeName", "status.phase"],
    },
    Resource {
        group: CORE,
        plural: "namespaces",
        singular: "namespace",
        kind: "Namespace",
        namespaced: false,
        short_names: &["ns"],
        verbs: WRITE,
        fields: &["metadata.name", "status.phase"],
    },
    Resource {
        group: "apps",
        plural: "daemonsets",
        singular: "daemonset",
        kind: "DaemonSet",
        namespaced: true,
        short_names: &["ds"],
        verbs: READ,
        fields: NAMES,
    },
    Resource {
        group: "apps",
        plural: "replicasets",
        singular: "replicaset",
        kind: "ReplicaSet",
        namespaced: true,
        short_names: &["rs"],
        verbs: READ,
        fields: NAMES,
    },
    Resource {
        group: "policy",
        plural: "poddisruptionbudgets",
        singular: "poddisruptionbudget",
        kind: "PodDisruptionBudget",
        namespaced: true,
        short_names: &["pdb"],
        verbs: WRITE,
        fields: NAMES,
    },
    Resource {
        group: "authorization.k8s.io",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        kind: "SelfSubjectAccessReview",
        namespaced: false,
        short_names: &[],
        verbs: &["create"],
        fields: &[],
    },
];

impl Resource {
    /// The `apiVersion` of its objects.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) }
    }

    /// The resource with its group, as messages name it: `pods`, `daemonsets.apps`.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// The resource with a plural name.
pub(super) fn resource(plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| resource.plural == plural)
}

/// What a path is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) resource: &'static Resource,
    /// Empty for all namespaces, and for what has none.
    pub(super) namespace: &'a str,
    /// Empty for the whole collection.
    pub(super) name: &'a str,
    /// `eviction`, or empty.
    pub(super) sub: &'a str,
}

impl<'a> Target<'a> {
    /// Reads a path; `None` when nothing is served there.
    pub(super) fn read(path: &'a str) -> Option<Self> {
        let (group, rest) = match path.strip_prefix("/api/v1/") {
            Some(rest) => ("", rest),
            None => path.strip_prefix("/apis/")?.split_once("/v1/")?,
        };
        let mut steps = rest.trim_end_matches('/').split('/');
        let mut next = || steps.next().unwrap_or_default();
        let (mut plural, mut name, mut sub, mut namespace) = (next(), next(), next(), "");
        let known = RESOURCES.iter().find(|resource| resource.plural == sub && resource.namespaced);
        if plural == "namespaces" && known.is_some() {
            (namespace, plural, name, sub) = (name, sub, next(), next());
        }
        let over = steps.next().is_none();
        let served = |resource: &&Resource| {
            resource.group == group
                && resource.plural == plural
                && (resource.namespaced || namespace.is_empty())
        };
        let resource = RESOURCES.iter().find(served).filter(|_| over)?;
        // A single object of a namespace is only found inside it; the one subresource there is are evictions.
        let found = (!resource.namespaced || name.is_empty() || !namespace.is_empty())
            && (sub.is_empty() || (plural, sub) == ("pods", "eviction"));
        found.then_some(Self { resource, namespace, name, sub })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> Option<[String; 4]> {
        let target = Target::read(path)?;
        Some([target.resource.plural, target.namespace, target.name, target.sub].map(str::to_owned))
    }

    #[test]
    fn paths_are_read_as_clients_write_them() {
        for (path, expected) in [
            ("/api/v1/nodes", ["nodes", "", "", ""]),
            ("/api/v1/nodes/n", ["nodes", "", "n", ""]),
            ("/api/v1/pods", ["pods", "", "", ""]),
            ("/api/v1/namespaces/a/pods/p/eviction", ["pods", "a", "p", "eviction"]),
            ("/api/v1/namespaces/pods/pods", ["pods", "pods", "", ""]),
            ("/api/v1/namespaces/a", ["namespaces", "", "a", ""]),
            ("/apis/apps/v1/namespaces/a/daemonsets/d", ["daemonsets", "a", "d", ""]),
            ("/apis/policy/v1/poddisruptionbudgets", ["poddisruptionbudgets", "", "", ""]),
        ] {
            assert_eq!(read(path), Some(expected.map(str::to_owned)), "{path}");
        }
    }

    #[test]
    fn what_is_not_served_is_not_found() {
        for path in [
            "/api/v1/nodesn",
            "/api/v1/secrets",
            "/api/v1/daemonsets",
            "/api/v1/pods/p",
            "/api/v1/namespaces/a/nodes",
            "/apis/policy/v1beta1/poddisruptionbudgets",
            "/api/v1/nodes/n/proxy/x",
            "/metrics",
        ] {
            assert_eq!(read(path), None, "{path}");
        }
    }
}
