//! Processor time to the nanosecond: `/proc/PID/stat` counts in hundredths of a second, which is more than what is looked for.

/// Nanoseconds that the threads of a process have run.
pub fn cpu_ns(pid: i32) -> u64 {
    of_threads(&format!("/proc/{pid}/task"))
}

/// Nanoseconds that this process has run.
pub fn own_cpu_ns() -> u64 {
    of_threads("/proc/self/task")
}

fn of_threads(folder: &str) -> u64 {
    let threads = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let ran = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    ran.sum()
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kb = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    kb.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time_and_has_memory() {
        let before = own_cpu_ns();
        let mut sum = 0_u64;
        while own_cpu_ns() == before {
            sum = std::hint::black_box(sum.wrapping_mul(3) + 1);
        }
        assert!(own_cpu_ns() > before && sum > 0);
        assert!(resident(i32::try_from(std::process::id()).unwrap()) > 1_000_000);
    }
}
