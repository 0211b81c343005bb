//! DHCPv4: the messages ([`packet`]), what a client does when ([`client`]), and how messages travel
//! while there is no address yet ([`socket`]).

pub(super) mod client;
pub(super) mod packet;
pub(super) mod socket;
