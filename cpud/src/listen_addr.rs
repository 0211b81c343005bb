//! Where a server listens: what `-net` and `-port` mean.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use cpu_proto::DEFAULT_PORT;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenAddr {
    /// A TCP port, of one address or of all.
    Tcp(Option<IpAddr>, u16),
    /// A unix socket with this path.
    Unix(PathBuf),
    /// A vsock port, on which any context may connect.
    Vsock(u32),
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(None, port) => write!(f, "port {port}"),
            Self::Tcp(Some(address), port) => write!(f, "{address} port {port}"),
            Self::Unix(path) => write!(f, "the socket {}", path.display()),
            Self::Vsock(port) => write!(f, "vsock port {port}"),
        }
    }
}

impl ListenAddr {
    /// Parses the values of `-net` and `-port`.
    pub(crate) fn parse(network: Option<&str>, port: Option<&str>) -> Result<Self> {
        match network.unwrap_or("tcp") {
            "tcp" => {
                let Some(text) = port else {
                    return Ok(Self::Tcp(None, DEFAULT_PORT));
                };
                if let Ok(address) = text.parse::<SocketAddr>() {
                    return Ok(Self::Tcp(Some(address.ip()), address.port()));
                }
                let port = text.parse();
                let port = port.with_context(|| {
                    format!("-port {text} is not a TCP port, nor an address and a port")
                })?;
                Ok(Self::Tcp(None, port))
            }
            "unix" => {
                let path = port.context("-net unix needs the path of the socket: -port PATH")?;
                Ok(Self::Unix(path.into()))
            }
            "vsock" => {
                let Some(text) = port else {
                    return Ok(Self::Vsock(DEFAULT_PORT.into()));
                };
                let port = text.parse();
                Ok(Self::Vsock(port.with_context(|| {
                    format!("-port {text} is not a vsock port")
                })?))
            }
            other => bail!("-net {other}: write tcp, unix or vsock"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_addresses() {
        let parse = |network, port| ListenAddr::parse(network, port);
        assert_eq!(parse(None, None).unwrap(), ListenAddr::Tcp(None, 17010));
        assert_eq!(
            parse(Some("tcp"), Some("22")).unwrap(),
            ListenAddr::Tcp(None, 22)
        );
        for text in ["127.0.0.1:22", "[::1]:22"] {
            let ListenAddr::Tcp(Some(address), 22) = parse(None, Some(text)).unwrap() else {
                panic!("{text}");
            };
            assert!(address.is_loopback());
        }
        assert_eq!(
            parse(Some("vsock"), Some("7")).unwrap(),
            ListenAddr::Vsock(7)
        );
        let unix = parse(Some("unix"), Some("/run/cpud")).unwrap();
        assert_eq!(unix, ListenAddr::Unix("/run/cpud".into()));
        for (network, port) in [
            (None, Some("99999")),
            (Some("unix"), None),
            (Some("vsock"), Some("-1")),
            (Some("udp"), None),
        ] {
            assert!(parse(network, port).is_err(), "{network:?} {port:?}");
        }
    }
}
