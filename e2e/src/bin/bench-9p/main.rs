//! `make bench-9p`: compares cpu's file server with Debian's diod on one booted machine: the same kernel, directory, message
//! size and cache mode, in turn. cpu's requests go through SSH, as a user's do; diod's over plain TCP. cpu's server is also
//! measured over plain TCP, which separates SSH's part from the server's, and with the message size that cpu uses by default.
//! docs/performance.md has the results of a run.

mod guest;
mod session;
mod workload;

use std::fs::read_to_string;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use cpu_client::export::{Export, prepare_process};
use e2e::client::{Client, Home};
use e2e::daemon::Daemon;
use e2e::out;
use e2e::vm::Vm;
use ninep::observe::Counts;
use ninep::server::{Config, serve};
use session::BenchSession;
use workload::{Goal, WORKLOADS, Workload};

/// What diod agrees to at most.
const DIOD_MSIZE: u32 = 64 * 1024;
/// Where the guest has the trees of the servers.
const CPU: &str = "/tmp/cpu";
const DIOD: &str = "/tmp/diod";
const TCP: &str = "/tmp/tcp";

#[derive(Parser)]
struct Options {
    /// Rounds; in each, every server has its turn.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Everything is so many times smaller: for a trial.
    #[arg(long, default_value_t = 1)]
    smaller: usize,
    /// Message size of the servers that are compared.
    #[arg(long, default_value_t = DIOD_MSIZE)]
    msize: u32,
    /// In the guest: the directory to work in.
    #[arg(long, hide = true)]
    guest: Option<PathBuf>,
    /// Only workloads whose names contain one of these.
    only: Vec<String>,
}

/// A server under test: whose session, and where its tree is there.
struct Candidate {
    session: usize,
    root: &'static str,
}

/// cpu, diod, cpu's server without SSH, cpu with its own message size.
#[rustfmt::skip]
const CANDIDATES: [Candidate; 4] = [
    Candidate { session: 0, root: CPU },
    Candidate { session: 0, root: DIOD },
    Candidate { session: 0, root: TCP },
    Candidate { session: 1, root: CPU },
];

/// What a run took: seconds on the clock, and of processors here, QEMU's and the servers' together.
#[derive(Clone, Copy)]
struct Cost {
    clock: f64,
    processor: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(directory) = &options.guest {
        return guest::serve(directory, options.smaller);
    }
    let is_wanted = |workload: &Workload| {
        let only = &options.only;
        only.is_empty()
            || only
                .iter()
                .any(|word| workload.name.contains(word.as_str()))
    };
    let home = Home::new()?;
    workload::prepare(home.path(), options.smaller)?;
    let counts = Arc::new(Counts::default());
    let tcp = serve_tcp(counts.clone())?;
    let diod = Daemon::diod()?;
    // The guest must leave one processor to the servers: two virtual processors that share the host's processors
    // with them wait for each other's locks, and that wait is what would be measured.
    let processors = std::thread::available_parallelism()?.get();
    let processors = processors.saturating_sub(1).clamp(1, 2).to_string();
    let vm = Vm::boot_kernel(&out().join("cpukernel"), &["-smp", &processors])?;
    let client = Client::new(vm.port(), &home);
    let all = mount(DIOD, diod.port, options.msize)? + &mount(TCP, tcp, options.msize)?;
    let msize = format!("-msize={}", options.msize);
    let mut sessions = [
        BenchSession::start(&client, &[&msize], &all, &home, options.smaller)?,
        BenchSession::start(&client, &[], "", &home, options.smaller)?,
    ];
    let mut pids = vec![vm.pid()?, diod.pid(), std::process::id()];
    pids.extend(sessions.iter().map(BenchSession::pid));

    header(&options)?;
    for (number, workload) in WORKLOADS.iter().enumerate().filter(|(_, w)| is_wanted(w)) {
        let mut costs = CANDIDATES.map(|_| Vec::new());
        let mut requests = 0;
        for round in 0..options.runs {
            for turn in 0..CANDIDATES.len() {
                let turn = (turn + round) % CANDIDATES.len();
                let side = &CANDIDATES[turn];
                let (asked, worked) = (sum(&counts), processor_time(&pids)?);
                let clock = sessions[side.session].run(side.root, number)?;
                costs[turn].push(Cost {
                    clock: clock.as_secs_f64(),
                    processor: processor_time(&pids)? - worked,
                });
                if side.root == TCP {
                    requests = sum(&counts) - asked;
                }
            }
        }
        report(workload, options.smaller, &costs, requests);
    }
    print!("load at the end: {}", read_to_string("/proc/loadavg")?);
    sessions.into_iter().try_for_each(BenchSession::end)
}

