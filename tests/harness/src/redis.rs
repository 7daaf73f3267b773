//! A private Redis server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::FakeClock;
use crate::process::{Process, wait_for};

/// Nothing is kept on disk.
const FORGETFUL: [&str; 4] = ["--save", "", "--appendonly", "no"];

/// A private Redis server, empty at the start and without persistence unless asked for.
#[derive(Debug)]
pub struct Redis {
    process: Option<Process>,
    port: u16,
    prefix: Vec<String>,
    args: Vec<String>,
    folder: TempDir,
}

impl Redis {
    /// Starts a server that keeps nothing on disk.
    ///
    /// # Errors
    /// When `redis-server` is missing or does not come up.
    pub fn start() -> Result<Self> {
        Self::with_args(&FORGETFUL)
    }

    /// Starts a server that keeps nothing on disk and goes by this clock.
    ///
    /// # Errors
    /// When `redis-server` is missing or does not come up.
    pub fn with_clock(clock: &FakeClock) -> Result<Self> {
        Self::prefixed(clock.prefix(), &FORGETFUL)
    }

    /// Starts a server with further arguments.
    ///
    /// # Errors
    /// When `redis-server` is missing or does not come up.
    pub fn with_args(args: &[&str]) -> Result<Self> {
        Self::prefixed(Vec::new(), args)
    }

    fn prefixed(prefix: Vec<String>, args: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("milepost-redis-").tempdir()?;
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut redis = Self { process: None, port: crate::ports::free()?, prefix, args, folder };
        redis.run()?;
        Ok(redis)
    }

    /// Starts the server again after it was killed, on the same port and folder.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn run(&mut self) -> Result<()> {
        self.process = None;
        let mut command = self.prefix.clone();
        command.extend(["redis-server", "--bind", "127.0.0.1", "--port"].map(str::to_owned));
        command.push(self.port.to_string());
        command.push("--dir".into());
        command.push(self.folder.path().display().to_string());
        command.extend(self.args.iter().cloned());
        self.process = Some(Process::start(&command, &[], &self.folder.path().join("log"), "KILL")?);
        wait_for(Duration::from_secs(60), "Redis to answer", || Ok(self.command(&["PING"]).is_ok()))
            .with_context(|| format!("log of Redis: {}", self.process().log()))
    }

    /// The server's process, to kill and stop it.
    ///
    /// # Panics
    /// Never: a started server has one.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("a started server has a process")
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The address clients use.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Sends one command and gives back the raw reply (RESP2), up to what one read returns. For simple assertions.
    ///
    /// # Errors
    /// When the server does not answer within two seconds or answers with an error.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        ask(self.port, words)
    }
}

/// Sends one command to a port and gives back the raw reply (RESP2), up to what one read returns.
///
/// # Errors
/// When nobody answers within two seconds, or with an error.
pub(crate) fn ask(port: u16, words: &[&str]) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes())?;
    let mut reply = vec![0; 64 * 1024];
    let n = stream.read(&mut reply)?;
    let reply = String::from_utf8_lossy(&reply[..n]).into_owned();
    if n == 0 || reply.starts_with('-') {
        bail!("Redis answered {reply:?} to {words:?}");
    }
    Ok(reply)
}
