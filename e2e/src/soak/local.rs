//! What a server on this computer has to outlive, and how long others wait meanwhile.

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Table, random_below, timed};
use crate::daemon::{Daemon, keygen};
use crate::flood::{self, Flood};
use crate::user::{User, works};
use crate::{out, wait_until};

const FLOODED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// What a login from the strangers' address, or beside a flood of bytes, may take longer than usual.
const DELAY_OF_FLOODED: Duration = Duration::from_secs(5);
/// How long a killed session may take to be gone: two seconds for its commands, and as much as a busy computer needs.
const GONE: Duration = Duration::from_secs(10);
/// How long a client may be silent: several times [`ALIVE`], and what its session needs to end.
const SILENCE: Duration = Duration::from_mins(1);
const ALIVE: &str = "-alive=5";

/// How long the processes sleep, by which they are found.
const MARK: &str = "86424.75";

/// One thing after the other.
pub(super) const SCENARIOS: &[fn(&SoakServer, &mut Table)] =
    &[half_open, each_second, killed, floods, frozen, two_users];

/// A cpud with two users, each with a key of his own.
pub struct SoakServer {
    daemon: Daemon,
    users: [User; 2],
    /// What a login may take longer than usual beside strangers of another address.
    delay: Duration,
}

impl SoakServer {
    /// Starts it. Beside strangers of another address a login may take so much longer than usual.
    pub fn start(delay: Duration) -> Result<Self> {
        let users = [User::new()?, User::new()?];
        std::fs::remove_file(users[1].key())?;
        keygen(&users[1].key(), &["-t", "ed25519"], "")?;
        let keys = users[0].ssh().join("keys");
        let mut both = std::fs::read_to_string(out().join("cpu_rsa.pub"))?;
        both += &std::fs::read_to_string(users[1].key().with_extension("pub"))?;
        std::fs::write(&keys, both)?;
        let daemon = Daemon::cpud_for_with(&keys, Some(ALIVE))?;
        for user in &users {
            user.configure(&format!(
                "Host board\nHostName 127.0.0.1\nPort {}\nIdentityFile ~/.ssh/own\n",
                daemon.port
            ))?;
            works(&user.run(&["board", "true"])?)?;
        }
        Ok(Self {
            daemon,
            users,
            delay,
        })
    }

