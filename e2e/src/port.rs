//! TCP ports on 127.0.0.1 for servers that other programs open. Asking the system for a free port and giving it back lets
//! another test take it, so these are below the range from which the system takes them (`ip_local_port_range`), and
//! reserved between the processes that run tests.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context as _, Result};

/// A port that no other test uses while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// An abstract socket whose name is the port's: only one process at a time can have it.
    _reservation: UnixListener,
}

impl Port {
    /// Reserves a port that nobody listens on.
    pub fn reserve() -> Result<Self> {
        let start = std::process::id() % 4000;
        (start..start + 8000)
            .find_map(|number| {
                let number = u16::try_from(20_000 + number).ok()?;
                let name = SocketAddr::from_abstract_name(format!("cpu-e2e port {number}")).ok()?;
                let reservation = UnixListener::bind_addr(&name).ok()?;
                TcpListener::bind(("127.0.0.1", number)).ok()?;
                Some(Self {
                    number,
                    _reservation: reservation,
                })
            })
            .context("no port between 20000 and 32000 is free")
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
