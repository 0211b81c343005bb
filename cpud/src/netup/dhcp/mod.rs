//! DHCPv4: the messages ([`packet`]), the states of a client ([`client`]), and the sockets for them, also while there
//! is no address yet ([`socket`]); and whether another machine has the address ([`probe`]).

pub(super) mod client;
pub(super) mod packet;
pub(super) mod probe;
pub(super) mod socket;
