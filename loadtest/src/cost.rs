//! What a run costs: processor time and memory of each part, commands of Redis, statements of Postgres. Read from `/proc` and
//! from the servers themselves, before and after. Nothing is known of a hub that runs elsewhere.

use std::collections::BTreeMap;

use anyhow::Result;
use milepost_harness::{Hub, Postgres, Process, Redis, Replica};
use serde::Serialize;

/// Clock ticks in a second of `/proc/PID/stat`: fixed in Linux's interface.
const TICKS: f64 = 100.0;
/// Statements that a report names.
const STATEMENTS_MAX: usize = 12;

/// Processor time so far, and memory.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Usage {
    /// Seconds of processor time.
    pub cpu_s: f64,
    /// Resident memory now, in kB.
    pub rss_kb: u64,
    /// Most resident memory of one process so far, in kB.
    pub peak_kb: u64,
}

impl Usage {
    fn of<'a>(processes: impl Iterator<Item = &'a Process>) -> Self {
        processes.map(|process| Self::of_pid(process.pid())).fold(Self::default(), Self::and)
    }

    /// Of a process that is there; nothing of one that is gone.
    fn of_pid(pid: i32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kb = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Self { cpu_s: cpu_s(&stat), rss_kb: kb("VmRSS:"), peak_kb: kb("VmHWM:") }
    }

    fn and(self, other: Self) -> Self {
        let (cpu_s, rss_kb) = (self.cpu_s + other.cpu_s, self.rss_kb + other.rss_kb);
        Self { cpu_s, rss_kb, peak_kb: self.peak_kb.max(other.peak_kb) }
    }

    fn since(self, before: Self) -> Self {
        Self { cpu_s: (self.cpu_s - before.cpu_s).max(0.0), ..self }
    }
}

/// Time of a process and of its children that have ended. The name in the second field may have spaces, so what counts
/// follows the last bracket.
fn cpu_s(stat: &str) -> f64 {
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let ticks = rest.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS
}

/// All counters at one moment.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cost {
    /// All gateways; in memory mode the one process.
    pub gateways: Usage,
    /// All workers.
    pub workers: Usage,
    /// The Redis server.
    pub redis: Usage,
    /// The Postgres server with its sessions.
    pub postgres: Usage,
    /// Commands that Redis ran, those inside of functions included, by name.
    pub redis_commands: BTreeMap<String, u64>,
    /// Bytes that Redis read and wrote.
    pub redis_bytes: u64,
    /// Bytes of Redis's data.
    pub redis_memory: u64,
    /// Statements that Postgres ran.
    pub statements: u64,
}

impl Cost {
    /// What it has cost so far.
    ///
    /// # Errors
    /// When a server does not answer.
    pub fn so_far(hub: &Hub) -> Result<Self> {
        let mut cost = Self {
            gateways: Usage::of(hub.gateways.iter().map(Replica::process)),
            workers: Usage::of(hub.workers.iter().map(Replica::process)),
            redis: Usage::of(hub.redis.iter().map(Redis::process)),
            ..Self::default()
        };
        if let Some(postgres) = &hub.postgres {
            cost.postgres = of_postgres(postgres);
            cost.statements = hub.sql(STATEMENTS)?.parse()?;
        }
        if let Some(redis) = &hub.redis {
            let info = redis.command(&["INFO", "commandstats"])?;
            cost.redis_commands = commands(&info);
            let info = redis.command(&["INFO", "stats"])? + &redis.command(&["INFO", "memory"])?;
            cost.redis_bytes =
                number(&info, "total_net_input_bytes") + number(&info, "total_net_output_bytes");
            cost.redis_memory = number(&info, "used_memory");
        }
        Ok(cost)
    }

    /// What came on top since then; memory is that of now.
    pub fn since(&self, before: &Self) -> Self {
        let more = |(name, calls): (&String, &u64)| {
            let calls = calls - before.redis_commands.get(name).copied().unwrap_or(0).min(*calls);
            (calls > 0).then(|| (name.clone(), calls))
        };
        Self {
            gateways: self.gateways.since(before.gateways),
            workers: self.workers.since(before.workers),
            redis: self.redis.since(before.redis),
            postgres: self.postgres.since(before.postgres),
            redis_commands: self.redis_commands.iter().filter_map(more).collect(),
            redis_bytes: self.redis_bytes.saturating_sub(before.redis_bytes),
            redis_memory: self.redis_memory.saturating_sub(before.redis_memory),
            statements: self.statements.saturating_sub(before.statements),
        }
    }

    /// Commands of all names, but for the looks of this program.
    pub fn all_commands(&self) -> u64 {
        self.redis_commands.iter().filter(|(name, _)| *name != "info").map(|(_, calls)| calls).sum()
    }
}

/// Our own look is not counted until it is over, so at the end it is the one before that is.
const STATEMENTS: &str = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements";

/// The statements that ran most often since the statistics began, with how often and for how many milliseconds.
///
/// # Errors
/// When the database does not answer.
pub fn top_statements(hub: &Hub) -> Result<Vec<String>> {
    let list = hub.sql(&format!(
        "SELECT calls || ' x ' || round(mean_exec_time::numeric, 3) || ' ms: ' || \
         left(regexp_replace(query, '\\s+', ' ', 'g'), 100) FROM pg_stat_statements ORDER BY calls DESC LIMIT {STATEMENTS_MAX}"
    ))?;
    Ok(list.lines().map(str::to_owned).collect())
}

fn of_postgres(postgres: &Postgres) -> Usage {
    let pid = postgres.process().pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok()).map(Usage::of_pid);
    children.fold(Usage::of_pid(pid), Usage::and)
}

/// Reads lines such as `cmdstat_xadd:calls=3,usec=...`.
fn commands(info: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    info.lines().filter_map(line).collect()
}

fn number(info: &str, name: &str) -> u64 {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 100 50 25 25 20 0";
        assert!((cpu_s(stat) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn redis_says_what_it_ran() {
        let info = "# Commandstats\r\ncmdstat_xadd:calls=3,usec=9\r\ncmdstat_config|get:calls=1,usec=1\r\n";
        let before = Cost { redis_commands: commands(info), ..Cost::default() };
        let after = "cmdstat_xadd:calls=8,usec=9\r\ncmdstat_info:calls=2,usec=9\r\n";
        let cost = Cost { redis_commands: commands(after), ..Cost::default() }.since(&before);
        assert_eq!((cost.all_commands(), cost.redis_commands["xadd"]), (5, 5));
        assert_eq!(number("used_memory:123\r\nused_memory_peak:9\r\n", "used_memory"), 123);
    }
}
