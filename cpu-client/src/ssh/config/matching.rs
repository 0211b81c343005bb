//! `Match` in ssh_config(5): decides whether the criteria of a line are fulfilled.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cpu_proto::DEFAULT_PORT;

use super::Tokens;
use super::file::ConfigReader;
use crate::ssh::pattern::matches_list;

impl ConfigReader<'_> {
    /// Whether all criteria of a `Match` line are fulfilled.
    pub(super) fn matches(&mut self, criteria: &[String]) -> Result<bool> {
        let mut all = true;
        // `host=x` is the same as `host x`.
        let mut words = criteria.iter().flat_map(|word| match word.split_once('=') {
            Some((name, value)) if is_criterion(name) => [Some(name), Some(value)],
            _ => [Some(word.as_str()), None],
        });
        let mut words = words.by_ref().flatten();
        while let Some(word) = words.next() {
            let lower = word.to_ascii_lowercase();
            let (negated, name) = match lower.strip_prefix('!') {
                Some(name) => (true, name),
                None => (false, lower.as_str()),
            };
            let text = match name {
                "all" => {
                    all &= !negated;
                    continue;
                }
                "host" => self.settings.host(self.query.host)?,
                "originalhost" => self.query.host.to_owned(),
                "user" => {
                    let set = self.query.user.or(self.settings.user.as_deref());
                    set.unwrap_or(self.query.local_user).to_owned()
                }
                "localuser" => self.query.local_user.to_owned(),
                "exec" => {
                    let command = words.next().context("Match exec has no command")?;
                    // Not run if the result is decided already.
                    all = all && self.succeeds(command)? != negated;
                    continue;
                }
                // The files are not read a second time, so these are never true.
                "final" | "canonical" => {
                    self.settings.ignored.insert(format!("match {name}"));
                    all &= negated;
                    continue;
                }
                _ => {
                    words.next();
                    self.settings.ignored.insert(format!("match {name}"));
                    all = false;
                    continue;
                }
            };
            let Some(list) = words.next() else {
                bail!("Match {name} has no pattern");
            };
            all &= matches_list(list.split(','), &text) != negated;
        }
        Ok(all)
    }

    /// Whether the command of a `Match exec` succeeds.
    fn succeeds(&self, command: &str) -> Result<bool> {
        let query = self.query;
        let host = self.settings.host(query.host)?;
        let user = query.user.or(self.settings.user.as_deref());
        let tokens = Tokens {
            home: query.home,
            original_host: query.host,
            alias: self.settings.host_key_alias.as_deref(),
            host: &host,
            port: self.settings.port.unwrap_or(DEFAULT_PORT),
            user: user.unwrap_or(query.local_user),
            local_user: query.local_user,
        };
        let command = tokens.expand(command)?;
        let shell = super::shell();
        let mut run = Command::new(&shell);
        run.arg("-c").arg(command);
        run.stdin(Stdio::null()).stdout(Stdio::null());
        let status = run.status();
        let status = status.with_context(|| format!("cannot run {shell}"))?;
        Ok(status.success())
    }
}

/// Whether this is a criterion that has a value.
fn is_criterion(name: &str) -> bool {
    let name = name.strip_prefix('!').unwrap_or(name);
    ["host", "originalhost", "user", "localuser", "exec"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
}
