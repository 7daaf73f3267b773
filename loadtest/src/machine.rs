//! Where a figure was measured: machine, commit, load.

use std::process::Command;

use serde::Serialize;

/// The machine and the code.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Processor model.
    pub cpu: String,
    /// Processors.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// Commit of the code, with `-dirty` when files were changed.
    pub commit: String,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            commit: output("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
        }
    }
}

/// The load average of the last minute.
pub fn load_average() -> f64 {
    let text = read("/proc/loadavg");
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(-1.0)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}
