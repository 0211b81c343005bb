//! SSH: the server role ([`server`]) accepts connections, and for each starts a process in the connection
//! role ([`connection`]), which speaks the protocol.

mod admission;
mod agent;
mod announce;
mod audit;
mod audit_log;
mod auth;
mod channel;
mod clock;
mod connection;
mod connection_process;
mod exec;
mod fd;
mod files;
mod forward;
mod fuse;
pub(crate) mod host_key;
mod isolations;
mod listen;
mod notice;
mod penalties;
mod refusals;
mod relayed;
mod server;
mod sessions;
mod source;
mod strict_modes;
mod uroot;
mod waiting;

pub(crate) use announce::example_command;
pub(crate) use connection::run as run_connection;
pub(crate) use penalties::Offence;
pub(crate) use server::serve;
