//! Templates over the HTTP API.

use serde_json::json;

use super::http::{Api, ApiError, Call};
use super::types::{TemplateInfo, TemplateList};
use crate::task::template::{TemplateName, TemplateSpec};

impl Api {
    /// All templates, by name.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn templates(&self) -> Result<Vec<TemplateInfo>, ApiError> {
        let list: TemplateList = self.send_retrying(&Call::get("/templates")).await?;
        Ok(list.templates)
    }

    /// One of them.
    ///
    /// # Errors
    /// See [`ApiError`]; status 404 when there is none of that name.
    pub async fn template(&self, name: &TemplateName) -> Result<TemplateInfo, ApiError> {
        self.send_retrying(&Call::get(format!("/templates/{name}"))).await
    }

    /// Makes or changes one. With a version only that one is changed; 0 stands for none.
    ///
    /// # Errors
    /// See [`ApiError`]; status 409 when there is another version.
    pub async fn put_template(
        &self,
        name: &TemplateName,
        spec: &TemplateSpec,
        version: Option<i64>,
    ) -> Result<TemplateInfo, ApiError> {
        let mut body =
            json!({"description": spec.description, "action": spec.action, "entries": spec.entries});
        if let Some(version) = version {
            body["version"] = version.into();
        }
        self.send(&Call::put(format!("/templates/{name}")).with_body(&body)).await
    }

    /// Removes one.
    ///
    /// # Errors
    /// See [`ApiError`]; status 404 when there is none of that name.
    pub async fn delete_template(&self, name: &TemplateName) -> Result<(), ApiError> {
        self.send(&Call::delete(format!("/templates/{name}"))).await
    }
}