    /// The server's own descriptors, and its memory in KiB.
    pub fn resources(&self) -> Result<(u64, u64)> {
        let proc = format!("/proc/{}", self.daemon.pid());
        let status = std::fs::read_to_string(format!("{proc}/status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|memory| memory.split_whitespace().next()?.parse().ok());
        let descriptors = std::fs::read_dir(format!("{proc}/fd"))?.count();
        Ok((descriptors.try_into()?, memory.context("no VmRSS")?))
    }

    fn log_in(&self, from: Ipv4Addr) -> Result<Duration> {
        self.users[0].log_in_from(self.daemon.port, from)
    }

    /// Starts a command that has a process in the background, which ignores SIGHUP, and writes without end; returns when it runs.
    fn run(&self) -> Result<Child> {
        let script =
            format!("trap '' HUP; (setsid sleep {MARK} &); while :; do cat /usr/bin/env; done");
        let mut command = self.users[0].cpu(&["-q", "board", "sh", "-c", &script]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let client = command.spawn()?;
        wait_until("the command runs", SILENCE, || {
            Ok(crate::is_running(MARK)?.then_some(()))
        })?;
        Ok(client)
    }

    /// The processes below the server whose role this is.
    fn processes(&self, role: &str) -> Result<Vec<Pid>> {
        let mut found = Vec::new();
        let mut parents = vec![self.daemon.pid()];
        while let Some(parent) = parents.pop() {
            let file = format!("/proc/{parent}/task/{parent}/children");
            let children = std::fs::read_to_string(file).unwrap_or_default();
            for child in children.split_whitespace() {
                let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
                let child: u32 = child.parse()?;
                if line.split(|byte| *byte == 0).nth(1) == Some(role.as_bytes()) {
                    found.push(Pid::from_raw(i32::try_from(child)?));
                }
                parents.push(child);
            }
        }
        Ok(found)
    }

    /// Waits until all that was started has gone.
    fn is_idle(&self) -> Result<()> {
        wait_until("everything is gone", SILENCE, || {
            let running = crate::is_running(MARK)?;
            let busy = running || !self.processes("session")?.is_empty();
            Ok((!busy).then_some(()))
        })
    }

    /// How long a login takes now, when nothing else happens here.
    fn usual(&self) -> Duration {
        self.log_in(ELSEWHERE).unwrap_or_default()
    }

    /// Logins from both addresses, which usually take so long.
    fn logins(&self, table: &mut Table, usual: Duration, rows: [&'static str; 2]) {
        for (what, from, delay) in [
            (rows[0], ELSEWHERE, self.delay),
            (rows[1], FLOODED, DELAY_OF_FLOODED),
        ] {
            for _ in 0..3 {
                table.add(what, usual + delay, self.log_in(from));
            }
        }
    }
}

/// Two thousand connections that say nothing, or only who they are, and come again when they are closed.
fn half_open(server: &SoakServer, table: &mut Table) {
    for hello in [flood::NOTHING, flood::NAME] {
        let usual = server.usual();
        let flood = Flood::again(server.daemon.port, FLOODED, hello, 2000).and_then(|flood| {
            wait_until("2000 connections", Duration::from_mins(1), || {
                Ok((flood.made() > 2000).then_some(()))
            })?;
            Ok(flood)
        });
        match flood {
            Ok(_flood) => server.logins(
                table,
                usual,
                [
                    "2000 strangers: login from elsewhere",
                    "2000 strangers: login from their address",
                ],
            ),
            Err(error) => table.add("2000 strangers", Duration::ZERO, Err(error)),
        }
    }
}

fn each_second(server: &SoakServer, table: &mut Table) {
    let usual = server.usual();
    let flood = Flood::each_second(server.daemon.port, FLOODED, flood::NAME, 200);
    let flood = flood.and_then(|flood| {
        wait_until("400 connections", Duration::from_mins(1), || {
            Ok((flood.made() > 400).then_some(()))
        })?;
        Ok(flood)
    });
    match flood {
        Ok(_flood) => server.logins(
            table,
            usual,
            [
                "200 strangers a second: login from elsewhere",
                "200 strangers a second: login from their address",
            ],
        ),
        Err(error) => table.add("200 strangers a second", Duration::ZERO, Err(error)),
    }
}

/// Clients, connections and sessions that are killed at random moments.
fn killed(server: &SoakServer, table: &mut Table) {
    for victim in ["client", "connection", "session"] {
        for _ in 0..3 {
            let took = kill_one(server, victim);
            table.add(
                "client, connection or session killed: all is gone",
                GONE,
                took,
            );
        }
    }
}

fn kill_one(server: &SoakServer, victim: &str) -> Result<Duration> {
    let mut client = server.run()?;
    std::thread::sleep(random_below(Duration::from_secs(1)));
    let took = timed(|| {
        match victim {
            "client" => client.kill()?,
            role => {
                let processes = server.processes(role)?;
                ensure!(!processes.is_empty(), "there is no {role}");
                for process in processes {
                    // It may just have ended.
                    let _ = kill(process, Signal::SIGKILL);
                }
            }
        }
        server.is_idle()
    });
    client.kill()?;
    client.wait()?;
    took
}

/// Input that no command reads, and output that no client reads.
fn floods(server: &SoakServer, table: &mut Table) {
    let usual = server.usual();
    let start = |command: &str, input: &str| -> Result<Child> {
        let zero = std::fs::File::open(input)?;
        let mut client = server.users[0].cpu(&["board", "sh", "-c", command]);
        Ok(client.stdin(zero).stdout(Stdio::piped()).spawn()?)
    };
    let clients = start("sleep 1000", "/dev/zero")
        .and_then(|deaf| Ok([deaf, start("cat /dev/zero", "/dev/null")?]));
    match clients {
        Ok(mut clients) => {
            std::thread::sleep(Duration::from_secs(2));
            for _ in 0..3 {
                let what = "input and output that nobody reads: another's login";
                table.add(what, usual + DELAY_OF_FLOODED, server.log_in(ELSEWHERE));
            }
            for client in &mut clients {
                let _ = client.kill();
                let _ = client.wait();
            }
            let gone = timed(|| server.is_idle());
            table.add(
                "input and output that nobody reads: all is gone",
                GONE,
                gone,
            );
        }
        Err(error) => table.add("floods", Duration::ZERO, Err(error)),
    }
}

/// A client that stops, as on a computer that is suspended.
fn frozen(server: &SoakServer, table: &mut Table) {
    let usual = server.usual();
    let took = server.run().and_then(|mut client| {
        std::thread::sleep(random_below(Duration::from_secs(1)));
        let pid = Pid::from_raw(i32::try_from(client.id())?);
        kill(pid, Signal::SIGSTOP)?;
        let what = "a frozen client: another's login";
        table.add(what, usual + DELAY_OF_FLOODED, server.log_in(ELSEWHERE));
        let took = timed(|| server.is_idle());
        client.kill()?;
        client.wait()?;
        took
    });
    table.add("a frozen client: its session is ended", SILENCE, took);
}

/// Two users at once, each of whom gets his own bytes back.
fn two_users(server: &SoakServer, table: &mut Table) {
    let echo = |user: &User, byte: u8| {
        timed(|| {
            let input = vec![byte; 1 << 20];
            let mut command: Command = user.cpu(&["board", "cat"]);
            let output = crate::client::fed(&mut command, &input)?;
            ensure!(output.status.success(), "{:?}", output.status);
            ensure!(output.stdout == input, "other bytes");
            Ok(())
        })
    };
    let echo = &echo;
    let took: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let user = &server.users[number % 2];
                let byte = b'a' + u8::try_from(number).unwrap_or(0);
                scope.spawn(move || echo(user, byte))
            })
            .collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined
            .map(|took| took.ok().context("a thread panicked").flatten())
            .collect()
    });
    for took in took {
        table.add("two users, 8 sessions at once: 1 MiB each way", GONE, took);
    }
}
