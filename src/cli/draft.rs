//! From the command line to a request: flags in, a draft out. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::budget::BudgetArgs;
use super::drain::DrainArgs;
use super::exit::UsageError;
use super::strategy::StrategyArgs;
use crate::config::duration;
use crate::task::spec::TaskSpec;
use crate::task::{Draft, TaskId};

/// Flags that describe a task.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DraftArgs {
    /// What to do: cordon, uncordon, drain, label, unlabel, taint, untaint, copy-taints, annotate, unannotate
    /// or wait.
    #[arg(value_name = "ACTION")]
    pub action: String,

    /// Names, such as node-7, node-[001-100] or rack[1-3]-n[1,3,7-9].
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,

    /// Read names from a file too, one per line with # comments; - for standard input.
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<String>,

    /// The cluster to act on.
    #[arg(long, short, value_name = "NAME")]
    pub cluster: String,

    /// Why, for people and audit.
    #[arg(long, short, value_name = "TEXT")]
    pub reason: Option<String>,

    /// For label: a label to set. Repeat for several.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,

    /// For annotate: an annotation to set. Repeat for several.
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,

    /// For copy-taints: the node whose taints are copied.
    #[arg(long, value_name = "NODE")]
    pub from: Option<String>,

    /// For unlabel and unannotate: a label or annotation to remove. Repeat for several.
    #[arg(long = "key", value_name = "KEY")]
    pub keys: Vec<String>,

    /// For taint: key=value:Effect. For untaint: key, or key:Effect. Repeat for several.
    #[arg(long = "taint", value_name = "TAINT")]
    pub taints: Vec<String>,

    /// For label, taint, copy-taints and annotate: change what is there with another value.
    #[arg(long)]
    pub overwrite: bool,

    /// For uncordon: undo cordons too that Milepost did not make.
    #[arg(long)]
    pub foreign: bool,

    /// For uncordon: undo only what this task cordoned; without names, on all of its nodes.
    #[arg(long, value_name = "TASK")]
    pub of_task: Option<TaskId>,

    /// For wait: how long each item takes.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub duration: Option<Duration>,

    /// For wait: every n-th item fails.
    #[arg(long, value_name = "N")]
    pub fail_every: Option<u32>,

    /// -100 to 100; higher goes first among your own tasks.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub priority: Option<i16>,

    /// Most items at once.
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u16>,

    /// Time-out of one item, such as 30s.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub item_timeout: Option<Duration>,

    /// Claims by workers before the task is given up.
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<u16>,

    #[command(flatten)]
    pub(super) budget: BudgetArgs,

    #[command(flatten)]
    pub drain: DrainArgs,

    #[command(flatten)]
    pub(super) strategy: StrategyArgs,

    /// The parameters that a template gave, in place of those of flags.
    #[arg(skip)]
    pub(super) of_template: Option<Value>,
}

impl DraftArgs {
    /// The request for these names, on the condition of a plan if one is given.
    ///
    /// # Errors
    /// Flags that do not fit the action or cannot be read, and every rule of a task that does not hold.
    pub fn draft(&self, items: Vec<String>, plan_hash: Option<String>) -> Result<Draft, UsageError> {
        self.check_flags()?;
        let draft = Draft {
            action: self.action(),
            cluster: self.cluster.clone(),
            items,
            parameters: match &self.of_template {
                Some(parameters) => parameters.clone(),
                None => self.parameters()?,
            },
            reason: self.reason.clone(),
            priority: self.priority,
            concurrency: self.concurrency,
            item_timeout_ms: self.item_timeout.map(duration::millis),
            max_attempts: self.max_attempts,
            failure_budget: self.budget.budget()?,
            strategy: self.strategy.draft(),
            plan_hash,
        };
        match TaskSpec::new(draft.clone()) {
            Ok(_) => Ok(draft),
            Err(error) => Err(UsageError(error.to_string())),
        }
    }

    /// The action as requests name it; people may write it with a dash.
    pub(super) fn action(&self) -> String {
        self.action.replace('-', "_")
    }

    /// Whether names are given, on the command line or in a file.
    #[must_use]
    pub fn has_names(&self) -> bool {
        !self.names.is_empty() || self.file.is_some()
    }

