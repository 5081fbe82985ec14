//! What the machine's processors did, as the kernel counts it.
//!
//! A guest's kernel counts the time in which the host ran others (stolen time) to the process that
//! was to run, so the processor time of a process says too much on a busy host. It knows only of all
//! processes together how much was stolen.
//!
//! So the share is an estimate for one of them: time that was stolen before a process had its turn
//! is in it, too, and makes it too small. Where nothing is stolen it is 1.

use procfs::{CurrentSI as _, KernelStats};

/// The processors' time since the machine's start, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processors {
    ran: u64,
    stolen: u64,
}

impl Processors {
    /// What they have done until now.
    ///
    /// # Panics
    /// /proc cannot be read.
    pub fn now() -> Self {
        let time = KernelStats::current().expect("/proc/stat can be read").total;
        let interrupts = time.irq.unwrap_or(0) + time.softirq.unwrap_or(0);
        Self {
            ran: time.user + time.nice + time.system + interrupts,
            stolen: time.steal.unwrap_or(0),
        }
    }

    /// Of the processor time that the kernel counted since then, the part in which something ran.
    pub fn share_that_ran(&self) -> f64 {
        let now = Self::now();
        let (ran, stolen) = (now.ran - self.ran, now.stolen - self.stolen);
        // One tick more than none, where nothing was counted.
        (ran + 1) as f64 / (ran + stolen + 1) as f64
    }
}
