//! Machines on a network: booted from it, and many at once.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::image::OVMF;
use e2e::lan::{Card, Lan, RANGE};
use e2e::vm::Vm;
use e2e::{out, root};

use crate::{Test, make};

pub(crate) const TESTS: &[Test] = &[
    ("a_bios_client_boots_from_the_network", bios),
    ("a_uefi_client_boots_from_the_network", uefi),
    ("a_uefi_client_with_ipxe_boots_from_the_network", uefi_ipxe),
    ("one_command_runs_on_three_machines", fleet),
    (
        "a_network_that_tags_frames_with_priorities_serves_a_machine",
        tagged,
    ),
    ("a_machine_serves_on_a_vlan", vlan),
];

fn serving(lan: &mut Lan) -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    // dnsmasq reads the files as another user.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), readable)?;
    make(
        "netboot",
        directory.path(),
        &["--range", RANGE, "--interface", "br0"],
    )?;
    lan.serve(&directory.path().join("netboot/dnsmasq.conf"))?;
    Ok(directory)
}

/// The client on this network, with the machine's key.
fn cpu(lan: &Lan, words: &[&str]) -> Command {
    let mut command = lan.command(out().join("cpu"));
    command
        .arg("-key")
        .arg(out().join("cpu_rsa"))
        .args(words)
        .env("PWD", "/")
        .current_dir("/");
    command
}

fn answers(lan: &Lan, vm: &Vm) -> Result<()> {
    let output = cpu(lan, &[&vm.address()?, "uname", "-n"]).output()?;
    ensure!(
        output.status.success() && output.stdout == b"cpu\n",
        "{output:?}"
    );
    Ok(())
}

fn bios() -> Result<()> {
    let mut lan = Lan::new()?;
    let _directory = serving(&mut lan)?;
    let vm = lan.boot(Card::Ipxe, &["-boot", "n"])?;
    ensure!(vm.console().contains("cpu.ipxe... ok"), "{}", vm.console());
    answers(&lan, &vm)
}

fn uefi() -> Result<()> {
    let mut lan = Lan::new()?;
    let _directory = serving(&mut lan)?;
    let vm = lan.boot(Card::Plain, &["-boot", "n", "-drive", OVMF])?;
    ensure!(
        vm.console().contains("NBP filename is cpu.efi"),
        "{}",
        vm.console()
    );
    answers(&lan, &vm)
}

fn uefi_ipxe() -> Result<()> {
    let mut lan = Lan::new()?;
    let _directory = serving(&mut lan)?;
    let vm = lan.boot(Card::Ipxe, &["-boot", "n", "-drive", OVMF])?;
    let console = vm.console();
    ensure!(
        console.contains("BdsDxe: ") && console.contains("cpu.ipxe... ok"),
        "{console}"
    );
    answers(&lan, &vm)
}

/// QEMU's arguments for the kernel that make has built, and for an initramfs that lies beside it, as in qemu/run.
fn machine() -> Vec<String> {
    let (kernel, initrd) = (out().join("cpukernel"), out().join("cpuinitrd"));
    let mut arguments = vec!["-kernel".to_owned(), kernel.display().to_string()];
    if initrd.exists() {
        arguments.extend(["-initrd".to_owned(), initrd.display().to_string()]);
    }
    arguments
}

/// A card that filters VLANs, as virtio's does, drops such frames for a kernel that knows of no VLANs.
fn tagged() -> Result<()> {
    let mut lan = Lan::new()?;
    let _directory = serving(&mut lan)?;
    let vm = lan.boot(Card::Tagged, &machine())?;
    answers(&lan, &vm)
}

