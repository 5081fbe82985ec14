//! What a process takes, as the kernel counts it.

use procfs::{WithCurrentSystemInfo, process::Process};

use crate::{Result, measure::count};

/// Resident memory in MiB.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    Ok(count(open(pid)?.stat()?.rss_bytes().get()) / f64::from(1 << 20))
}

fn open(pid: u32) -> Result<Process> {
    Ok(Process::new(pid.cast_signed())?)
}
