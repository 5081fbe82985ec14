//! What the host does now.

use std::{fs, path::Path, time::Instant};

use goperation::{now_millis, to_timestamp, v1::AgentSnapshot};
use procfs::{Current as _, FromRead as _, FromReadSI as _, KernelStats, LoadAverage};

use super::{
    MIB, host,
    network::{self, Sockets},
    rates::{Counters, Meter, Ticks},
    seen, to_i32,
};

/// Takes the reading that the first rates are since.
pub(super) fn begin(meter: &mut Meter) {
    meter.rates(counters());
}

/// What the host does now.
pub(super) fn snapshot(work_dir: &Path, meter: &mut Meter) -> AgentSnapshot {
    let rates = meter.rates(counters());
    let load = seen("load", LoadAverage::current());
    // The kernel gives two places; the crate's f32 would show as 0.3400000035762787.
    let places = |load: f32| (f64::from(load) * 100.0).round() / 100.0;
    let load = |of: fn(&LoadAverage) -> f32| load.as_ref().map_or(0.0, |load| places(of(load)));
    let disk = host::disk(work_dir).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let processes = processes();
    let memory = memory();
    let Sockets { listen, syn, established, closing } = network::sockets();
    let files = seen("open files", procfs::sys::fs::file_nr());
    AgentSnapshot {
        time: Some(to_timestamp(now_millis())),
        load1: load(|load| load.one),
        load5: load(|load| load.five),
        load15: load(|load| load.fifteen),
        memory_free_mib: to_i32(memory.available / MIB),
        memory_used_mib: to_i32(memory.used / MIB),
        memory_cached_mib: to_i32(memory.cached / MIB),
        memory_buffers_mib: to_i32(memory.buffers / MIB),
        memory_unused_mib: to_i32(memory.unused / MIB),
        disk_free_mib: to_i32(disk / MIB),
        processes: to_i32(processes.all),
        running: to_i32(processes.running),
        sleeping: to_i32(processes.sleeping),
        num_threads: to_i32(processes.threads),
        num_fds: to_i32(files.map_or(0, |files| files.allocated.saturating_sub(files.free))),
        context: rates.context,
        interrupts: rates.interrupts,
        soft_interrupts: rates.soft_interrupts,
        user: rates.user,
        nice: rates.nice,
        system: rates.system,
        iowait: rates.iowait,
        irq: rates.irq,
        soft_irq: rates.soft_irq,
        listen: to_i32(listen),
        syn: to_i32(syn),
        established: to_i32(established),
        closing: to_i32(closing),
        received: rates.received,
        sent: rates.sent,
    }
}

/// Everything that is counted since the start of the host.
fn counters() -> Counters {
    let at = Instant::now();
    let stat = seen("counters", fs::read_to_string("/proc/stat")).unwrap_or_default();
    let kernel = KernelStats::from_read(stat.as_bytes(), procfs::current_system_info());
    let kernel = seen("processor times", kernel);
    Counters {
        at,
        ticks: kernel.as_ref().map(|kernel| Ticks {
            user: kernel.total.user,
            nice: kernel.total.nice,
            system: kernel.total.system,
            idle: kernel.total.idle,
            iowait: kernel.total.iowait.unwrap_or(0),
            irq: kernel.total.irq.unwrap_or(0),
            soft_irq: kernel.total.softirq.unwrap_or(0),
            steal: kernel.total.steal.unwrap_or(0),
        }),
        context: kernel.map(|kernel| kernel.ctxt),
        interrupts: first_number(&stat, "intr "),
        soft_interrupts: first_number(&stat, "softirq "),
        interfaces: network::interfaces(),
    }
}

/// The sum that leads a line of `/proc/stat`; the crate does not read it.
fn first_number(stat: &str, prefix: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix(prefix))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes of memory.
#[derive(Debug, Default)]
struct Memory {
    available: u64,
    used: u64,
    cached: u64,
    buffers: u64,
    unused: u64,
}

