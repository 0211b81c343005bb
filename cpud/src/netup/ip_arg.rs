//! `ip=` of the kernel's command line, Documentation/admin-guide/nfs/nfsroot.rst:
//!
//! ```text
//! ip=<client>:<server>:<gateway>:<netmask>:<hostname>:<device>:<autoconf>:<dns0>:<dns1>:<ntp0>
//! ip=<autoconf>            off | none | on | any | dhcp | both | bootp | rarp
//! ip=<device>              also with :<autoconf>, as dracut reads it
//! ```
//!
//! Fields may be empty, and fields at the end may be left out. A link gets the client address if there is one, else
//! an address by DHCP unless `<autoconf>` says off. With both a client address and `dhcp`, it gets one by DHCP, and the
//! client address only while no server answers. The addresses of the boot server and the time server are not used.
//! There may be several arguments, for several devices. A link without DHCP has no DHCPv6 either.

use std::net::Ipv4Addr;

use super::dhcp::network::class_prefix;
use super::dhcp::packet::prefix_of;

/// One `ip=` parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IpArg {
    /// The link that it is for; none for all links.
    pub(super) device: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) method: Method,
}

/// How a link gets its IPv4 address, and whether it uses DHCPv6, which it does with DHCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Method {
    Off,
    Dhcp {
        /// What to use while no server answers.
        fallback: Option<StaticAddress>,
    },
    Static(StaticAddress),
}

/// An address that the command line gives, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StaticAddress {
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) dns: Vec<Ipv4Addr>,
}

const DHCP: Method = Method::Dhcp { fallback: None };

/// Why an `ip=` parameter is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("{field} {value:?} is not an IPv4 address")]
    Address { field: &'static str, value: String },
    #[error(
        "netmask {0:?} is neither a mask such as 255.255.255.0 nor a prefix length from 0 to 32"
    )]
    Netmask(String),
    #[error("autoconf {0:?} is none of off, none, on, any, dhcp, both, bootp, rarp")]
    Autoconf(String),
    #[error("device {0:?} is not a valid name of a network interface")]
    Device(String),
    #[error("it has {0} fields, and at most 10 are allowed")]
    TooMany(usize),
}

/// How a link is configured: by the last argument that names it, else by the last that names no link. Without either it
/// is left alone, but with no arguments at all it uses DHCP.
pub(super) fn for_link<'a>(args: &'a [IpArg], link: &str) -> &'a Method {
    let named = args.iter().rfind(|arg| arg.device.as_deref() == Some(link));
    let any = || args.iter().rfind(|arg| arg.device.is_none());
    match (named.or_else(any), args) {
        (Some(arg), _) => &arg.method,
        (None, []) => &DHCP,
        (None, _) => &Method::Off,
    }
}

/// Parses the value of an `ip=` parameter.
pub(super) fn parse(value: &str) -> Result<IpArg, Error> {
    let fields: Vec<&str> = value.split(':').collect();
    let of = |device: Option<String>, method| IpArg {
        device,
        hostname: None,
        method,
    };
    match fields[..] {
        [value] => match autoconf(value) {
            Ok(method) => return Ok(of(None, method)),
            Err(error) if value.parse::<Ipv4Addr>().is_err() => {
                return device(value).map(|device| of(device, DHCP)).or(Err(error));
            }
            Err(_) => {}
        },
        [name, method] if !name.is_empty() && name.parse::<Ipv4Addr>().is_err() => {
            return Ok(of(device(name)?, autoconf(method)?));
        }
        _ => {}
    }
    if fields.len() > 10 {
        return Err(Error::TooMany(fields.len()));
    }
    let field = |index: usize| fields.get(index).copied().unwrap_or_default();
    let address = |index: usize, name: &'static str| match field(index) {
        "" => Ok(None),
        value => match value.parse::<Ipv4Addr>() {
            // The kernel takes 0.0.0.0 for no address.
            Ok(address) => Ok(Some(address).filter(|address| !address.is_unspecified())),
            Err(_) => Err(Error::Address {
                field: name,
                value: value.into(),
            }),
        },
    };
    let automatic = autoconf(field(6))?;
    let method = match address(0, "client address")? {
        None => automatic,
        Some(client) => {
            let given = StaticAddress {
                address: client,
                prefix: netmask(field(3))?.unwrap_or_else(|| class_prefix(client)),
                gateway: address(2, "gateway")?,
                dns: [address(7, "name server")?, address(8, "name server")?]
                    .into_iter()
                    .flatten()
                    .collect(),
            };
            match field(6) {
                "dhcp" => Method::Dhcp {
                    fallback: Some(given),
                },
                _ => Method::Static(given),
            }
        }
    };
    let hostname = Some(field(4).to_owned()).filter(|name| !name.is_empty());
    Ok(IpArg {
        device: device(field(5))?,
        hostname,
        method,
    })
}

fn autoconf(value: &str) -> Result<Method, Error> {
    match value {
        "off" | "none" => Ok(Method::Off),
        // BOOTP and RARP are obsolete; DHCP has replaced them.
        "" | "on" | "any" | "dhcp" | "both" | "bootp" | "rarp" => Ok(DHCP),
        _ => Err(Error::Autoconf(value.into())),
    }
}

fn device(name: &str) -> Result<Option<String>, Error> {
    match name {
        "" => Ok(None),
        _ if is_device_name(name) => Ok(Some(name.into())),
        _ => Err(Error::Device(name.into())),
    }
}

/// The kernel's rule for the names of links (`dev_valid_name` in net/core/dev.c), and `=` is not allowed either.
pub(super) fn is_device_name(name: &str) -> bool {
    !["", ".", ".."].contains(&name)
        && name.len() < 16
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'/' && b != b'=')
}