    /// Refuses a flag that the action would ignore.
    fn check_flags(&self) -> Result<(), UsageError> {
        let flags = [
            ("--label", !self.labels.is_empty(), &["label"][..]),
            ("--annotation", !self.annotations.is_empty(), &["annotate"]),
            ("--from", self.from.is_some(), &["copy_taints"]),
            ("--key", !self.keys.is_empty(), &["unlabel", "unannotate"]),
            ("--taint", !self.taints.is_empty(), &["taint", "untaint"]),
            ("--overwrite", self.overwrite, &["label", "taint", "copy_taints", "annotate"]),
            ("--foreign", self.foreign, &["uncordon"]),
            ("--of-task", self.of_task.is_some(), &["uncordon"]),
            ("--duration", self.duration.is_some(), &["wait"]),
            ("--fail-every", self.fail_every.is_some(), &["wait"]),
        ];
        let action = self.action();
        let sets = [&self.labels, &self.annotations, &self.taints].iter().any(|flags| !flags.is_empty());
        if self.of_template.is_some() && sets {
            return Err(UsageError(
                "what is set comes from the template: leave --label, --annotation and --taint out".into(),
            ));
        }
        let drains = self.drain.given().map(|(flag, given)| (flag, given, &["drain"][..]));
        let mut flags = flags.iter().chain(&drains);
        match flags.find(|(_, given, actions)| *given && !actions.contains(&action.as_str())) {
            Some((flag, _, actions)) => {
                Err(UsageError(format!("{flag} is for {}, not for {}", actions.join(" and "), self.action)))
            }
            None => Ok(()),
        }
    }

    fn parameters(&self) -> Result<Value, UsageError> {
        Ok(match self.action().as_str() {
            "label" => json!({ "labels": pairs("--label", &self.labels)?, "overwrite": self.overwrite }),
            "annotate" => {
                let annotations = pairs("--annotation", &self.annotations)?;
                json!({ "annotations": annotations, "overwrite": self.overwrite })
            }
            "drain" => self.drain.parameters()?,
            "copy_taints" => {
                let missing =
                    || UsageError("copy-taints needs --from, the node whose taints are copied".into());
                json!({ "from": self.from.as_ref().ok_or_else(missing)?, "overwrite": self.overwrite })
            }
            "unlabel" | "unannotate" => json!({ "keys": self.keys }),
            "taint" => {
                let taints: Result<Vec<Value>, _> = self.taints.iter().map(|text| taint(text)).collect();
                json!({ "taints": taints?, "overwrite": self.overwrite })
            }
            "untaint" => {
                let taints: Vec<Value> = self.taints.iter().map(|text| taint_ref(text)).collect();
                json!({ "taints": taints })
            }
            "uncordon" => {
                let mut parameters = serde_json::Map::new();
                parameters.extend(self.foreign.then(|| ("foreign".to_owned(), true.into())));
                parameters.extend(self.of_task.map(|id| ("of_task".to_owned(), id.to_string().into())));
                Value::Object(parameters)
            }
            "wait" => {
                let duration_ms = self.duration.map_or(0, duration::millis);
                json!({ "duration_ms": duration_ms, "fail_every": self.fail_every.unwrap_or(0) })
            }
            _ => Value::Null,
        })
    }
}

/// Texts of the form key=value.
fn pairs(flag: &str, texts: &[String]) -> Result<serde_json::Map<String, Value>, UsageError> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.into())),
        None => Err(UsageError(format!("{flag} {text:?} is not key=value"))),
    };
    texts.iter().map(pair).collect()
}

fn taint(text: &str) -> Result<Value, UsageError> {
    let (left, effect) = text.rsplit_once(':').ok_or_else(|| {
        UsageError(format!(
            "--taint {text:?} has no effect: write key=value:NoSchedule, PreferNoSchedule or NoExecute"
        ))
    })?;
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    Ok(json!({ "key": key, "value": value, "effect": effect }))
}

