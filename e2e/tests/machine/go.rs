//! u-root's client, played by a stand-in, with its files.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::client::{ended, fed};
use e2e::{out, u_root};

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("interop_go_client_runs_commands_with_its_files", go_client),
    ("interop_go_client_may_give_much_input", go_input),
];

/// What u-root's client sends of its own: where the files are to be seen.
fn fstab(directories: &[&str]) -> String {
    let line =
        |directory: &&str| format!("/tmp/cpu{directory} {directory} none defaults,bind 0 0\n");
    directories.iter().map(line).collect()
}

fn go_client(machine: &Machine) -> Result<()> {
    let key = out().join("cpu_rsa");
    let mounts = fstab(&["/lib", "/lib64", "/usr", "/bin", "/etc"]);
    let environment = [
        ("PATH", "/usr/bin:/bin"),
        ("PWD", "/"),
        ("USER", "glenda"),
        ("CPU_FSTAB", &mounts),
        ("LC_GLENDA_CPU_FSTAB", &mounts),
    ];
    let cpu = u_root::Cpu {
        port: machine.vm.port(),
        key: &key,
        root: Some("/".as_ref()),
        environment: &environment,
        terminal: None,
        input: b"",
        second_choice: false,
    };
    let run = |words: &[&str]| cpu.run(words);
    let script = "uname -n; echo it''s \"$0\"; echo ${CPUNONCE-none} ${CPU_FSTAB-none} \
                  ${LC_GLENDA_CPU_FSTAB-none}; grep ' /tmp/cpu ' /proc/mounts; exit 7";
    let ran = run(&["sh", "-c", script, "it's"])?;
    ensure!(ran.status == Some(7), "{ran:?}");
    ensure!(
        ran.stdout.starts_with("cpu\nits it's\nnone none none\n"),
        "{ran:?}"
    );
    ensure!(ran.stdout.contains("msize=65536"), "{ran:?}");
    ensure!(ran.connections == 1 && ran.nonce_was_right, "{ran:?}");
    let ran = run(&["sha256sum", "/usr/bin/python3"])?;
    let here = ended(Command::new("sha256sum").arg("/usr/bin/python3"))?;
    ensure!(ran.stdout.as_bytes() == here.stdout, "{ran:?}");

    // No port is open on the machine: nobody else can take the connection.
    let ran = run(&["cat", "/proc/net/tcp", "/proc/net/tcp6"])?;
    let port = format!(":{:04X} ", ran.port.context("no port")?);
    ensure!(
        ran.status == Some(0) && !ran.stdout.contains(&port),
        "{ran:?}"
    );

    // Its file server gives no file type in directory entries.
    let names = "import os; print(sorted((e.name, e.is_file(), e.is_dir(), e.is_symlink()) \
                 for e in os.scandir('.')))";
    let tree = machine.home.path().join("types");
    fs::create_dir_all(tree.join("directory"))?;
    fs::write(tree.join("file"), "")?;
    std::os::unix::fs::symlink("file", tree.join("link"))?;
    let script = format!(
        "cd /tmp/cpu{} && find . -type f && python3 -c \"{names}\"",
        tree.display()
    );
    let ran = run(&["sh", "-c", &script])?;
    let told = "./file\n[('directory', False, True, False), ('file', True, False, False), \
                ('link', True, False, True)]\n";
    ensure!(ran.stdout == told, "{ran:?}");

    let ran = run(&["no-such-command"])?;
    ensure!(ran.status == Some(127), "{ran:?}");

    let other = u_root::Cpu {
        second_choice: true,
        ..cpu
    };
    let ran = other.run(&["cat", "/etc/hostname"])?;
    let here = fs::read_to_string("/etc/hostname")?;
    ensure!(ran.stdout == here && ran.nonce_was_right, "{ran:?}");
    Ok(())
}

/// Input that nobody takes yet holds up no file, and all of it arrives.
fn go_input(machine: &Machine) -> Result<()> {
    let key = out().join("cpu_rsa");
    let mounts = fstab(&["/lib", "/lib64", "/usr", "/bin", "/etc"]);
    let environment = [
        ("PATH", "/usr/bin:/bin"),
        ("PWD", "/"),
        ("CPU_FSTAB", &mounts),
    ];
    let input: Vec<u8> = (0..16_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let cpu = u_root::Cpu {
        port: machine.vm.port(),
        key: &key,
        root: Some("/".as_ref()),
        environment: &environment,
        terminal: None,
        input: &input,
        second_choice: false,
    };
    // By then more is queued than the limit; the files that are read are larger than a window.
    let script = "sleep 5; sha256sum /usr/bin/python3 $(command -v bash git); sha256sum";
    let ran = cpu.run(&["sh", "-c", script])?;
    let here = fed(
        Command::new("sh").args(["-c", &script["sleep 5; ".len()..]]),
        &input,
    )?;
    ensure!(ran.stdout.as_bytes() == here.stdout, "{ran:?}");
    Ok(())
}
