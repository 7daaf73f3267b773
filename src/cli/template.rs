//! `milepost template`: labels, taints and annotations under a name; and `submit --template`, which makes a task of one.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::json;

use super::connection::ServerArgs;
use super::exit::{Exit, UsageError};
use super::output::{Output, say};
use super::table;
use crate::client::Api;
use crate::client::types::TemplateInfo;
use crate::task::TaintEffect;
use crate::task::template::{TemplateAction, TemplateEntry, TemplateName, TemplateSpec};

/// Flags of `milepost template`.
#[derive(Debug, Clone, clap::Args)]
pub struct TemplateCommandArgs {
    #[command(subcommand)]
    command: TemplateCommand,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum TemplateCommand {
    /// List all templates.
    List(ListArgs),
    /// Show one.
    Show(NameArgs),
    /// Make one, or change what it says.
    Set(SetArgs),
    /// Remove one.
    Delete(NameArgs),
}

#[derive(Debug, Clone, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, clap::Args)]
struct NameArgs {
    /// Name of the template.
    #[arg(value_name = "TEMPLATE")]
    name: TemplateName,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, clap::Args)]
struct SetArgs {
    /// Name of the template.
    #[arg(value_name = "TEMPLATE")]
    name: TemplateName,

    /// What it sets: label, taint or annotate.
    #[arg(value_name = "ACTION", value_parser = action)]
    action: TemplateAction,

    /// What it sets: key=value, for a taint key=value:Effect. The same key again is another value to pick from.
    #[arg(long = "entry", value_name = "ENTRY", required = true)]
    entries: Vec<String>,

    /// What it is for.
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,

    /// Only if it is at this version by now; 0 if there is to be none yet.
    #[arg(long, value_name = "N")]
    version: Option<i64>,

    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `milepost submit` that take the parameters from a template.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FromTemplateArgs {
    /// For label, taint and annotate: what this template says, instead of flags.
    #[arg(long, value_name = "TEMPLATE")]
    template: Option<TemplateName>,

    /// With --template: the value of a key that has several. Repeat for several keys.
    #[arg(long = "pick", value_name = "KEY=VALUE", requires = "template")]
    picked: Vec<String>,
}

impl FromTemplateArgs {
    /// The parameters of the action, if a template is to give them.
    ///
    /// # Errors
    /// When there is no such template, it sets something else, or not every value is picked.
    pub async fn parameters(
        &self,
        api: &Api,
        action: &str,
        overwrite: bool,
    ) -> Result<Option<serde_json::Value>> {
        let Some(name) = &self.template else { return Ok(None) };
        let info = api.template(name).await.with_context(|| format!("template {name}"))?;
        if info.spec.action.as_str() != action {
            let why = format!("the template {name} is for {}, not for {action}", info.spec.action.as_str());
            return Err(UsageError(why).into());
        }
        let resolved = info.spec.resolve(&picked(&self.picked)?, overwrite).map_err(|faults| {
            let words = faults
                .iter()
                .map(|fault| format!("--{} {}", fault.field.replacen("set.", "pick ", 1), fault.words()));
            UsageError(words.collect::<Vec<_>>().join("; "))
        });
        Ok(Some(resolved?))
    }
}

fn picked(texts: &[String]) -> Result<BTreeMap<String, String>, UsageError> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(UsageError(format!("--pick {text:?} is not key=value"))),
    };
    texts.iter().map(pair).collect()
}

fn action(text: &str) -> Result<TemplateAction, String> {
    serde_json::from_value(text.into()).map_err(|_| "must be label, taint or annotate".to_owned())
}

/// Lists, shows, changes or removes templates.
///
/// # Errors
/// When a flag is wrong, there is no such template, or no server can be reached.
pub async fn run(args: &TemplateCommandArgs, out: Output) -> Result<Exit> {
    match &args.command {
        TemplateCommand::List(args) => list(&args.server.api()?, out).await,
        TemplateCommand::Show(args) => {
            let info = args.server.api()?.template(&args.name).await;
            Ok(told(&info.with_context(|| format!("template {}", args.name))?, out))
        }
        TemplateCommand::Set(args) => {
            let description = args.description.clone();
            let spec = TemplateSpec { description, action: args.action, entries: entries(args)? };
            let info = args.server.api()?.put_template(&args.name, &spec, args.version).await;
            Ok(told(&info.with_context(|| format!("template {}", args.name))?, out))
        }
        TemplateCommand::Delete(args) => {
            let deleted = args.server.api()?.delete_template(&args.name).await;
            deleted.with_context(|| format!("template {}", args.name))?;
            if !out.json {
                say(format_args!("the template {} is gone", args.name));
            }
            Ok(Exit::Succeeded)
        }
    }
}

