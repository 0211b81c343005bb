//! The keywords of ssh_config(5) that have an effect in cpu.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use cpu_client::export::RuleKind;

use super::value::{time, yes_or_no};
use super::{AddressFamily, Checking, NewHost, Proxy, Settings};
use crate::terminal::Tty;

impl Settings {
    /// Applies a line. A keyword that has a value already keeps it.
    pub(super) fn set(&mut self, keyword: &str, first: &str, arguments: &[String]) -> Result<()> {
        match keyword {
            "hostname" => {
                self.host_name.get_or_insert(first.to_owned());
            }
            "user" => {
                self.user.get_or_insert(first.to_owned());
            }
            "port" => {
                let port = first.parse().ok().filter(|&port| port != 0);
                let port = port.with_context(|| format!("{first:?} is not a port"))?;
                self.port.get_or_insert(port);
            }
            "identityfile" => {
                if !self.identity_files.iter().any(|file| file == first) {
                    self.identity_files.push(first.to_owned());
                }
            }
            "certificatefile" => self.certificate_files.push(first.to_owned()),
            "identitiesonly" => {
                self.identities_only.get_or_insert(yes_or_no(first)?);
            }
            "identityagent" => {
                self.identity_agent.get_or_insert(first.to_owned());
            }
            "forwardagent" => {
                self.forward_agent.get_or_insert(first.to_owned());
            }
            "userknownhostsfile" => {
                self.user_known_hosts
                    .get_or_insert_with(|| arguments.to_vec());
            }
            "stricthostkeychecking" => {
                let (new, changed_is_accepted) = match first.to_ascii_lowercase().as_str() {
                    "yes" | "true" => (NewHost::Refuse, false),
                    "ask" => (NewHost::Ask, false),
                    "accept-new" => (NewHost::Accept, false),
                    "no" | "off" | "false" => (NewHost::Accept, true),
                    _ => bail!("{first:?} is none of yes, ask, accept-new, no"),
                };
                self.checking.get_or_insert(Checking {
                    new,
                    changed_is_accepted,
                });
            }
            "hostkeyalias" => {
                self.host_key_alias.get_or_insert(first.to_owned());
            }
            "hashknownhosts" => {
                self.hash_known_hosts.get_or_insert(yes_or_no(first)?);
            }
            "requesttty" => {
                let tty = match first.to_ascii_lowercase().as_str() {
                    "auto" => Tty::Auto,
                    "yes" | "true" => Tty::Yes,
                    "force" => Tty::Force,
                    "no" | "false" => Tty::No,
                    _ => bail!("{first:?} is none of auto, yes, force, no"),
                };
                self.tty.get_or_insert(tty);
            }
            "connecttimeout" => {
                let limit = match first {
                    "none" => Duration::ZERO,
                    some => time(some)?,
                };
                self.connect_timeout.get_or_insert(limit);
            }
            "serveraliveinterval" => {
                let interval = match first {
                    "none" => Duration::ZERO,
                    some => time(some)?,
                };
                self.alive_interval.get_or_insert(interval);
            }
            "serveralivecountmax" => {
                let count = first.parse();
                let count = count.with_context(|| format!("{first:?} is not a number"))?;
                self.alive_max.get_or_insert(count);
            }
            "proxyjump" => {
                self.proxy.get_or_insert(if first == "none" {
                    Proxy::None
                } else {
                    Proxy::Jump(first.to_owned())
                });
            }
            "addressfamily" => {
                let family = match first.to_ascii_lowercase().as_str() {
                    "any" => AddressFamily::Any,
                    "inet" => AddressFamily::Inet,
                    "inet6" => AddressFamily::Inet6,
                    _ => bail!("{first:?} is none of any, inet, inet6"),
                };
                self.family.get_or_insert(family);
            }
            "sendenv" => self.send_env.extend(arguments.iter().cloned()),
            // As in ssh, only the first line applies.
            "setenv" if !self.set_env.is_empty() => {}
            "setenv" => {
                for argument in arguments {
                    let Some((name, value)) = argument.split_once('=') else {
                        bail!("{argument:?} is not NAME=value");
                    };
                    if !self.set_env.iter().any(|(other, _)| other == name) {
                        self.set_env.push((name.to_owned(), value.to_owned()));
                    }
                }
            }
            "hide" | "show" => {
                let kind = match keyword {
                    "hide" => RuleKind::Hide,
                    _ => RuleKind::Show,
                };
                let paths = arguments.iter().map(|path| (kind, path.clone()));
                self.withheld.extend(paths);
            }
            "env" => self.env.extend(arguments.iter().cloned()),
            "readonly" => {
                self.read_only.get_or_insert(yes_or_no(first)?);
            }
            "only" => {
                self.only.get_or_insert(yes_or_no(first)?);
            }
            other => {
                self.ignored.insert(other.to_owned());
            }
        }
        Ok(())
    }
}
