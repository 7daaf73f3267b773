//! A private Postgres server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::process::{Process, wait_for};

/// A private Postgres server. Everybody on loopback may do everything.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Process>,
    bin: PathBuf,
    port: u16,
    folder: TempDir,
    databases: AtomicU32,
    settings: Vec<String>,
}

impl Postgres {
    /// Makes a new cluster and starts it. Takes about two seconds.
    ///
    /// # Errors
    /// When Postgres is not installed or does not come up.
    pub fn start() -> Result<Self> {
        Self::with_settings(&[])
    }

    /// Starts one with further settings, such as `max_wal_size=2GB`.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn with_settings(settings: &[&str]) -> Result<Self> {
        let bin = binaries()?;
        let folder = tempfile::Builder::new().prefix("milepost-postgres-").tempdir()?;
        give_away(folder.path())?;
        let data = folder.path().join("data");
        let initdb = bin.join("initdb").display().to_string();
        let args = ["--no-sync", "-A", "trust", "-U", "milepost", "-E", "UTF8", "--locale=C.UTF-8", "-D"];
        let mut command = as_server(&initdb);
        command.extend(args.map(str::to_owned));
        command.push(data.display().to_string());
        run(&command)?;
        let port = crate::ports::free()?;
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let databases = AtomicU32::new(0);
        let mut postgres = Self { process: None, bin, port, folder, databases, settings };
        postgres.run()?;
        Ok(postgres)
    }

    /// Starts the server again after it was killed, on the same port and data.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn run(&mut self) -> Result<()> {
        self.process = None;
        let data = self.folder.path().join("data");
        let _ = std::fs::remove_file(data.join("postmaster.pid"));
        let mut command = as_server(&self.bin.join("postgres").display().to_string());
        for arg in
            ["-D", &data.display().to_string(), "-p", &self.port.to_string(), "-k", "", "-h", "127.0.0.1"]
        {
            command.push(arg.to_owned());
        }
        let own = ["fsync=off", "max_connections=300", "log_min_messages=warning"];
        for setting in own.map(str::to_owned).iter().chain(&self.settings) {
            command.extend(["-c".to_owned(), setting.clone()]);
        }
        let log = self.folder.path().join("log");
        self.process = Some(Process::start(&command, &[], &log, "INT")?);
        wait_for(Duration::from_secs(20), "Postgres to answer", || Ok(self.is_ready()))
            .with_context(|| format!("log of Postgres: {}", self.process().log()))
    }

    fn is_ready(&self) -> bool {
        let port = self.port.to_string();
        let mut ready = Command::new(self.bin.join("pg_isready"));
        ready.args(["-q", "-h", "127.0.0.1", "-p", &port]).status().is_ok_and(|status| status.success())
    }

    /// The server's process, to kill and stop it.
    ///
    /// # Panics
    /// Never: a started server has one.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("a started server has a process")
    }

    /// Stops the server as a whole, sessions too, so that nobody gets an answer or a refusal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> Result<()> {
        // The postmaster first: it starts no further session then.
        self.signal_all(Signal::SIGSTOP)
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn thaw(&self) -> Result<()> {
        self.signal_all(Signal::SIGCONT)
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        let pid = self.process().pid();
        self.process().signal(signal)?;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        for child in children.split_whitespace() {
            // One that has ended meanwhile needs no signal.
            let _ = kill(Pid::from_raw(child.parse()?), signal);
        }
        Ok(())
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes an empty database and gives back its URL.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn database(&self) -> Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(format!("postgres://milepost@127.0.0.1:{}/{name}", self.port))
    }

    /// Runs one statement with `psql` and gives back what it prints, unaligned and without headers.
    ///
    /// # Errors
    /// When the statement fails.
    pub fn sql(&self, database: &str, statement: &str) -> Result<String> {
        let output = Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "milepost", "-h", "127.0.0.1"])
            .args(["-p", &self.port.to_string(), "-d", database, "-c", statement])
            .output()?;
        if !output.status.success() {
            bail!("{statement}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// The newest installed server binaries: Debian's place, or wherever `pg_config` or `postgres` point to.
fn binaries() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists())
        .collect();
    found.sort();
    if let Some((_, bin)) = found.pop() {
        return Ok(bin);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .context("Postgres is not installed: apt-get install postgresql")
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Postgres refuses to run as root: then it runs as the user that its package made.
fn as_server(program: &str) -> Vec<String> {
    let mut command = Vec::new();
    if is_root() {
        let drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
        command.extend(drop.map(str::to_owned));
    }
    command.push(program.to_owned());
    command
}

fn give_away(folder: &Path) -> Result<()> {
    if is_root() {
        run(&["chown", "postgres:postgres", &folder.display().to_string()].map(str::to_owned))?;
    }
    Ok(())
}

fn run(command: &[String]) -> Result<()> {
    let output = Command::new(&command[0]).args(&command[1..]).current_dir("/").output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
