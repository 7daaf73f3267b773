//! Whether a Postgres server is fit for Milepost: what is wrong, what it risks, and what to do.
//!
//! Asked by `milepost doctor`. The judging is pure; nothing here refuses to start, the caller does.

use super::Database;

/// The oldest server that is tested, as `server_version_num` has it.
const VERSION_MIN: i32 = 140_000;
/// Connections that a server keeps for superusers and others.
const CONNECTIONS_SPARE: i32 = 10;

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Facts {
    /// Version, such as 150004 for 15.4.
    pub version: i32,
    /// Most connections of all clients.
    pub max_connections: i32,
    /// Whether writes reach the disk.
    pub fsync: String,
    /// Whether a commit waits for that.
    pub synchronous_commit: String,
    /// Whether it is a read-only replica.
    pub in_recovery: bool,
}

/// Something about the server that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether Milepost cannot run on this server; otherwise it risks or costs something.
    pub fatal: bool,
    /// What was looked at, such as `fsync`.
    pub subject: &'static str,
    /// What is there and what that risks.
    pub detail: String,
    /// What to do about it.
    pub fix: String,
}

/// Asks a server about itself.
///
/// # Errors
/// When it does not answer within the deadline.
pub async fn facts(database: &Database) -> Result<Facts, sqlx::Error> {
    let query = "SELECT current_setting('server_version_num')::int AS version,
        current_setting('max_connections')::int AS max_connections,
        current_setting('fsync') AS fsync,
        current_setting('synchronous_commit') AS synchronous_commit,
        pg_is_in_recovery() AS in_recovery";
    database.read(sqlx::query_as(query).fetch_one(database.pool())).await
}

/// What is not as it should be; empty for a good server. `connections_max` is what one process may open.
#[must_use]
pub fn judge(facts: &Facts, connections_max: u32) -> Vec<Finding> {
    let finding =
        |fatal, subject, detail: String, fix: &str| Finding { fatal, subject, detail, fix: fix.into() };
    let mut findings = Vec::new();
    if facts.in_recovery {
        let detail = "the server is a read-only replica".into();
        findings.push(finding(true, "role", detail, "name the primary in database.url"));
    }
    if facts.version < VERSION_MIN {
        let detail = format!("version {} is older than any that is tested", facts.version / 10_000);
        findings.push(finding(false, "version", detail, "use Postgres 14 or newer"));
    }
    if facts.fsync == "off" {
        let detail = "fsync is off: a crash of the server can destroy the record".into();
        findings.push(finding(false, "fsync", detail, "set fsync = on"));
    }
    if facts.synchronous_commit == "off" {
        let detail = "synchronous_commit is off: a crash can lose a task that was answered with 202".into();
        findings.push(finding(false, "synchronous_commit", detail, "set synchronous_commit = on"));
    }
    let free = facts.max_connections - CONNECTIONS_SPARE;
    if i64::from(connections_max) > i64::from(free) {
        let detail = format!(
            "one process may open {connections_max} connections, and the server takes {} in all",
            facts.max_connections
        );
        findings.push(finding(false, "max_connections", detail, "lower database.connections_max"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            version: 150_004,
            max_connections: 100,
            fsync: "on".into(),
            synchronous_commit: "on".into(),
            in_recovery: false,
        }
    }

    #[test]
    fn each_risk_is_found_and_a_good_server_has_none() {
        assert_eq!(judge(&good(), 16), []);
        let table = [
            (Facts { in_recovery: true, ..good() }, 16, "role"),
            (Facts { version: 130_000, ..good() }, 16, "version"),
            (Facts { fsync: "off".into(), ..good() }, 16, "fsync"),
            (Facts { synchronous_commit: "off".into(), ..good() }, 16, "synchronous_commit"),
            (good(), 95, "max_connections"),
        ];
        for (facts, connections, subject) in table {
            let subjects: Vec<_> = judge(&facts, connections).iter().map(|finding| finding.subject).collect();
            assert_eq!(subjects, [subject]);
        }
    }
}
