//! Templates held by this process, and gone with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Expected, TEMPLATES_MAX, Template, TemplateError, Templates};
use crate::clock::Clock;
use crate::store::AuditEntry;
use crate::store::memory::MemoryAudit;
use crate::task::By;
use crate::task::template::{TemplateName, TemplateSpec};

/// Templates held by this process. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct MemoryTemplates {
    templates: Arc<Mutex<BTreeMap<TemplateName, Template>>>,
    audit: MemoryAudit,
    clock: Arc<dyn Clock>,
}

impl MemoryTemplates {
    /// Without any. Changes are told to `audit`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, audit: MemoryAudit) -> Self {
        Self { templates: Arc::default(), audit, clock }
    }

    fn tell(&self, name: &TemplateName, version: Option<i64>, by: &By) {
        self.audit.add(AuditEntry::template(name.as_str(), version, by.clone()), self.clock.now());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TemplateName, Template>> {
        self.templates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Templates for MemoryTemplates {
    async fn list(&self) -> Result<Vec<Template>, TemplateError> {
        Ok(self.lock().values().cloned().collect())
    }

    async fn get(&self, name: &TemplateName) -> Result<Option<Template>, TemplateError> {
        Ok(self.lock().get(name).cloned())
    }

    async fn put(
        &self,
        name: &TemplateName,
        spec: &TemplateSpec,
        by: &By,
        expected: Expected,
    ) -> Result<Template, TemplateError> {
        let mut templates = self.lock();
        let there = templates.get(name).map(|template| template.version);
        let fits = match expected {
            Expected::Any => true,
            Expected::Missing => there.is_none(),
            Expected::Version(version) => there == Some(version),
        };
        if !fits {
            return Err(TemplateError::Conflict);
        }
        if there.is_none() && templates.len() >= TEMPLATES_MAX {
            return Err(TemplateError::Full);
        }
        let template = Template {
            name: name.clone(),
            spec: spec.clone(),
            version: there.unwrap_or(0) + 1,
            updated_by: by.user.clone(),
            updated_at: self.clock.now(),
        };
        templates.insert(name.clone(), template.clone());
        self.tell(name, Some(template.version), by);
        Ok(template)
    }

    async fn delete(&self, name: &TemplateName, by: &By) -> Result<bool, TemplateError> {
        let mut templates = self.lock();
        let was_there = templates.remove(name).is_some();
        if was_there {
            self.tell(name, None, by);
        }
        Ok(was_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::templates::contract;

    struct Fixture(MemoryTemplates);

    impl contract::Fixture for Fixture {
        fn templates(&self, _: usize) -> Arc<dyn Templates> {
            Arc::new(self.0.clone())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn the_contract_holds() {
        contract::holds(&Fixture(MemoryTemplates::new(Arc::new(SystemClock), MemoryAudit::default()))).await;
    }
}
