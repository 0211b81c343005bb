//! `Match` of ssh_config(5): whether a line's criteria hold.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cpu_proto::DEFAULT_PORT;

use super::Tokens;
use super::file::ConfigReader;
use crate::ssh::pattern::matches_list;

impl ConfigReader<'_> {
    /// Whether all criteria of a `Match` line hold.
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
                    // What decides nothing is not run.
                    all = all && self.succeeds(command)? != negated;
                    continue;
                }
                // There is no second reading of the files, so these are never true.
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

    /// Whether a command of `Match exec` does, as ssh runs it.
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

/// Of the criteria of `Match`, those that have a value.
fn is_criterion(name: &str) -> bool {
    let name = name.strip_prefix('!').unwrap_or(name);
    ["host", "originalhost", "user", "localuser", "exec"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
}
