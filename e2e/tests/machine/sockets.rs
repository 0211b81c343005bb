//! Sessions with files through unix and vsock sockets, with a second cpud on the machine.

use std::fs;

use anyhow::{Result, ensure};
use e2e::out;
use e2e::user::fails;

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("ssh_over_a_unix_socket_with_files", unix_socket_with_files),
    ("ssh_over_vsock_with_files", vsock),
];

/// A second cpud and a client on the machine, which has vsock with a loopback and 9P; this one need have neither.
/// Nothing is there but cpud: what it runs and reads are the client's files, which are this machine's.
fn on_the_machine(machine: &Machine, net: &str, port: &str, absent: &str) -> Result<()> {
    let out = format!("/tmp/cpu{}", out().canonicalize()?.display());
    let cpu = format!("{out}/cpu -net {net} -key {out}/cpu_rsa");
    let file = machine.home.path().join(net);
    fs::write(&file, format!("through {net}\n"))?;
    let file = file.display();
    let script = format!(
        "cd {out} && ./cpud -net {net} -port {port} -pk cpu_rsa.pub -hk ssh_host_ed25519_key & \
         server=$!; for i in 1 2 3 4 5 6 7 8 9 10; do \
         {cpu} -sp {port} -9p=false local uname -n && break; sleep 1; done 2>/tmp/tries; \
         {cpu} -sp {port} -root /tmp/cpu local sh -c 'cat {file}; echo back >{file}'; \
         kill $server; cat /tmp/tries >&2"
    );
    // The login's key is hidden by default, but here a second login inside the session uses it.
    let key = e2e::out()
        .join("cpu_rsa")
        .canonicalize()?
        .display()
        .to_string();
    let pin = format!("{key}.hostkey");
    let sh = |script: &str| {
        let flags = ["-show", &key, "-show", &pin];
        let command = machine.client.command(&flags, &["sh", "-c", script]);
        machine.client.output(command, b"")
    };
    let shown = sh(&script)?;
    let expected = format!("cpu\nthrough {net}\n");
    ensure!(shown.stdout == expected.as_bytes(), "{shown:?}");
    ensure!(fs::read_to_string(machine.home.path().join(net))? == "back\n");
    let absent = format!("{cpu} -sp {absent} -9p=false local true");
    let output = sh(&absent)?;
    fails(&output, &["cannot connect to "])
}

fn unix_socket_with_files(machine: &Machine) -> Result<()> {
    on_the_machine(machine, "unix", "/tmp/socket", "/tmp/no-socket")
}

fn vsock(machine: &Machine) -> Result<()> {
    on_the_machine(machine, "vsock", "7010", "7011")
}
