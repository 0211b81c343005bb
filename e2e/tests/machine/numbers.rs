//! Numbers by which programs know files and places: inode numbers, and offsets in directories.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::client::ended;

use crate::{Machine, Test};

pub(crate) const TESTS: &[Test] = &[
    ("numbers_fit_programs_of_32_bits", narrow),
    ("numbers_of_the_home_are_those_of_here", of_home),
];

/// Mounting needs root here.
pub(crate) const OF_ROOT: &[Test] = &[(
    "numbers_of_files_on_several_devices_are_their_own_in_every_session",
    devices,
)];

/// A static program of 32 bits: see its head.
fn narrow(machine: &Machine) -> Result<()> {
    let program = machine.home.path().join("narrow");
    let mut compiler = Command::new("gcc");
    compiler.args(["-m32", "-static", "-nostdlib", "-fno-pie", "-no-pie", "-O1"]);
    compiler.args(["-fno-stack-protector", "-x", "c", "-o"]);
    compiler.arg(&program).arg("-");
    let output = e2e::client::fed(&mut compiler, include_bytes!("narrow.c"))?;
    ensure!(output.status.success(), "{output:?}");

    let many = machine.home.path().join("many");
    fs::create_dir(&many)?;
    for n in 0..500 {
        fs::write(many.join(format!("file-{n}")), "")?;
    }
    for directory in [many.as_path(), Path::new("/usr/bin"), Path::new("/etc")] {
        let words = [&program, directory].map(|path| path.display().to_string());
        let words = words.each_ref().map(String::as_str);
        let output = machine.client.run(&words)?;
        let entries = fs::read_dir(directory)?.count() + 2;
        ensure!(
            output.stdout == format!("{entries}\n").as_bytes(),
            "{}: {output:?}",
            directory.display()
        );
    }
    Ok(())
}

/// What an index was refreshed by here is not read again there, nor the other way.
fn of_home(machine: &Machine) -> Result<()> {
    let file = machine.home.path().join("file");
    fs::write(&file, "")?;
    let there = machine
        .client
        .sh_ok("stat -c %i ~/file; find ~ -name file -printf '%i\\n'")?;
    let here = file.metadata()?.ino();
    ensure!(
        there == format!("{here}\n{here}\n"),
        "here {here}, there {there}"
    );
    Ok(())
}

/// Three file systems, each with a file that has one of its first inode numbers; the last session mounts them anew, in
/// another order.
fn devices(machine: &Machine) -> Result<()> {
    const LOOK: &str = "import os\n\
        for name in ['file', 'one/file', 'two/file', 'three/in/file']:\n\
        \x20listed = [e.inode() for e in os.scandir(os.path.dirname(name) or '.') if e.name == 'file']\n\
        \x20print(os.stat(name).st_ino, listed[0])";
    let home = machine.home.path();
    fs::write(home.join("file"), "")?;
    for name in ["one", "two", "three"] {
        fs::create_dir(home.join(name))?;
    }
    let mut seen: HashMap<Vec<u64>, usize> = HashMap::new();
    for order in ["one two three", "one two three", "three two one"] {
        let mount = format!(
            "for name in {order}; do mount -t tmpfs none $name && mkdir $name/in && touch $name/in/file $name/file || exit; done\n\
             exec \"$@\""
        );
        let client = machine.client.command(&[], &["python3", "-c", LOOK]);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &mount, "sh"]);
        command.arg(client.get_program()).args(client.get_args());
        command.current_dir(home);
        for (name, value) in client.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let output = ended(&mut command)?;
        ensure!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout)?;
        let mut numbers = Vec::new();
        for line in text.lines() {
            let (stat, listed) = line.split_once(' ').context("no two numbers")?;
            ensure!(stat == listed, "{text}");
            numbers.push(stat.parse()?);
        }
        ensure!(
            numbers.first() == Some(&home.join("file").metadata()?.ino()),
            "{text}"
        );
        ensure!(
            numbers.iter().all(|&number: &u64| number < 1 << 32),
            "{text}"
        );
        let mut distinct = numbers.clone();
        distinct.sort_unstable();
        distinct.dedup();
        ensure!(distinct.len() == 4, "{text}");
        *seen.entry(numbers).or_default() += 1;
    }
    ensure!(seen.len() == 1, "{seen:?}");
    Ok(())
}
