//! Manual pages and shell completions from the flag table that a program parses its words with.
//! The programs use this only in a build with the feature `docs` (`make docs`); the shipped ones
//! know nothing of it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

/// One program's page.
pub struct Page {
    /// Its flags.
    pub command: Command,
    /// 1 for users' programs, 8 for the system's.
    pub section: &'static str,
    /// The synopsis, one form on each line.
    pub synopsis: &'static str,
    /// What no table can say: sections in roff, after the options.
    pub rest: &'static str,
    /// Whether flags are written with one dash.
    pub one_dash: bool,
}

/// The directory that `PROGRAM write-docs DIRECTORY` names.
pub fn requested_directory() -> Option<PathBuf> {
    let mut words = std::env::args_os().skip(1);
    (words.next()? == "write-docs").then(|| words.next().unwrap_or_default().into())
}

/// Writes `man/` and `completions/` into a directory.
pub fn write(page: Page, directory: &Path) -> Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    for directory in [&man, &completions] {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut command = page.command.clone();
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let file = generate_to(shell, &mut command, &name, &completions)
            .and_then(|file| Ok((fs::read_to_string(&file)?, file)));
        file.and_then(|(text, file)| {
            if page.one_dash {
                fs::write(file, with_one_dash(&command, &text))
            } else {
                Ok(())
            }
        })
        .with_context(|| format!("cannot write the completions for {shell}"))?;
    }
    let file = man.join(format!("{name}.{}", page.section));
    fs::write(&file, render(page)?).with_context(|| format!("cannot write {}", file.display()))
}

/// Completions of flags as people write them; what they begin with otherwise would complete to nothing.
fn with_one_dash(command: &Command, text: &str) -> String {
    let flags = command.get_arguments().filter_map(clap::Arg::get_long);
    flags.fold(text.to_owned(), |text, flag| {
        text.replace(&format!("--{flag}"), &format!("-{flag}"))
            // fish's word for them.
            .replace(&format!(" -l {flag}"), &format!(" -o {flag}"))
    })
}

fn render(page: Page) -> Result<Vec<u8>> {
    let mut command = page.command;
    command.build();
    let subcommands: Vec<_> = command.get_subcommands().cloned().collect();
    let man = Man::new(command).section(page.section).date("");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    writeln!(out, ".SH SYNOPSIS")?;
    for line in page.synopsis.lines() {
        writeln!(out, ".nf\n{}\n.fi", line.replace('-', "\\-"))?;
    }
    man.render_description_section(&mut out)?;
    options(&man, page.one_dash, &mut out)?;
    for command in subcommands
        .into_iter()
        .filter(|sub| sub.get_name() != "help")
    {
        writeln!(out, ".SH COMMAND {}", command.get_name())?;
        if let Some(about) = command.get_long_about().or(command.get_about()) {
            writeln!(out, "{}", about.to_string().replace('-', "\\-"))?;
        }
        let mut text = Vec::new();
        options(&Man::new(command), page.one_dash, &mut text)?;
        let text = String::from_utf8(text)?;
        out.extend(text.replace(".SH OPTIONS\n", "").bytes());
    }
    out.extend(page.rest.bytes());
    man.render_version_section(&mut out)?;
    Ok(out)
}

fn options(man: &Man, one_dash: bool, out: &mut Vec<u8>) -> Result<()> {
    let mut text = Vec::new();
    man.render_options_section(&mut text)?;
    let text = String::from_utf8(text)?;
    let text = if one_dash {
        text.replace("\\-\\-", "\\-")
    } else {
        text
    };
    out.extend(text.bytes());
    Ok(())
}
