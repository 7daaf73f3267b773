//! Templates in Postgres. Whether a change fits what is there is decided in the statement that makes it.

use async_trait::async_trait;
use jiff_sqlx::Timestamp as SqlTimestamp;
use sqlx::types::Json;

use super::{Expected, TEMPLATES_MAX, Template, TemplateError, Templates};
use crate::BoxError;
use crate::postgres::Database;
use crate::task::UserId;
use crate::task::template::{TemplateName, TemplateSpec};

const LIST: &str =
    "SELECT name, spec, version, updated_by, updated_at FROM templates ORDER BY name COLLATE \"C\" LIMIT $1";
const GET: &str = "SELECT name, spec, version, updated_by, updated_at FROM templates WHERE name = $1";

/// Adds one, unless there are as many as there may be; with $4 one that is there is changed.
const ADD: &str = "
INSERT INTO templates (name, spec, updated_by)
SELECT $1, $2, $3 WHERE (SELECT count(*) FROM templates WHERE name <> $1) < $5
ON CONFLICT (name) DO UPDATE
    SET spec = excluded.spec, version = templates.version + 1, updated_by = excluded.updated_by, updated_at = now()
    WHERE $4
RETURNING name, spec, version, updated_by, updated_at";

/// Changes the version that was meant.
const CHANGE: &str = "
UPDATE templates SET spec = $2, version = version + 1, updated_by = $3, updated_at = now()
WHERE name = $1 AND version = $4
RETURNING name, spec, version, updated_by, updated_at";

const DELETE: &str = "DELETE FROM templates WHERE name = $1";

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
        by: &UserId,
        expected: Expected,
    ) -> Result<Option<Template>, BoxError> {
        let statement = if matches!(expected, Expected::Version(_)) { CHANGE } else { ADD };
        let query = sqlx::query_as(statement).bind(name.as_str()).bind(Json(spec)).bind(by.as_str());
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
        by: &UserId,
        expected: Expected,
    ) -> Result<Template, TemplateError> {
        let failed = unavailable("keeping a template");
        match self.kept(name, spec, by, expected).await.map_err(&failed)? {
            Some(template) => Ok(template),
            None => Err(self.refusal(name, expected).await.map_err(&failed)?),
        }
    }

    async fn delete(&self, name: &TemplateName) -> Result<bool, TemplateError> {
        let delete = sqlx::query(DELETE).bind(name.as_str()).execute(self.database.pool());
        let deleted = self
            .database
            .write(delete)
            .await
            .map_err(|error| unavailable("removing a template")(error.into()))?;
        Ok(deleted.rows_affected() > 0)
    }
}
