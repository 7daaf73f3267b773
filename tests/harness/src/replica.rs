//! One process of a hub: its start, its end, and what it says of itself. Not here: what it is connected to ([`crate::hub`]).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::process::{Process, wait_for};
use crate::{FakeClock, ports};

/// What is special about one process of the hub.
#[derive(Debug, Default)]
pub struct ReplicaSpec<'a> {
    /// Another binary than the hub's, such as an older release.
    pub binary: Option<PathBuf>,
    /// The clock it goes by.
    pub clock: Option<&'a FakeClock>,
    /// Settings over those of the hub.
    pub env: Vec<(String, String)>,
}

impl ReplicaSpec<'_> {
    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }
}
/// One process of the hub.
#[derive(Debug)]
pub struct Replica {
    name: String,
    args: Vec<String>,
    /// How many of them follow the program.
    own_args: usize,
    env: Vec<(String, String)>,
    port: u16,
    admin_port: u16,
    log: PathBuf,
    process: Option<Process>,
}

/// How a process is started.
pub(crate) struct Start {
    pub(crate) name: String,
    /// What comes before the program, such as another clock.
    pub(crate) prefix: Vec<String>,
    pub(crate) binary: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) log: PathBuf,
}

impl Replica {
    /// Starts a process on ports of its own, and does not wait for it.
    pub(crate) fn start(start: Start) -> Result<Self> {
        let Start { name, prefix: mut args, binary, args: own, mut env, log } = start;
        let (port, admin_port) = (ports::free()?, ports::free()?);
        let own_args = own.len();
        args.push(binary.display().to_string());
        args.extend(own);
        env.push(("MILEPOST_SERVER__LISTEN".into(), format!("127.0.0.1:{port}")));
        env.push(("MILEPOST_SERVER__ADMIN_LISTEN".into(), format!("127.0.0.1:{admin_port}")));
        let mut replica = Self { name, args, own_args, env, port, admin_port, log, process: None };
        replica.launch()?;
        Ok(replica)
    }

    /// The base address of its API, such as `http://127.0.0.1:4711`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process, to stop and continue it.
    ///
    /// # Panics
    /// When it was never started.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the replica was started")
    }

    /// Kills the process and waits until it is gone.
    ///
    /// # Errors
    /// When it does not go.
    pub fn kill(&self) -> Result<()> {
        self.process().kill()
    }

    /// Asks the process to stop and waits until it is gone.
    ///
    /// # Errors
    /// When it does not go within `within`.
    pub fn stop(&self, within: Duration) -> Result<()> {
        self.process().signal(Signal::SIGTERM)?;
        self.process().wait_gone(within).with_context(|| self.report())
    }

    /// Has the process be of another binary from its next start on.
    pub fn replace_binary(&mut self, binary: &Path) {
        let place = self.args.len() - self.own_args - 1;
        self.args[place] = binary.display().to_string();
    }

    /// Starts the process (again) on its ports and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn run(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts the process (again) and does not wait for it.
    pub(crate) fn launch(&mut self) -> Result<()> {
        self.process = None;
        self.process = Some(Process::start(&self.args, &self.env, &self.log, "KILL")?);
        Ok(())
    }

    /// Waits until the process is ready.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        wait_for(Duration::from_secs(30), "a replica to be ready", || {
            if !self.process().is_alive() {
                bail!("it ended");
            }
            Ok(self.probe("/readyz").is_ok_and(|status| status == 200))
        })
        .with_context(|| self.report())
    }

    /// The HTTP status of a probe, such as `/readyz`.
    ///
    /// # Errors
    /// When the admin port does not answer.
    pub fn probe(&self, path: &str) -> Result<u16> {
        let answer = get(self.admin_port, path)?;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        status.parse().with_context(|| answer.clone())
    }

    /// The readiness page, which also says how the process calls itself.
    ///
    /// # Errors
    /// When the admin port does not answer.
    pub fn page(&self) -> Result<String> {
        get(self.admin_port, "/readyz")
    }

    /// What the process wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its metrics, as Prometheus sees them.
    ///
    /// # Errors
    /// When the admin port does not answer.
    pub fn metrics(&self) -> Result<String> {
        get(self.admin_port, "/metrics")
    }

    /// One number of its metrics: the first line that begins with `name`.
    ///
    /// # Errors
    /// When the admin port does not answer or has no such line.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = self.metrics()?;
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.with_context(|| format!("{name} is not in {text}"))?;
        line.rsplit(' ').next().unwrap_or_default().parse().with_context(|| line.to_owned())
    }

    /// The sum of a metric over its labels; of some of them, if `name` goes on with `{` and a label.
    ///
    /// # Errors
    /// When the admin port does not answer or has no such line.
    pub fn total(&self, name: &str) -> Result<f64> {
        let text = self.metrics()?;
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(name)).collect();
        if lines.is_empty() {
            bail!("{name} is not in {text}");
        }
        let value = |line: &&str| line.rsplit(' ').next().unwrap_or_default().parse::<f64>();
        Ok(lines.iter().map(value).sum::<Result<_, _>>()?)
    }

    fn report(&self) -> String {
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("log of {}:\n{}", self.name, tail.join("\n"))
    }
}

/// A GET over plain HTTP; the whole answer as text. Enough for probes and metrics.
fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
