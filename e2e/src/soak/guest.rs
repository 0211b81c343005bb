//! A machine with little memory, whose sessions take all they can get.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Table, random_below, timed};
use crate::client::{Client, Home};
use crate::vm::Vm;
use crate::{out, root, wait_until};

/// Of a login on an emulated machine that does nothing else; the promise for hardware is a tenth of this.
pub const LOGIN: Duration = Duration::from_secs(100);

/// Prints which of these places took less than all memory, each filled to the end.
pub const FILL: &str = "for place in /tmp /dev/shm /run /tmp/local; do
    cat /dev/zero 2>why >$place/fill; grep -o 'No space left' why; rm $place/fill
done";
/// Fills the session's /tmp, and ends with its input.
pub const FILLER: &str = "cat /dev/zero >/tmp/fill; cat";
/// Takes all memory: tail(1) keeps all that it reads until a line ends.
pub const EATERS: &str = "for i in 1 2 3 4 5 6 7 8; do tail /dev/zero & done; wait; cat";
/// Forks as fast as it can.
pub const BOMB: &str = "bomb() { bomb | bomb & }; bomb; cat";

/// How long the processes sleep, by which they are found.
const MARK: &str = "86424.5";
/// Reads files without end, and leaves a process in the background that ignores SIGHUP.
const READER: &str =
    "trap '' HUP; (setsid sleep 86424.5 &); while :; do cat /usr/bin/[a-f]* >/dev/null; done";
/// How long a killed session may take to be gone there.
const GONE: Duration = Duration::from_mins(1);

/// How long they may do so before somebody logs in.
const TIME: Duration = Duration::from_secs(10);

/// The machine, and somebody who does nothing on it.
pub struct Guest {
    vm: Vm,
    _home: Home,
    client: Client,
    bystander: Child,
}

impl Guest {
    /// Boots one with so many MiB.
    pub fn boot(mebibytes: u32) -> Result<Self> {
        let mut script = Command::new(root().join("qemu/run"));
        script
            .env("KERNEL", out().join("cpukernel"))
            .env("MEMORY", format!("{mebibytes}M"));
        let vm = Vm::start(script)?;
        let home = Home::new()?;
        let client = Client::new(vm.port(), &home);
        let bystander = start(&client, "cat; exit 7")?;
        Ok(Self {
            vm,
            _home: home,
            client,
            bystander,
        })
    }

    /// Its console, and a client for it.
    pub fn parts(&self) -> (&Vm, &Client) {
        (&self.vm, &self.client)
    }

    /// Starts a session that runs a script.
    pub fn start(&self, script: &str) -> Result<Child> {
        start(&self.client, script)
    }

    /// How long a login takes. Its command is not preferred to others when memory is short.
    pub fn log_in(&self) -> Result<Duration> {
        timed(|| {
            let output = self.client.sh("cat /proc/self/oom_score_adj")?;
            ensure!(
                output.status.success() && output.stdout == b"0\n",
                "{output:?}"
            );
            Ok(())
        })
    }

    /// Nobody but the greedy has suffered.
    pub fn end(mut self) -> Result<()> {
        ensure!(
            self.bystander.try_wait()?.is_none(),
            "the bystander has ended"
        );
        drop(self.bystander.stdin.take());
        ensure!(self.bystander.wait()?.code() == Some(7));
        let console = self.vm.console();
        ensure!(
            !console.contains("panic") && !console.contains("(cpud)"),
            "{console}"
        );
        Ok(())
    }

    /// Kills a client at a random moment while it serves files.
    fn kill_reader(&self) -> Result<Duration> {
        let is_running = || -> Result<bool> {
            // Processes may end meanwhile.
            let all = self
                .client
                .sh_ok("cat /proc/[0-9]*/cmdline 2>/dev/null; :")?;
            Ok(all.contains(&format!("sleep\0{MARK}")))
        };
        let mut reader = self.start(READER)?;
        wait_until("files are read", LOGIN, || Ok(is_running()?.then_some(())))?;
        std::thread::sleep(random_below(Duration::from_secs(2)));
        timed(|| {
            hang_up(&mut reader)?;
            wait_until("everything is gone", LOGIN, || {
                Ok((!is_running()?).then_some(()))
            })
        })
    }

    pub(super) fn suffer(&self, table: &mut Table) {
        for _ in 0..3 {
            let what = "small guest: client killed while it serves files";
            table.add(what, GONE, self.kill_reader());
        }
        for (what, script) in [
            ("small guest: login while /tmp is filled", FILLER),
            ("small guest: login while memory is eaten", EATERS),
            ("small guest: login during a fork bomb", BOMB),
        ] {
            let took = self.start(script).and_then(|mut greedy| {
                std::thread::sleep(TIME);
                let took = self.log_in();
                hang_up(&mut greedy)?;
                took
            });
            table.add(what, LOGIN, took);
            table.add("small guest: login after that", LOGIN, self.log_in());
        }
    }
}

fn start(client: &Client, script: &str) -> Result<Child> {
    let mut command = client.command(&["-q"], &["sh", "-c", script]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command.spawn()?)
}

/// Kills a client without a word.
pub fn hang_up(client: &mut Child) -> Result<()> {
    client.kill()?;
    client.wait()?;
    Ok(())
}
