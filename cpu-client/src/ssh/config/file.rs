//! One file of ssh_config(5): which lines count.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::value::split_words;
use super::{Proxy, Query, Settings};
use crate::ssh::pattern::matches_list;

/// ssh's own limit for files that include each other.
const MAX_INCLUDE_DEPTH: usize = 16;

/// Collects the settings.
pub(super) struct ConfigReader<'a> {
    pub(super) query: &'a Query<'a>,
    pub(super) settings: Settings,
    depth: usize,
}

impl<'a> ConfigReader<'a> {
    pub(super) fn new(query: &'a Query<'a>) -> Self {
        Self {
            query,
            settings: Settings::default(),
            depth: 0,
        }
    }

    /// Reads a file; one that is missing says nothing. A user's must not be writable by others,
    /// since it can name commands to run.
    pub(super) fn read(&mut self, path: &Path, of_user: bool) -> Result<()> {
        self.include(path, of_user, true)
    }

    /// Reads a text. `active` is whether the line that included it counts.
    pub(super) fn text(
        &mut self,
        text: &str,
        path: &Path,
        of_user: bool,
        active: bool,
    ) -> Result<()> {
        let mut counts = active;
        for (number, line) in text.lines().enumerate() {
            self.line(line, path, of_user, active, &mut counts)
                .with_context(|| format!("{} line {}", path.display(), number + 1))?;
        }
        Ok(())
    }

    fn line(
        &mut self,
        line: &str,
        path: &Path,
        of_user: bool,
        active: bool,
        counts: &mut bool,
    ) -> Result<()> {
        let words = split_words(line)?;
        let Some((keyword, arguments)) = words.split_first() else {
            return Ok(());
        };
        let Some(first) = arguments.first() else {
            bail!("{keyword} has no value");
        };
        match keyword.to_ascii_lowercase().as_str() {
            "host" => {
                let patterns = arguments.iter().map(String::as_str);
                *counts = active && matches_list(patterns, self.query.host);
            }
            "match" => *counts = active && self.matches(arguments)?,
            "include" => {
                if self.depth == MAX_INCLUDE_DEPTH {
                    bail!("files include each other more than {MAX_INCLUDE_DEPTH} deep");
                }
                self.depth += 1;
                for pattern in arguments {
                    for file in self.included(pattern, path, of_user)? {
                        self.include(&file, of_user, *counts)?;
                    }
                }
                self.depth -= 1;
            }
            // A command is the rest of the line as it stands.
            "proxycommand" if *counts => {
                let line = line.trim();
                let command = line.get(keyword.len()..).unwrap_or_default();
                let command = command.trim_start_matches(|c: char| c.is_whitespace() || c == '=');
                self.settings.proxy.get_or_insert(if first == "none" {
                    Proxy::None
                } else {
                    Proxy::Command(command.to_owned())
                });
            }
            keyword if *counts => self.settings.set(keyword, first, arguments)?,
            _ => {}
        }
        Ok(())
    }
}