fn netmask(value: &str) -> Result<Option<u8>, Error> {
    if value.is_empty() {
        return Ok(None);
    }
    let dotted = value
        .parse::<Ipv4Addr>()
        .ok()
        .and_then(|mask| prefix_of(mask.to_bits()));
    let length = value.parse::<u8>().ok().filter(|&length| length <= 32);
    dotted
        .or(length)
        .map(Some)
        .ok_or_else(|| Error::Netmask(value.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn given(
        address: [u8; 4],
        prefix: u8,
        gateway: Option<[u8; 4]>,
        dns: &[[u8; 4]],
    ) -> StaticAddress {
        StaticAddress {
            address: address.into(),
            prefix,
            gateway: gateway.map(Into::into),
            dns: dns.iter().map(|&dns| dns.into()).collect(),
        }
    }

    fn fixed(address: [u8; 4], prefix: u8, gateway: Option<[u8; 4]>, dns: &[[u8; 4]]) -> Method {
        Method::Static(given(address, prefix, gateway, dns))
    }

    #[test]
    fn the_documented_forms() {
        for (value, device, method) in [
            ("dhcp", None, DHCP),
            ("on", None, DHCP),
            ("", None, DHCP),
            ("off", None, Method::Off),
            ("none", None, Method::Off),
            (":::::eth1:dhcp", Some("eth1"), DHCP),
            (":::::eth1", Some("eth1"), DHCP),
            ("eth1", Some("eth1"), DHCP),
            ("eth1:off", Some("eth1"), Method::Off),
            ("::::::off", None, Method::Off),
            ("10.1.2.3", None, fixed([10, 1, 2, 3], 8, None, &[])),
            (
                "192.168.0.9::192.168.0.1:255.255.254.0:board:eth0:off:1.1.1.1:9.9.9.9:",
                Some("eth0"),
                fixed(
                    [192, 168, 0, 9],
                    23,
                    Some([192, 168, 0, 1]),
                    &[[1, 1, 1, 1], [9, 9, 9, 9]],
                ),
            ),
            (
                "10.1.2.3::::board::dhcp",
                None,
                Method::Dhcp {
                    fallback: Some(given([10, 1, 2, 3], 8, None, &[])),
                },
            ),
            ("10.1.2.3::::::on", None, fixed([10, 1, 2, 3], 8, None, &[])),
            (
                "172.16.0.9:0.0.0.0:0.0.0.0:12",
                None,
                fixed([172, 16, 0, 9], 12, None, &[]),
            ),
        ] {
            let arg = parse(value).unwrap_or_else(|error| panic!("{value}: {error}"));
            assert_eq!(
                (arg.device.as_deref(), &arg.method),
                (device, &method),
                "{value}"
            );
        }
        assert_eq!(
            parse("1.2.3.4::::board").unwrap().hostname.as_deref(),
            Some("board")
        );
    }

    #[test]
    fn faults_are_named() {
        let address = |field, value: &str| Error::Address {
            field,
            value: value.into(),
        };
        for (value, error) in [
            ("1.2.3::::", address("client address", "1.2.3")),
            ("1.2.3.4::gw", address("gateway", "gw")),
            (
                "1.2.3.4:::255.0.255.0",
                Error::Netmask("255.0.255.0".into()),
            ),
            ("1.2.3.4:::33", Error::Netmask("33".into())),
            ("::::::maybe", Error::Autoconf("maybe".into())),
            (":::::a/b", Error::Device("a/b".into())),
            ("no such word", Error::Autoconf("no such word".into())),
            ("::::::::::", Error::TooMany(11)),
        ] {
            assert_eq!(parse(value), Err(error), "{value}");
        }
    }

    #[test]
    fn the_most_specific_argument_counts() {
        let args = |values: &[&str]| values.iter().map(|v| parse(v).unwrap()).collect::<Vec<_>>();
        let two = args(&["dhcp", "eth1:off"]);
        assert_eq!(
            (for_link(&two, "eth0"), for_link(&two, "eth1")),
            (&DHCP, &Method::Off)
        );
        let one = args(&[":::::eth1:dhcp"]);
        assert_eq!(
            (for_link(&one, "eth0"), for_link(&one, "eth1")),
            (&Method::Off, &DHCP)
        );
        assert_eq!(for_link(&[], "eth0"), &DHCP);
    }

    proptest! {
        #[test]
        fn any_text_is_an_argument_or_an_error(value in "[0-9a-z.:/= \"é]{0,60}") {
            if let Ok(arg) = parse(&value) {
                // What the kernel takes for a link's name.
                let device = arg.device.unwrap_or("eth0".into());
                prop_assert!((1..16).contains(&device.len()) && !device.contains(['/', ' ']), "{}", device);
                if let Method::Static(StaticAddress { prefix, .. }) = arg.method {
                    prop_assert!(prefix <= 32);
                }
            }
        }

        #[test]
        fn what_is_written_is_read(address: u32, prefix in 0u8..=32, gateway: u32, device in "[a-z][a-z0-9]{0,14}") {
            prop_assume!(address != 0 && gateway != 0);
            let (address, gateway) = (Ipv4Addr::from_bits(address), Ipv4Addr::from_bits(gateway));
            let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0));
            let arg = parse(&format!("{address}::{gateway}:{mask}::{device}:off")).unwrap();
            prop_assert_eq!(arg.device, Some(device));
            let method = Method::Static(StaticAddress { address, prefix, gateway: Some(gateway), dns: vec![] });
            prop_assert_eq!(arg.method, method);
        }
    }
}
