//! CPU time of processes and of the machine, from /proc.

use std::fs;

/// CPU time of a process with all its threads, in nanoseconds; 0 if it is gone. schedstat is exact where utime and
/// stime count ticks.
pub(crate) fn cpu_nanoseconds(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Idle and stolen time since boot, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Idle {
    pub(crate) all: u64,
    pub(crate) core0: u64,
    pub(crate) core1: u64,
    pub(crate) stolen: u64,
}

/// Idle time is exact on a tickless kernel; user and system time are samples. So what is busy is what is not idle.
pub(crate) fn idle() -> Idle {
    const TICK_NANOSECONDS: u64 = 10_000_000;
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = |name: &str| -> Vec<u64> {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap_or_default();
        line.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect()
    };
    // Columns: user, nice, system, idle, iowait, irq, softirq, steal.
    let column = |fields: &[u64], index: usize| fields.get(index).copied().unwrap_or(0) * TICK_NANOSECONDS;
    let idle = |name: &str| {
        let fields = fields(name);
        column(&fields, 3) + column(&fields, 4)
    };
    Idle { all: idle("cpu"), core0: idle("cpu0"), core1: idle("cpu1"), stolen: column(&fields("cpu"), 7) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time_and_one_that_is_not_there_uses_none() {
        let before = cpu_nanoseconds(std::process::id());
        let mut sum = 0_u64;
        while cpu_nanoseconds(std::process::id()) < before + 1_000_000 {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(sum > 0);
        assert_eq!(cpu_nanoseconds(u32::MAX), 0);
        assert!(idle().all > 0);
    }
}
