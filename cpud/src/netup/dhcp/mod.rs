//! DHCPv4: the messages ([`packet`]), the states of a client ([`client`]), and the sockets for them, also while there
//! is no address yet ([`socket`]); and whether other machines have the addresses ([`probe`], [`conflicts`]).

pub(super) mod client;
pub(super) mod conflicts;
pub(super) mod network;
pub(super) mod packet;
pub(super) mod probe;
pub(super) mod socket;