fn sum(counts: &Counts) -> u64 {
    counts.totals().iter().map(|total| total.requests).sum()
}

/// Seconds that the processes have worked so far (proc_pid_stat(5), fields 14 and 15).
fn processor_time(pids: &[u32]) -> Result<f64> {
    let mut ticks = 0;
    for pid in pids {
        let stat = read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').context("not as in proc(5)")?;
        for field in fields.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<u32>()?;
        }
    }
    // USER_HZ is 100 on every architecture.
    Ok(f64::from(ticks) / 100.0)
}

/// A line of fstab(5) that mounts a server of this machine as cpud mounts cpu's, and devices, which
/// programs that run in the tree expect.
fn mount(at: &str, port: u16, msize: u32) -> Result<String> {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid)?;
    let user = user
        .context("this user has no name, which diod wants")?
        .name;
    let access = if uid.is_root() { "user" } else { "any" };
    Ok(format!(
        "10.0.2.2 {at} 9p trans=tcp,port={port},version=9p2000.L,msize={msize},aname=/,cache=mmap,\
         access={access},uname={user},locktimeout=1,nosuid,nodev 0 0\n/dev {at}/dev none bind 0 0\n"
    ))
}

/// cpu's file server at a port of its own, without SSH. Returns the port.
fn serve_tcp(counts: Arc<Counts>) -> Result<u16> {
    let limits = prepare_process();
    let export = Export::new(Path::new("/"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Config {
                max_fids: limits.descriptors,
                observer: Some(&*counts),
                ..Config::default()
            };
            let _ = stream.set_nodelay(true);
            if let Err(error) = serve(&export, &stream, &stream, &config) {
                eprintln!("the server without SSH: {error}");
            }
        }
    });
    Ok(port)
}

fn header(options: &Options) -> Result<()> {
    print!("load at the start: {}", read_to_string("/proc/loadavg")?);
    println!(
        "messages of {} bytes, cache=mmap, {} runs each, in turn. Seconds: median (least-most). Times diod's \
         speed: median of the rounds (least-most).",
        options.msize, options.runs
    );
    println!(
        "{:30} | {:^19} | {:^19} | {:^16} {:>8} | {:^37} | {:>8}",
        "", "seconds", "seconds", "times diod's", "", "times diod's speed", ""
    );
    println!(
        "{:30} | {:19} | {:19} | {:16} {:>8} | {:<11} {:<12} {:<12} | {:>8}",
        "", "cpu", "diod", "speed", "to reach", "processor", "without SSH", "cpu 1 MiB", "requests"
    );
    Ok(())
}

fn report(
    workload: &Workload,
    smaller: usize,
    costs: &[Vec<Cost>; CANDIDATES.len()],
    requests: u64,
) {
    let [cpu, diod, tcp, large] = costs;
    let clock: fn(&Cost) -> f64 = |cost| cost.clock;
    let faster = |than_diod: &[Cost], figure: fn(&Cost) -> f64| {
        spread(
            diod.iter()
                .zip(than_diod)
                .map(|(d, t)| figure(d) / figure(t).max(0.01)),
        )
    };
    let middle = |[_, median, _]: [f64; 3]| format!("{median:.2}");
    let shown = |[least, median, most]: [f64; 3]| format!("{median:.2} ({least:.2}-{most:.2})");
    let goal = match workload.goal {
        Goal::Metadata => "1",
        Goal::Bulk => "0.8",
    };
    println!(
        "{:30} | {:19} | {:19} | {:16} {goal:>8} | {:<11} {:<12} {:<12} | {requests:>8}",
        workload.title(smaller),
        shown(spread(cpu.iter().map(clock))),
        shown(spread(diod.iter().map(clock))),
        shown(faster(cpu, clock)),
        middle(faster(cpu, |cost| cost.processor)),
        middle(faster(tcp, clock)),
        middle(faster(large, clock)),
    );
}

/// Least, median, most.
fn spread(figures: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    [0, figures.len() / 2, figures.len().saturating_sub(1)]
        .map(|at| figures.get(at).copied().unwrap_or(f64::NAN))
}
