//! `milepost config`: the effective configuration, with secrets hidden.

use anyhow::Result;

use super::exit::Exit;
use super::output::Output;
use super::settings::SettingsArgs;

/// Prints it as YAML, or as JSON.
///
/// # Errors
/// All faults of the configuration at once.
pub fn run(settings: &SettingsArgs, out: Output) -> Result<Exit> {
    let loaded = settings.load(Vec::new())?;
    if out.json {
        out.object(&loaded.config);
    } else {
        let file = loaded.file.map_or("no file".to_owned(), |file| file.display().to_string());
        out.line(format_args!("# mode {}; {file}", loaded.config.mode()));
        out.line(loaded.config.to_yaml().trim_end());
    }
    Ok(Exit::Succeeded)
}
