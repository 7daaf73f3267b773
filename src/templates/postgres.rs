//! Templates in Postgres. Whether a change fits what is there is decided in the statement that makes it.

use async_trait::async_trait;
use jiff_sqlx::Timestamp as SqlTimestamp;
use sqlx::types::Json;

use super::{Expected, TEMPLATES_MAX, Template, TemplateError, Templates};
use crate::BoxError;
use crate::postgres::Database;
use crate::task::template::{TemplateName, TemplateSpec};
use crate::task::{By, UserId};

const LIST: &str =
    "SELECT name, spec, version, updated_by, updated_at FROM templates ORDER BY name COLLATE \"C\" LIMIT $1";
const GET: &str = "SELECT name, spec, version, updated_by, updated_at FROM templates WHERE name = $1";

/// The statement that changes a template, and the row of the audit that tells of it. From where the change comes is in $4 to
/// $7.
macro_rules! told {
    ($change:literal) => {
        concat!(
            "WITH kept AS (",
            $change,
            "   RETURNING name, spec, version, updated_by, updated_at
), told AS (
    INSERT INTO audit (kind, actor, role, address, agent, request, owner, outcome, detail)
    SELECT 'template', $3, $4, $5, $6, $7, $3, 'kept', jsonb_build_object('template', name, 'version', version)
    FROM kept
)
SELECT name, spec, version, updated_by, updated_at FROM kept"
        )
    };
}

/// Adds one, unless there are as many as there may be; with $8 one that is there is changed.
const ADD: &str = told!(
    "
    INSERT INTO templates (name, spec, updated_by)
    SELECT $1, $2, $3 WHERE (SELECT count(*) FROM templates WHERE name <> $1) < $9
    ON CONFLICT (name) DO UPDATE
        SET spec = excluded.spec, version = templates.version + 1, updated_by = excluded.updated_by, updated_at = now()
        WHERE $8
"
);

/// Changes the version that was meant.
const CHANGE: &str = told!(
    "
    UPDATE templates SET spec = $2, version = version + 1, updated_by = $3, updated_at = now()
    WHERE name = $1 AND version = $8
"
);

/// Removes one, and tells of it.
const DELETE: &str = "
WITH gone AS (
    DELETE FROM templates WHERE name = $1 RETURNING name
)
INSERT INTO audit (kind, actor, role, address, agent, request, owner, outcome, detail)
SELECT 'template_removed', $2, $3, $4, $5, $6, $2, 'removed', jsonb_build_object('template', name) FROM gone";

/// Every statement of this backend, by name. A test prepares each against the migrated schema.
pub const STATEMENTS: [(&str, &str); 5] =
    [("LIST", LIST), ("GET", GET), ("ADD", ADD), ("CHANGE", CHANGE), ("DELETE", DELETE)];

/// Templates held by a Postgres. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PostgresTemplates {
    database: Database,
}

type Row = (String, Json<TemplateSpec>, i64, String, SqlTimestamp);

impl PostgresTemplates {
    /// Templates in `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    async fn listed(&self) -> Result<Vec<Template>, BoxError> {
        let limit = i64::try_from(TEMPLATES_MAX)?;
        let rows = sqlx::query_as(LIST).bind(limit).fetch_all(self.database.pool());
        let rows: Vec<Row> = self.database.read(rows).await?;
        rows.into_iter().map(template).collect()
    }

    async fn found(&self, name: &TemplateName) -> Result<Option<Template>, BoxError> {
        let row = sqlx::query_as(GET).bind(name.as_str()).fetch_optional(self.database.pool());
        let row: Option<Row> = self.database.read(row).await?;
        row.map(template).transpose()
    }

    async fn kept(
        &self,
        name: &TemplateName,
        spec: &TemplateSpec,
        by: &By,
        expected: Expected,
    ) -> Result<Option<Template>, BoxError> {
        let statement = if matches!(expected, Expected::Version(_)) { CHANGE } else { ADD };
        let query = sqlx::query_as(statement)
            .bind(name.as_str())
            .bind(Json(spec))
            .bind(by.user.as_str())
            .bind(by.origin.role.as_deref())
            .bind(by.origin.address.map(|address| address.to_string()))
            .bind(by.origin.agent.as_deref())
            .bind(by.origin.request.as_deref());
        let query = match expected {
            Expected::Version(version) => query.bind(version),
            Expected::Any | Expected::Missing => {
                query.bind(expected == Expected::Any).bind(i64::try_from(TEMPLATES_MAX)?)
            }
        };
        let row: Option<Row> = self.database.write(query.fetch_optional(self.database.pool())).await?;
        row.map(template).transpose()
    }

    /// Why nothing was kept: somebody else's version is there, or there is no room.
    async fn refusal(&self, name: &TemplateName, expected: Expected) -> Result<TemplateError, BoxError> {
        let there = self.found(name).await?.is_some();
        Ok(match expected {
            Expected::Any => TemplateError::Full,
            Expected::Missing if !there => TemplateError::Full,
            Expected::Missing | Expected::Version(_) => TemplateError::Conflict,
        })
    }
}

fn template((name, Json(spec), version, by, at): Row) -> Result<Template, BoxError> {
    let name = name.parse().map_err(|why| format!("templates.name {name:?} {why}"))?;
    let updated_by = UserId::new(by.clone()).map_err(|why| format!("templates.updated_by {by:?} {why}"))?;
    Ok(Template { name, spec, version, updated_by, updated_at: at.to_jiff() })
}

fn unavailable(doing: &'static str) -> impl Fn(BoxError) -> TemplateError {
    move |source| TemplateError::Unavailable { doing, source }
}

#[async_trait]
impl Templates for PostgresTemplates {
    async fn list(&self) -> Result<Vec<Template>, TemplateError> {
        self.listed().await.map_err(unavailable("listing templates"))
    }

    async fn get(&self, name: &TemplateName) -> Result<Option<Template>, TemplateError> {
        self.found(name).await.map_err(unavailable("reading a template"))
    }

    async fn put(
        &self,
        name: &TemplateName,
        spec: &TemplateSpec,
        by: &By,
        expected: Expected,
    ) -> Result<Template, TemplateError> {
        let failed = unavailable("keeping a template");
        match self.kept(name, spec, by, expected).await.map_err(&failed)? {
            Some(template) => Ok(template),
            None => Err(self.refusal(name, expected).await.map_err(&failed)?),
        }
    }

    async fn delete(&self, name: &TemplateName, by: &By) -> Result<bool, TemplateError> {
        let delete = sqlx::query(DELETE)
            .bind(name.as_str())
            .bind(by.user.as_str())
            .bind(by.origin.role.as_deref())
            .bind(by.origin.address.map(|address| address.to_string()))
            .bind(by.origin.agent.as_deref())
            .bind(by.origin.request.as_deref());
        let deleted = self
            .database
            .write(delete.execute(self.database.pool()))
            .await
            .map_err(|error| unavailable("removing a template")(error.into()))?;
        Ok(deleted.rows_affected() > 0)
    }
}
