//! Reads a file in ssh_config(5) format, and decides which of its lines apply.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::value::split_words;
use super::{Proxy, Query, Settings};
use crate::ssh::pattern::matches_list;

/// ssh's own limit for nested includes.
const MAX_INCLUDE_DEPTH: usize = 16;

/// Collects the settings from the files.
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

    /// Reads a file, if it exists. A user's file must not be writable by others, since it can name commands to run.
    pub(super) fn read(&mut self, path: &Path, is_users: bool) -> Result<()> {
        self.include(path, is_users, true)
    }

    /// Reads a text. `active` says whether the line that included it applies.
    pub(super) fn text(
        &mut self,
        text: &str,
        path: &Path,
        is_users: bool,
        active: bool,
    ) -> Result<()> {
        let mut applies = active;
        for (number, line) in text.lines().enumerate() {
            self.line(line, path, is_users, active, &mut applies)
                .with_context(|| format!("{} line {}", path.display(), number + 1))?;
        }
        Ok(())
    }

    /// Takes a setting of the command line, which is a line that does not choose hosts or files.
    pub(super) fn setting(&mut self, line: &str) -> Result<()> {
        let set = |reader: &mut Self| {
            let keyword = split_words(line)?.into_iter().next().unwrap_or_default();
            match keyword.to_ascii_lowercase().as_str() {
                "" => bail!("there is no keyword"),
                "host" | "match" | "include" => bail!("{keyword} is for files"),
                _ => reader.line(line, Path::new("-o"), true, true, &mut true),
            }
        };
        set(self).with_context(|| format!("-o {line}"))
    }

    fn line(
        &mut self,
        line: &str,
        path: &Path,
        is_users: bool,
        active: bool,
        applies: &mut bool,
    ) -> Result<()> {
        let words = split_words(line)?;
        let Some((keyword, arguments)) = words.split_first() else {
            return Ok(());
        };
        let Some(first) = arguments.first() else {
            bail!("{keyword} has no value");
        };
        if keyword.eq_ignore_ascii_case("identityfile") {
            self.settings.every_identity_file.push(first.clone());
        }
        match keyword.to_ascii_lowercase().as_str() {
            "host" => {
                let patterns = arguments.iter().map(String::as_str);
                *applies = active && matches_list(patterns, self.query.host);
            }
            "match" => *applies = active && self.matches(arguments)?,
            "include" => {
                if self.depth == MAX_INCLUDE_DEPTH {
                    bail!("files include each other more than {MAX_INCLUDE_DEPTH} deep");
                }
                self.depth += 1;
                for pattern in arguments {
                    for file in self.included(pattern, path, is_users)? {
                        self.include(&file, is_users, *applies)?;
                    }
                }
                self.depth -= 1;
            }
            // The command is the rest of the line, quotes and comment signs included.
            "proxycommand" if *applies => {
                let line = line.trim();
                let command = line.get(keyword.len()..).unwrap_or_default();
                let command = command.trim_start_matches(|c: char| c.is_whitespace() || c == '=');
                self.settings.proxy.get_or_insert(if first == "none" {
                    Proxy::None
                } else {
                    Proxy::Command(command.to_owned())
                });
            }
            keyword if *applies => self.settings.set(keyword, first, arguments)?,
            _ => {}
        }
        Ok(())
    }
}
