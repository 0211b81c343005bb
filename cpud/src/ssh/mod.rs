//! SSH: the server role ([`server`]) accepts, the connection role ([`connection`]) speaks it, one process
//! for each connection.

mod announce;
mod auth;
mod channel;
mod connection;
mod exec;
mod fd;
mod files;
mod forward;
mod listen;
mod notice;
mod server;
mod uroot;

pub(crate) use announce::example_command;
pub(crate) use auth::read_host_key;
pub(crate) use connection::run as run_connection;
pub(crate) use server::serve;