async fn list(api: &Api, out: Output) -> Result<Exit> {
    let templates = api.templates().await.context("list templates")?;
    if out.json {
        templates.iter().for_each(|info| out.object(&json!({ "type": "template", "template": info })));
    } else if templates.is_empty() {
        say("no templates");
    } else {
        let mut table = table::plain(&["TEMPLATE", "ACTION", "SETS", "DESCRIPTION"]);
        for info in &templates {
            let sets: Vec<String> = info.spec.entries.iter().map(words).collect();
            let (action, sets) = (info.spec.action.as_str(), sets.join("\n"));
            table.add_row([info.name.as_str(), action, &sets, &info.spec.description]);
        }
        out.line(table);
    }
    Ok(Exit::Succeeded)
}

fn told(info: &TemplateInfo, out: Output) -> Exit {
    if out.json {
        out.object(&json!({ "type": "template", "template": info }));
        return Exit::Succeeded;
    }
    let line = |name: &str, value: &str| out.line(format_args!("{name:<12} {value}"));
    line("template", info.name.as_str());
    line("action", info.spec.action.as_str());
    for (place, entry) in info.spec.entries.iter().enumerate() {
        line(if place == 0 { "sets" } else { "" }, &words(entry));
    }
    if !info.spec.description.is_empty() {
        line("description", &info.spec.description);
    }
    line(
        "version",
        &format!("{}, by {} at {}", info.version, info.updated_by, info.updated_at.strftime("%F %T UTC")),
    );
    Exit::Succeeded
}

/// An entry as people write it; what can be picked is separated by bars.
fn words(entry: &TemplateEntry) -> String {
    let effect = entry.effect.map(|effect| format!(":{}", effect.as_str())).unwrap_or_default();
    format!("{}={}{effect}", entry.key, entry.values.join(" | "))
}

fn entries(args: &SetArgs) -> Result<Vec<TemplateEntry>, UsageError> {
    let mut entries: Vec<TemplateEntry> = Vec::new();
    for text in &args.entries {
        let (key, value, effect) = entry(args.action, text)?;
        match entries.iter_mut().find(|entry| entry.key == key && entry.effect == effect) {
            Some(entry) => entry.values.push(value),
            None => entries.push(TemplateEntry { key, values: vec![value], effect }),
        }
    }
    Ok(entries)
}

fn entry(action: TemplateAction, text: &str) -> Result<(String, String, Option<TaintEffect>), UsageError> {
    let (pair, effect) = match action {
        TemplateAction::Taint => {
            let wrong = || {
                UsageError(format!(
                    "--entry {text:?} is not key=value:NoSchedule, PreferNoSchedule or NoExecute"
                ))
            };
            let (pair, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
            (pair, Some(serde_json::from_value(effect.into()).map_err(|_| wrong())?))
        }
        TemplateAction::Label | TemplateAction::Annotate => (text, None),
    };
    let (key, value) = match pair.split_once('=') {
        Some(pair) => pair,
        None if effect.is_some() => (pair, ""),
        None => return Err(UsageError(format!("--entry {text:?} is not key=value"))),
    };
    Ok((key.to_owned(), value.to_owned(), effect))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_people_write_them() {
        let args = |action, entries: &[&str]| SetArgs {
            name: "x".parse().unwrap(),
            action,
            entries: entries.iter().map(ToString::to_string).collect(),
            description: String::new(),
            version: None,
            server: ServerArgs { servers: Vec::new(), token: None, history: None },
        };
        let label = args(TemplateAction::Label, &["tier=gold", "team=web", "tier=silver"]);
        let said: Vec<String> = entries(&label).unwrap().iter().map(words).collect();
        assert_eq!(said, ["tier=gold | silver", "team=web"]);
        let taint = args(TemplateAction::Taint, &["gpu=a:NoSchedule", "gpu=b:NoSchedule", "gpu:NoExecute"]);
        let said: Vec<String> = entries(&taint).unwrap().iter().map(words).collect();
        assert_eq!(said, ["gpu=a | b:NoSchedule", "gpu=:NoExecute"]);
        for (action, text) in [
            (TemplateAction::Label, "tier"),
            (TemplateAction::Taint, "gpu=a"),
            (TemplateAction::Taint, "gpu=a:Never"),
        ] {
            assert!(entries(&args(action, &[text])).is_err(), "{text}");
        }
    }
}
