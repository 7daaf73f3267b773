//! What is served of each resource, by verb.

use std::sync::Arc;

use axum::body::Body;
use futures_util::stream;
use hyper::Response;
use serde_json::{Value, json};

use super::access::Access;
use super::cluster::Cluster;
use super::collection::Collection;
use super::deletion::DeleteOptions;
use super::journal::PodChange;
use super::object::{Object, key};
use super::patch::PatchKind;
use super::query::{Query, continue_after};
use super::reply;
use super::resources::Target;
use super::status::Refusal;
use super::view::View;
use super::watch::Watch;

type Answer = Result<Response<Body>, Refusal>;

/// A request about a resource, read.
pub(super) struct Call<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) access: &'a Access,
    pub(super) verb: &'static str,
    pub(super) target: Target<'a>,
    pub(super) query: Query,
    pub(super) view: View,
    /// Content type of the body.
    pub(super) media: String,
    pub(super) body: Value,
}

impl Call<'_> {
    pub(super) fn answer(mut self) -> Answer {
        let plural = self.target.resource.plural;
        match (plural, self.target.sub) {
            ("pods", "eviction") => self.eviction(),
            ("selfsubjectaccessreviews", _) if self.verb == "create" => {
                Ok(reply::json(201, &self.access.review(&self.body)?))
            }
            ("pods", _) => {
                let pods = Arc::clone(&self.cluster.pods);
                self.read(&pods).unwrap_or_else(|| self.change_pod())
            }
            _ => {
                let plain =
                    self.cluster.plain(self.target.resource).ok_or_else(Refusal::method_not_allowed)?;
                let plain = Arc::clone(plain);
                self.read(&plain).unwrap_or_else(|| self.change_plain())
            }
        }
    }

    /// Answers what only reads; `None` for other verbs.
    fn read<T: Object>(&self, collection: &Arc<Collection<T>>) -> Option<Answer> {
        match self.verb {
            "get" => {
                Some(collection.get(&self.key()).map(|object| reply::json(200, &self.view.one(&*object))))
            }
            "list" => Some(self.list(collection)),
            "watch" => Some(self.watch(collection)),
            _ => None,
        }
    }

    fn list<T: Object>(&self, collection: &Collection<T>) -> Answer {
        let (query, current) = (&self.query, collection.version());
        if let Some(asked) = query.version()?.filter(|asked| *asked > current) {
            return Err(Refusal::version_ahead(asked, current));
        }
        let selector = query.selector(self.target.resource, self.target.namespace)?;
        let page = collection.list(&selector, query.after()?.as_deref(), query.limit());
        let next = page.last.as_deref().map(continue_after);
        Ok(reply::pieces(stream::iter(self.view.list(page, next).map(Ok))))
    }

    fn watch<T: Object>(&self, collection: &Arc<Collection<T>>) -> Answer {
        let selector = self.query.selector(self.target.resource, self.target.namespace)?;
        let watch = Watch::new(Arc::clone(collection), &self.query, selector, self.view)?;
        Ok(reply::pieces(watch.lines()))
    }

    fn change_pod(&mut self) -> Answer {
        let dry_run = self.query.dry_run()?;
        let pod = match self.verb {
            "create" => {
                self.settle_namespace();
                self.body["status"] = Value::Null; // As in the real API: what is new has not begun.
                self.body["status"]["phase"] = "Pending".into();
                return Ok(reply::json(201, &self.view.one(&*self.cluster.create_pod(&self.body, dry_run)?)));
            }
            "patch" => {
                let kind = PatchKind::from_content_type(&self.media)?;
                self.cluster.patch_pod(&self.key(), kind, &self.body, dry_run)?
            }
            "delete" => {
                let options = DeleteOptions::read(&self.body, dry_run)?;
                let (namespace, name) = (self.target.namespace, self.target.name);
                self.cluster.end_pod(namespace, name, &options, PodChange::Deleted)?
            }
            _ => return Err(Refusal::method_not_allowed()),
        };
        Ok(reply::json(200, &self.view.one(&*pod)))
    }

    fn eviction(&self) -> Answer {
        if self.verb != "create" {
            return Err(Refusal::method_not_allowed());
        }
        let (namespace, name) = (self.target.namespace, self.target.name);
        self.cluster.evict(namespace, name, &self.body, self.query.dry_run()?)?;
        let done =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(reply::json(201, &done))
    }

    fn change_plain(&mut self) -> Answer {
        let (resource, dry_run) = (self.target.resource, self.query.dry_run()?);
        if !resource.verbs.contains(&self.verb) {
            return Err(Refusal::method_not_allowed());
        }
        match self.verb {
            "create" => {
                self.settle_namespace();
                let made = self.cluster.create_plain(resource, &self.body, dry_run)?;
                Ok(reply::json(201, &self.view.one(&*made)))
            }
            "patch" => {
                let kind = PatchKind::from_content_type(&self.media)?;
                let new = self.cluster.patch_plain(resource, &self.key(), (kind, &self.body), dry_run)?;
                Ok(reply::json(200, &self.view.one(&*new)))
            }
            _ => {
                let options = DeleteOptions::read(&self.body, dry_run)?;
                let gone = self.cluster.delete_plain(resource, &self.key(), &options)?;
                Ok(reply::json(200, &self.view.one(&*gone)))
            }
        }
    }

    /// What is posted into a namespace is of that namespace, whether it says so or not.
    fn settle_namespace(&mut self) {
        if !self.target.namespace.is_empty() {
            self.body["metadata"]["namespace"] = self.target.namespace.into();
        }
    }

    fn key(&self) -> String {
        key(self.target.namespace, self.target.name)
    }
}
