//! What `milepost doctor` looks at: every server that the configuration names.
//!
//! Each look is bounded in time, and one that fails does not keep the others from being made.

use std::sync::Arc;

use crate::action::{Clusters, KubeClusters, Registry};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::postgres::{Database, checks as postgres_checks};
use crate::redis::{Redis, checks as redis_checks};
use crate::telemetry::Metrics;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Good,
    /// It works, and risks or costs something.
    Warning,
    /// Milepost cannot run like this.
    Fatal,
}

/// Something an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was looked at, such as `Postgres schema`.
    pub subject: String,
    /// What is there, and what that risks.
    pub detail: String,
    /// What to do about it; empty when there is nothing to do.
    pub fix: String,
}

impl Finding {
    fn new(severity: Severity, subject: &str, detail: impl Into<String>, fix: &str) -> Self {
        Self { severity, subject: subject.to_owned(), detail: detail.into(), fix: fix.to_owned() }
    }

    /// All is well.
    #[must_use]
    pub fn good(subject: &str, detail: impl Into<String>) -> Self {
        Self::new(Severity::Good, subject, detail, "")
    }

    fn fatal(subject: &str, error: impl Into<anyhow::Error>, fix: &str) -> Self {
        Self::new(Severity::Fatal, subject, crate::cli::output::causes(&error.into()), fix)
    }
}

/// Looks at every server that the configuration names.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let metrics = Metrics::new();
    let mut findings = Vec::new();
    if config.database.url.is_some() {
        findings.extend(examine_postgres(config, &metrics).await);
    }
    if config.redis.url.is_some() {
        findings.extend(examine_redis(config, &metrics).await);
    }
    findings.extend(examine_clusters(config).await);
    findings
}

async fn examine_postgres(config: &Config, metrics: &Metrics) -> Vec<Finding> {
    let database = match Database::connect(&config.database, "milepost doctor", metrics).await {
        Ok(database) => database,
        Err(error) => {
            let fix = "check database.url, the network, and that the server runs";
            return vec![Finding::fatal("Postgres", error, fix)];
        }
    };
    let mut findings = vec![Finding::good("Postgres", "answers")];
    findings.push(match database.check_schema().await {
        Ok(()) => Finding::good("Postgres schema", "is that of this release or newer"),
        Err(error) => Finding::fatal("Postgres schema", error, "run `milepost migrate`"),
    });
    match postgres_checks::facts(&database).await {
        Ok(facts) => findings.extend(judge_postgres(&facts, config)),
        Err(error) => findings.push(Finding::fatal("Postgres settings", error, "check the user's rights")),
    }
    database.close().await;
    findings
}

fn judge_postgres(facts: &postgres_checks::Facts, config: &Config) -> Vec<Finding> {
    let found = postgres_checks::judge(facts, config.database.connections_max);
    if found.is_empty() {
        return vec![Finding::good("Postgres settings", "are as they should be")];
    }
    let finding = |found: &postgres_checks::Finding| {
        let severity = if found.fatal { Severity::Fatal } else { Severity::Warning };
        Finding::new(severity, &format!("Postgres {}", found.subject), &*found.detail, &found.fix)
    };
    found.iter().map(finding).collect()
}

async fn examine_redis(config: &Config, metrics: &Metrics) -> Vec<Finding> {
    let redis = match Redis::connect(&config.redis, metrics) {
        Ok(redis) => redis,
        Err(error) => return vec![Finding::fatal("Redis", error, "check the section redis")],
    };
    match redis_checks::check(&redis).await {
        Ok(found) => {
            let mut findings = vec![Finding::good("Redis", "answers")];
            findings.extend(found.into_iter().map(of_redis));
            findings
        }
        Err(error) => {
            let fix = "check redis.url, the network, and that the server runs";
            vec![Finding::fatal("Redis", error, fix)]
        }
    }
}

fn of_redis(found: redis_checks::Finding) -> Finding {
    let severity = match found.severity {
        redis_checks::Severity::Good => Severity::Good,
        redis_checks::Severity::Warning => Severity::Warning,
        redis_checks::Severity::Fatal => Severity::Fatal,
    };
    Finding::new(severity, &format!("Redis {}", found.subject), found.detail, &found.fix)
}

async fn examine_clusters(config: &Config) -> Vec<Finding> {
    let clusters = match KubeClusters::new(&config.clusters, &config.actions) {
        Ok(clusters) => clusters,
        Err(error) => return vec![Finding::fatal("clusters", error, "mend the section clusters")],
    };
    let registry = Registry::new(clusters, config.actions.wait, Arc::new(SystemClock));
    let mut findings = Vec::new();
    for cluster in &config.clusters {
        let subject = format!("cluster {}", cluster.name);
        let Ok(name) = cluster.name.parse() else { continue };
        findings.push(match registry.nodes(&name).await {
            Ok(nodes) => {
                let mut versions: Vec<&str> = nodes.nodes.iter().map(|node| node.version.as_str()).collect();
                versions.sort_unstable();
                versions.dedup();
                Finding::good(
                    &subject,
                    format!("answers: {} nodes, kubelet {}", nodes.nodes.len(), versions.join(", ")),
                )
            }
            Err(error) => {
                let fix = "check kubeconfig and context, the network, and the rights to list nodes";
                Finding::fatal(&subject, error, fix)
            }
        });
    }
    findings
}
