//! A private headless Chromium, driven from outside through its debugging port.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::{Process, wait_for};

/// Makes a browser that talks to nobody but the pages it is told to open.
const FLAGS: [&str; 12] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
];

/// Where Chromium is found, in the order tried.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A running browser with an empty profile.
#[derive(Debug)]
pub struct Chromium {
    process: Process,
    address: String,
    _profile: TempDir,
}

impl Chromium {
    /// Starts a browser.
    ///
    /// # Errors
    /// When Chromium is not installed or does not come up.
    pub fn start() -> Result<Self> {
        let profile = tempfile::Builder::new().prefix("milepost-chromium-").tempdir()?;
        let mut command = vec![program()?];
        command.extend(FLAGS.map(str::to_owned));
        command.push(format!("--user-data-dir={}", profile.path().display()));
        command.push("about:blank".into());
        let process = Process::start(&command, &[], &profile.path().join("log"), "TERM")?;
        let mut address = None;
        let port_file = profile.path().join("DevToolsActivePort");
        wait_for(Duration::from_secs(60), "Chromium to listen", || {
            address = std::fs::read_to_string(&port_file).ok().and_then(|text| debugger(&text));
            Ok(address.is_some())
        })
        .with_context(|| format!("log of Chromium: {}", process.log()))?;
        Ok(Self { process, address: address.context("no address")?, _profile: profile })
    }

    /// The WebSocket address of the browser's debugger.
    #[must_use]
    pub fn debugger(&self) -> &str {
        &self.address
    }

    /// The browser's process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn program() -> Result<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &&str| std::env::split_paths(&path).any(|folder| folder.join(name).exists());
    match PROGRAMS.iter().find(|name| there(name)) {
        Some(name) => Ok((*name).to_owned()),
        None => bail!("Chromium is not installed: apt-get install chromium"),
    }
}

/// The address that the port file spells out in two lines: port, then path.
fn debugger(text: &str) -> Option<String> {
    let (port, path) = text.split_once('\n')?;
    let port: u16 = port.parse().ok()?;
    path.starts_with('/').then(|| format!("ws://127.0.0.1:{port}{}", path.trim()))
}
