//! `milepost doctor`: what is wrong with the configuration and the servers it names, and how to mend it.

use anyhow::Result;
use serde_json::json;

use super::exit::Exit;
use super::output::{Output, Paint};
use super::settings::SettingsArgs;
use super::wiring::examine::{Finding, Severity, examine};
use crate::config::{Config, Mode};

/// Looks at everything and prints what it finds. The exit code is 1 when Milepost could not run like this.
///
/// # Errors
/// All faults of the configuration at once.
pub async fn run(settings: &SettingsArgs, out: Output) -> Result<Exit> {
    let config = settings.load(Vec::new())?.config;
    let mut findings = vec![Finding::good("configuration", format!("is sound: {} mode", config.mode()))];
    findings.extend(advice(&config));
    findings.extend(examine(&config).await);
    findings.iter().for_each(|finding| print(finding, out));
    let fatal = findings.iter().any(|finding| finding.severity == Severity::Fatal);
    Ok(if fatal { Exit::Failed } else { Exit::Succeeded })
}

/// What works and may yet surprise.
fn advice(config: &Config) -> Vec<Finding> {
    let warning = |subject: &str, detail: &str, fix: &str| Finding {
        severity: Severity::Warning,
        subject: subject.into(),
        detail: detail.into(),
        fix: fix.into(),
    };
    let mut findings = Vec::new();
    if config.mode() == Mode::Memory {
        findings.push(warning(
            "memory mode",
            "everything is gone with the process",
            "set database.url to keep a record, and redis.url for many replicas",
        ));
    }
    if !config.auth.has_key() {
        findings.push(warning(
            "keys",
            "none are configured, so gateways serve this machine only, each with a token of its own",
            "set auth.hs256_secret, or a public key",
        ));
    }
    if config.clusters.is_empty() {
        let detail = "none are configured, so there are no nodes to act on";
        findings.push(warning("clusters", detail, "name some in the section clusters"));
    }
    findings
}

fn print(finding: &Finding, out: Output) {
    if out.json {
        return out.object(&json!({ "type": "finding", "finding": finding }));
    }
    let paint = Paint::new();
    let mark = match finding.severity {
        Severity::Good => paint.green("ok  "),
        Severity::Warning => paint.yellow("warn"),
        Severity::Fatal => paint.red("FAIL"),
    };
    out.line(format_args!("{mark}  {}: {}", finding.subject, finding.detail));
    if !finding.fix.is_empty() {
        out.line(format_args!("      {}", paint.bold(format_args!("-> {}", finding.fix))));
    }
}
