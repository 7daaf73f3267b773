//! A child process that cannot outlive its parent.
//!
//! A small shell stands between: it starts the program in the background, prints its pid, and waits for the end of its
//! own standard input, which is a pipe held by us. When we die in any way the pipe closes and the shell ends the
//! program.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const GUARD: &str = r#"log=$1; end=$2; shift 2
"$@" >>"$log" 2>&1 </dev/null &
pid=$!
echo $pid
cat >/dev/null
kill -CONT $pid 2>/dev/null
kill -$end $pid 2>/dev/null
for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 $pid 2>/dev/null || exit 0; sleep 0.1; done
kill -KILL $pid 2>/dev/null
"#;

/// A running program with its log.
#[derive(Debug)]
pub struct Process {
    guard: Child,
    lifeline: Option<ChildStdin>,
    pid: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose output goes to the file `log` (appended). `end` is the signal sent at the end.
    ///
    /// # Errors
    /// When the shell cannot be started.
    pub fn start(command: &[String], env: &[(String, String)], log: &Path, end: &str) -> Result<Self> {
        let mut guard = Command::new("sh");
        guard.arg("-c").arg(GUARD).arg("guard").arg(log).arg(end).args(command);
        guard.envs(env.iter().map(|(key, value)| (key, value)));
        guard.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut guard = guard.spawn().context("start a guarded process")?;
        let lifeline = guard.stdin.take();
        let mut line = String::new();
        BufReader::new(guard.stdout.take().context("no output")?).read_line(&mut line)?;
        let pid = Pid::from_raw(line.trim().parse().with_context(|| format!("no pid in {line:?}"))?);
        Ok(Self { guard, lifeline, pid, log: log.to_owned() })
    }

    /// The pid of the program itself.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the program is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid, signal).with_context(|| format!("send {signal} to {}", self.pid))
    }

    /// Whether the program still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        state.rsplit(')').next().is_some_and(|rest| !matches!(rest.trim().chars().next(), None | Some('Z')))
    }

    /// Waits until the program has ended.
    ///
    /// # Errors
    /// When it still runs after `within`.
    pub fn wait_gone(&self, within: Duration) -> Result<()> {
        wait_for(within, "the end of a process", || Ok(!self.is_alive()))
    }

    /// Kills the program and waits until it is gone.
    ///
    /// # Errors
    /// When it does not go.
    pub fn kill(&self) -> Result<()> {
        let _ = self.signal(Signal::SIGKILL);
        self.wait_gone(Duration::from_secs(10))
    }

    /// What the program wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.guard.wait();
    }
}

/// Waits until `done` says so, looking every 20 ms.
///
/// # Errors
/// When it does not within the time, or when `done` fails.
#[expect(clippy::disallowed_methods, reason = "the harness waits for real processes in real time")]
pub fn wait_for(within: Duration, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > within {
            bail!("waited {within:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