fn memory() -> Memory {
    let Some(memory) = host::memory() else { return Memory::default() };
    // As `free` counts: what the kernel gives back when asked is cache.
    let cached = memory.cached.saturating_add(memory.s_reclaimable.unwrap_or(0));
    let others = cached.saturating_add(memory.buffers).saturating_add(memory.mem_free);
    Memory {
        available: memory.mem_available.unwrap_or(others),
        used: memory.mem_total.saturating_sub(others),
        cached,
        buffers: memory.buffers,
        unused: memory.mem_free,
    }
}

/// Processes that can be seen.
#[derive(Debug, Default)]
struct Processes {
    all: u64,
    running: u64,
    sleeping: u64,
    threads: u64,
}

fn processes() -> Processes {
    let mut processes = Processes::default();
    let entries = seen("processes", fs::read_dir("/proc"));
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // One that has just ended is none.
        let Ok(stat) = procfs::process::Stat::from_file(entry.path().join("stat")) else {
            continue;
        };
        processes.all += 1;
        processes.threads += u64::try_from(stat.num_threads).unwrap_or(0);
        match stat.state {
            'R' => processes.running += 1,
            // Asleep, with and without being woken by signals, and idle threads of the kernel.
            'S' | 'D' | 'I' => processes.sleeping += 1,
            _ => {}
        }
    }
    processes
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn sums_of_interrupts_are_found() {
        let stat = "cpu  1 2\nintr 35 1 2\nctxt 7\nsoftirq 99 0\n";
        assert_eq!(first_number(stat, "intr "), Some(35));
        assert_eq!(first_number(stat, "softirq "), Some(99));
        assert_eq!(first_number(stat, "btime "), None);
        assert_eq!(first_number("intr \n", "intr "), None);
    }

    #[test]
    fn a_snapshot_of_this_host_is_plausible() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _open = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut meter = Meter::default();
        let first = snapshot(Path::new("/tmp"), &mut meter);
        assert!(first.memory_free_mib > 0 && first.disk_free_mib > 0, "{first:?}");
        assert!(first.memory_used_mib > 0 && first.memory_unused_mib > 0, "{first:?}");
        assert!(first.processes > 0 && first.num_threads >= first.processes, "{first:?}");
        assert!(first.running + first.sleeping <= first.processes, "{first:?}");
        assert!(first.num_fds > 0, "{first:?}");
        assert!(first.listen >= 1 && first.established >= 2, "{first:?}");
        assert!(first.load1 >= 0.0 && first.load5 >= 0.0 && first.load15 >= 0.0);
        let of = |s: &AgentSnapshot| [s.user, s.nice, s.system, s.iowait, s.irq, s.soft_irq];
        assert_eq!((of(&first), first.context, first.received), ([0.0; 6], 0.0, 0.0));

        // Busy until the clock of the processors must have seen it.
        let late = Instant::now() + std::time::Duration::from_millis(300);
        while Instant::now() < late {
            std::hint::black_box(fs::read_to_string("/proc/loadavg").unwrap());
        }
        let second = snapshot(Path::new("/tmp"), &mut meter);
        let busy: f64 = of(&second).into_iter().sum();
        assert!(busy > 0.0 && busy <= 100.0 + 1e-6, "{second:?}");
        assert!(second.context > 0.0 && second.interrupts > 0.0, "{second:?}");
    }

    /// What a snapshot costs here: `cargo nextest run -p goperation-agent costs_little --no-capture`.
    #[test]
    fn a_snapshot_costs_little() {
        let mut meter = Meter::default();
        let mut best = std::time::Duration::MAX;
        for _ in 0..20 {
            let begun = Instant::now();
            let snapshot = snapshot(Path::new("/tmp"), &mut meter);
            best = best.min(begun.elapsed());
            assert!(snapshot.processes > 0);
        }
        println!("{best:?} for {} processes", processes().all);
        // A hundredth of a processor at the shortest sensible interval.
        assert!(best < std::time::Duration::from_secs(1), "{best:?}");
    }
}