/// The cable has nothing but the VLAN.
fn vlan() -> Result<()> {
    let mut lan = Lan::new()?;
    let _directory = serving(&mut lan)?;
    let append = "vlan=eth0.5:eth0 vlan=eth0.x:eth0 ip=eth0.5:dhcp";
    let arguments = [machine(), vec!["-append".to_owned(), append.to_owned()]].concat();
    let vm = lan.boot(Card::Vlan(5), &arguments)?;
    let console = vm.console();
    let refused = "vlan=eth0.x:eth0 on the kernel's command line is ignored: ";
    ensure!(console.contains(refused), "{console}");
    let line = vm.announcement().context("nothing was announced")?;
    let address = line
        .split_once("eth0.5 ")
        .and_then(|(_, rest)| rest.split(' ').next());
    let address = address.with_context(|| line.clone())?;
    let output = cpu(&lan, &[address, "uname", "-n"]).output()?;
    ensure!(
        output.status.success() && output.stdout == b"cpu\n",
        "{output:?}"
    );
    Ok(())
}

/// As docs/fleet.md has it.
fn fleet() -> Result<()> {
    let mut lan = Lan::new()?;
    let _directory = serving(&mut lan)?;
    let machines: Vec<Vm> = (0..3)
        .map(|_| lan.boot(Card::Plain, &machine()))
        .collect::<Result<_>>()?;
    let addresses: Vec<String> = machines.iter().map(Vm::address).collect::<Result<_>>()?;
    let hosts = addresses.join(",");
    let (client, key) = (out().join("cpu"), out().join("cpu_rsa"));
    let client = format!("{} -key {}", client.display(), key.display());
    for line in [
        // What runs here instead prints another name.
        format!("pdsh -R exec -w {hosts} {client} %h sh -c 'cd /; uname -n'"),
        format!("clush -R exec -w {hosts} {client} %h sh -c \"'cd /; uname -n'\""),
        format!("clush -R exec -w {hosts} {client} %h uname -n"),
        format!(
            "parallel -q --tag {client} {{}} sh -c 'cd /; uname -n' ::: {}",
            addresses.join(" ")
        ),
    ] {
        let output = lan
            .command("sh")
            .args(["-c", &line])
            .env("PWD", "/")
            .current_dir("/")
            .output()?;
        ensure!(output.status.success(), "{line}: {output:?}");
        let stdout = String::from_utf8(output.stdout)?;
        for address in &addresses {
            let answer = stdout
                .lines()
                .find(|answer| answer.starts_with(address.as_str()))
                .with_context(|| format!("{line}: nothing from {address} in {stdout}"))?;
            ensure!(answer.ends_with("cpu"), "{line}: {answer}");
        }
    }
    with_ansible(&lan, &addresses)
}

/// The inventory and the play of docs/fleet.md; what a machine has no chip for, it makes up.
fn with_ansible(lan: &Lan, addresses: &[String]) -> Result<()> {
    // Below the directory that the machines can reach.
    let directory = tempfile::tempdir_in(root().join("target"))?;
    let inventory = format!(
        "[boards]\n{}\n\n[boards:vars]\nansible_connection=local\n",
        addresses.join("\n")
    );
    std::fs::write(directory.path().join("inventory"), inventory)?;
    let guide = std::fs::read_to_string(root().join("docs/fleet.md"))?;
    let (_, play) = guide.split_once("And a play:\n").context("no play")?;
    let play: Vec<&str> = play
        .lines()
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with("    "))
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect();
    let (client, key) = (out().join("cpu"), out().join("cpu_rsa"));
    let client = format!("command: {} -key {} ", client.display(), key.display());
    let play = play
        .join("\n")
        .replacen("command: cpu ", &client, 1)
        .replacen("flashrom -r ", "cp /proc/cmdline ", 1);
    std::fs::write(directory.path().join("play.yml"), &play)?;
    let output = lan
        .command("ansible-playbook")
        .args(["-i", "inventory", "play.yml"])
        .current_dir(directory.path())
        .env("PWD", directory.path())
        .output()?;
    ensure!(output.status.success(), "{play}\n{output:?}");
    for address in addresses {
        let rom = directory.path().join(format!("{address}.rom"));
        let rom = std::fs::read_to_string(&rom).with_context(|| format!("{output:?}"))?;
        ensure!(rom.contains("console=ttyS0"), "{rom}");
    }
    Ok(())
}