fn taint_ref(text: &str) -> Value {
    match text.rsplit_once(':') {
        Some((key, effect)) => json!({ "key": key, "effect": effect }),
        None => json!({ "key": text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(action: &str) -> DraftArgs {
        DraftArgs { action: action.into(), cluster: "prod".into(), ..DraftArgs::default() }
    }

    fn draft(args: &DraftArgs) -> Result<Draft, String> {
        args.draft(vec!["a".into()], None).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_become_the_parameters_of_the_action() {
        let label =
            DraftArgs { labels: vec!["a.b/c=d".into(), "e=".into()], overwrite: true, ..args("label") };
        assert_eq!(
            draft(&label).unwrap().parameters,
            json!({"labels": {"a.b/c": "d", "e": ""}, "overwrite": true})
        );
        let taint =
            DraftArgs { taints: vec!["k=v:NoSchedule".into(), "l:NoExecute".into()], ..args("taint") };
        let expected = json!([{"key": "k", "value": "v", "effect": "NoSchedule"},
            {"key": "l", "value": "", "effect": "NoExecute"}]);
        assert_eq!(draft(&taint).unwrap().parameters["taints"], expected);
        let untaint = DraftArgs { taints: vec!["k".into(), "l:NoExecute".into()], ..args("untaint") };
        let expected = json!([{"key": "k"}, {"key": "l", "effect": "NoExecute"}]);
        assert_eq!(draft(&untaint).unwrap().parameters["taints"], expected);
        let annotate = DraftArgs { annotations: vec!["a=b=c".into()], ..args("annotate") };
        let expected = json!({"annotations": {"a": "b=c"}, "overwrite": false});
        assert_eq!(draft(&annotate).unwrap().parameters, expected);
        let copy = draft(&DraftArgs { from: Some("n1".into()), ..args("copy-taints") }).unwrap();
        let expected = json!({"from": "n1", "overwrite": false});
        assert_eq!((copy.action.as_str(), copy.parameters), ("copy_taints", expected));
        let wait = DraftArgs { duration: Some(Duration::from_millis(5)), ..args("wait") };
        assert_eq!(draft(&wait).unwrap().parameters, json!({"duration_ms": 5, "fail_every": 0}));
        assert_eq!(draft(&args("cordon")).unwrap().parameters, Value::Null);
        assert_eq!(draft(&args("uncordon")).unwrap().parameters, json!({}));
        let id = TaskId::generate();
        let rollback = DraftArgs { of_task: Some(id), ..args("uncordon") };
        assert_eq!(draft(&rollback).unwrap().parameters, json!({"of_task": id}));
    }

    #[test]
    fn what_would_be_ignored_or_refused_is_refused_here() {
        for (args, why) in [
            (
                DraftArgs { labels: vec!["a=b".into()], ..args("cordon") },
                "--label is for label, not for cordon",
            ),
            (
                DraftArgs { drain: DrainArgs { force: true, ..DrainArgs::default() }, ..args("cordon") },
                "--force is for drain, not for cordon",
            ),
            (
                DraftArgs { item_timeout: Some(Duration::from_secs(1)), ..args("drain") },
                "item_timeout_ms must be left out: a drain has timeout_seconds of its own",
            ),
            (DraftArgs { overwrite: true, ..args("untaint") }, "--overwrite is for label and taint and"),
            (DraftArgs { labels: vec!["a".into()], ..args("label") }, "is not key=value"),
            (DraftArgs { taints: vec!["a=b".into()], ..args("taint") }, "has no effect"),
            (DraftArgs { taints: vec!["a=b:Sometimes".into()], ..args("taint") }, "NoSchedule"),
            (DraftArgs { foreign: true, ..args("cordon") }, "--foreign is for uncordon, not for cordon"),
            (
                DraftArgs { foreign: true, of_task: Some(TaskId::generate()), ..args("uncordon") },
                "parameters.foreign must be left out",
            ),
            (args("copy-taints"), "needs --from"),
            (DraftArgs { keys: vec!["k".into()], ..args("annotate") }, "--key is for unlabel and unannotate"),
            (args("label"), "parameters.labels must hold 1 to"),
            (args("dance"), "must be one of cordon"),
            (DraftArgs { priority: Some(1_000), cluster: "a b".into(), ..args("cordon") }, "; priority"),
        ] {
            let error = draft(&args).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
