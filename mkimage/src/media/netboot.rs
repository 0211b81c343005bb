//! Booting from the network: what is served, the iPXE script, and the configuration of dnsmasq, which
//! answers BIOS and UEFI clients alike. Pure.

use std::net::Ipv4Addr;
use std::path::Path;

/// How dnsmasq shares the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DhcpMode {
    /// Another server gives out the addresses of this subnet.
    Proxy(Ipv4Addr),
    /// dnsmasq gives out these, from the first to the last.
    Range(Ipv4Addr, Ipv4Addr),
}

/// The script for iPXE, whether it is in the card or came by PXE. With `initrd` and `command_line` for
/// kernels that do not have theirs inside.
pub(crate) fn script(initrd: bool, command_line: Option<&str>) -> String {
    let mut script =
        "#!ipxe\n# Boots the cpu appliance from where this script came from.\n".to_owned();
    if initrd {
        script.push_str("initrd cpuinitrd || goto failed\n");
    }
    script.push_str("kernel cpukernel");
    if initrd {
        // Under UEFI the kernel finds it by this name.
        script.push_str(" initrd=cpuinitrd");
    }
    if let Some(line) = command_line {
        script.push(' ');
        script.push_str(line);
    }
    script.push_str(
        " || goto failed\nboot || goto failed\n\n:failed\n\
         echo The cpu appliance cannot be loaded; trying again in 10 seconds\n\
         sleep 10\nreboot\n",
    );
    script
}

/// The configuration of dnsmasq. `directory` is absolute.
pub(crate) fn dnsmasq(
    dhcp: DhcpMode,
    directory: &Path,
    undionly: bool,
    interface: Option<&str>,
) -> String {
    let range = match dhcp {
        DhcpMode::Proxy(subnet) => format!(
            "# Another server gives out the addresses; this one only adds where to boot from.\n\
             dhcp-range={subnet},proxy\n"
        ),
        DhcpMode::Range(first, last) => format!(
            "# This is the only server that gives out addresses here.\n\
             dhcp-range={first},{last},1h\n"
        ),
    };
    let interface = interface.map_or_else(String::new, |name| {
        format!("# Nobody else's network.\ninterface={name}\nbind-interfaces\n\n")
    });
    let bios = if undionly {
        "dhcp-boot=tag:!ipxe,tag:bios,undionly.kpxe\n"
    } else {
        "# Cards without iPXE need undionly.kpxe (Debian's package ipxe) in the directory, and this:\n\
         #dhcp-boot=tag:!ipxe,tag:bios,undionly.kpxe\n"
    };
    let proxy_services = match (dhcp, undionly) {
        (DhcpMode::Range(..), _) => "",
        (DhcpMode::Proxy(_), true) => {
            "# What a proxy answers to cards that ask it directly.\n\
             pxe-service=tag:!ipxe,x86PC,\"cpu appliance\",undionly.kpxe\n\
             pxe-service=tag:!ipxe,X86-64_EFI,\"cpu appliance\",cpu.efi\n\
             pxe-service=tag:!ipxe,BC_EFI,\"cpu appliance\",cpu.efi\n"
        }
        (DhcpMode::Proxy(_), false) => {
            "# What a proxy answers to cards that ask it directly.\n\
             pxe-service=tag:!ipxe,X86-64_EFI,\"cpu appliance\",cpu.efi\n\
             pxe-service=tag:!ipxe,BC_EFI,\"cpu appliance\",cpu.efi\n"
        }
    };
    format!(
        "# Serves the cpu appliance: dnsmasq --no-daemon --conf-file=THIS-FILE, as root.\n\
         # Whoever is on this network can read what is served, the machine's host key too.\n\n\
         # No DNS.\nport=0\n\n\
         {interface}{range}\n\
         enable-tftp\ntftp-root={directory}\n\n\
         # iPXE, in the card or loaded before, runs the script.\n\
         dhcp-match=set:ipxe,175\n\
         dhcp-boot=tag:ipxe,cpu.ipxe\n\n\
         # A BIOS loads iPXE first.\n\
         dhcp-match=set:bios,option:client-arch,0\n\
         {bios}\n\
         # UEFI firmware of x86-64 (7, 9) and of ARM (11) starts the kernel itself.\n\
         dhcp-match=set:efi,option:client-arch,7\n\
         dhcp-match=set:efi,option:client-arch,9\n\
         dhcp-match=set:efi,option:client-arch,11\n\
         dhcp-boot=tag:!ipxe,tag:efi,cpu.efi\n\
         {proxy_services}",
        directory = directory.display(),
    )
}

/// The subnet of the interface with the default route, from the text of /proc/net/route: a line an
/// entry, with destination, gateway and mask as little-endian hexadecimal numbers.
pub(crate) fn default_subnet(routes: &str) -> Option<Ipv4Addr> {
    let rows: Vec<Vec<&str>> = routes
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect())
        .filter(|fields: &Vec<_>| fields.len() >= 8)
        .collect();
    let default = rows.iter().find(|row| row[1] == "00000000")?;
    let row = rows
        .iter()
        .find(|row| row[0] == default[0] && row[1] != "00000000" && row[2] == "00000000")?;
    let number = u32::from_str_radix(row[1], 16).ok()?;
    Some(Ipv4Addr::from(number.swap_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_loads_what_there_is() {
        assert!(script(false, None).contains("\nkernel cpukernel || goto failed\nboot"));
        let script = script(true, Some("quiet"));
        assert!(script.contains("\ninitrd cpuinitrd || goto failed\n"));
        assert!(script.contains("\nkernel cpukernel initrd=cpuinitrd quiet || "));
    }

    #[test]
    fn a_proxy_gives_out_no_addresses() {
        let subnet = Ipv4Addr::new(192, 168, 1, 0);
        let text = dnsmasq(DhcpMode::Proxy(subnet), Path::new("/srv/x"), true, None);
        assert!(text.contains("\ndhcp-range=192.168.1.0,proxy\n"), "{text}");
        assert!(text.contains("\ntftp-root=/srv/x\n"), "{text}");
        let last = Ipv4Addr::new(192, 168, 1, 9);
        let text = dnsmasq(
            DhcpMode::Range(subnet, last),
            Path::new("/x"),
            false,
            Some("eth1"),
        );
        assert!(
            text.contains("\ndhcp-range=192.168.1.0,192.168.1.9,1h\n"),
            "{text}"
        );
        assert!(
            text.contains("\ninterface=eth1\n") && !text.contains("\npxe-service"),
            "{text}"
        );
    }

    #[test]
    fn the_subnet_is_that_of_the_default_route() {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            eth0 00000000 0101A8C0 0003 0 0 0 00000000 0 0 0\n\
            docker0 000011AC 00000000 0001 0 0 0 0000FFFF 0 0 0\n\
            eth0 0001A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        assert_eq!(default_subnet(routes), Some(Ipv4Addr::new(192, 168, 1, 0)));
        assert_eq!(default_subnet("Iface\n"), None);
        assert_eq!(default_subnet("Iface\neth0 x\n"), None);
    }
}
