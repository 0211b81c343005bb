//! `mkimage netboot`.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::CommonOptions;
use super::prepare::PrepareArgs;
use crate::kernel::image;
use crate::media::netboot::{self, DhcpMode};
use crate::media::{boot_files, inputs};
use crate::plan::Product;
use crate::progress::Progress;
use crate::publish::{self, PUBLIC};

/// iPXE for cards that have only PXE, as distributions install it.
const UNDIONLY: [&str; 2] = [
    "/usr/lib/ipxe/undionly.kpxe",
    "/usr/share/ipxe/undionly.kpxe",
];

/// Make a directory that boots machines from the network, under BIOS and UEFI
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  mkimage netboot -o out/x86_64
  dnsmasq --no-daemon --conf-file=out/x86_64/netboot/dnsmasq.conf     (as root)

Makes DIR/netboot: cpukernel (and cpuinitrd where the kernel has one), cpu.ipxe for iPXE, cpu.efi for
UEFI firmware, dnsmasq.conf, and undionly.kpxe where Debian's package ipxe is installed. Without
--subnet or --range the network is the one of this machine's default route, where another server gives
out the addresses.")]
pub(crate) struct NetbootArgs {
    #[command(flatten)]
    common: CommonOptions,

    /// The kernel [default: DIR/cpukernel]
    #[arg(long, value_name = "FILE", conflicts_with = "kernel_from")]
    kernel: Option<PathBuf>,

    #[command(flatten)]
    prepare: PrepareArgs,

    /// Boot on this network, whose addresses another server gives out
    #[arg(long, value_name = "ADDRESS", conflicts_with = "range")]
    subnet: Option<Ipv4Addr>,

    /// Give out these addresses; only on a network that has no other DHCP server
    #[arg(long, value_name = "FIRST,LAST", value_parser = parse_range)]
    range: Option<(Ipv4Addr, Ipv4Addr)>,

    /// Answer on this interface of the server only
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

impl NetbootArgs {
    pub(crate) fn run(&self, progress: Progress) -> Result<()> {
        let started = Instant::now();
        let common = &self.common;
        let needed = match &self.kernel {
            Some(_) => &[][..],
            None => &[Product::Kernel],
        };
        if !self.prepare.run(needed, common, progress)? {
            return Ok(());
        }
        let _lock = common.lock(progress)?;
        let path = common.given_or(self.kernel.as_ref(), "cpukernel");
        let boot = inputs::read_boot(&path, common.arch, progress)?;
        image::header_for(&boot.kernel, common.arch)
            .with_context(|| format!("cannot serve {}", path.display()))?;
        let dhcp = match (self.range, self.subnet) {
            (Some((first, last)), _) => DhcpMode::Range(first, last),
            (None, Some(subnet)) => DhcpMode::Proxy(subnet),
            (None, None) => {
                let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
                let subnet = netboot::default_subnet(&routes)
                    .context("this machine has no default route: give --subnet or --range")?;
                DhcpMode::Proxy(subnet)
            }
        };
        let directory = common.path("netboot");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let absolute = fs::canonicalize(&directory)
            .with_context(|| format!("cannot find {}", directory.display()))?;
        let undionly = UNDIONLY.iter().find_map(|path| fs::read(path).ok());
        let config = netboot::dnsmasq(
            dhcp,
            &absolute,
            undionly.is_some(),
            self.interface.as_deref(),
        );
        let script = netboot::script(boot.initrd.is_some(), boot.command_line.as_deref());
        let efi = boot_files::efi_program(common.arch, &boot)
            .with_context(|| format!("cannot serve {}", path.display()))?;
        // dnsmasq reads the files as nobody, so all of them are readable by everybody, which is said.
        let all = [
            ("cpukernel", Some(boot.kernel)),
            ("cpuinitrd", boot.initrd),
            ("cpu.efi", Some(efi)),
            ("cpu.ipxe", Some(script.into_bytes())),
            ("undionly.kpxe", undionly),
            ("dnsmasq.conf", Some(config.into_bytes())),
        ];
        let mut total = 0;
        for (name, bytes) in all {
            let path = directory.join(name);
            match bytes {
                Some(bytes) => {
                    total += bytes.len();
                    publish::replace(&path, PUBLIC, &bytes)?;
                }
                None => publish::remove(&path)?,
            }
        }
        progress.made(&directory, total, started);
        progress.say(format!(
            "Whoever is on the network can read what is served, the machine's host key too. Next, as root:\n  \
             dnsmasq --no-daemon --conf-file={}",
            directory.join("dnsmasq.conf").display()
        ));
        Ok(())
    }
}

/// `192.168.7.10,192.168.7.99`
fn parse_range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    text.split_once(',')
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))
        .filter(|(first, last)| first <= last)
        .ok_or_else(|| "two addresses, as in 192.168.7.10,192.168.7.99".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn a_range_is_two_addresses_in_order() {
        assert!(parse_range("10.0.0.5,10.0.0.5").is_ok());
        for text in ["", "10.0.0.5", "10.0.0.6,10.0.0.5", "10.0.0.5,x", "1,2,3"] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }
}
