//! Runs the commands that make what another one needs, each as a process of its own, so that it works, speaks and stops as
//! if the user had typed it.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::CommonOptions;
use super::kernel_from::KernelFrom;
use crate::plan::{self, Place, Plan, Product};
use crate::progress::Progress;

/// The options of commands that make what they need.
#[derive(clap::Args)]
pub(crate) struct PrepareArgs {
    /// Which kernel to use when there is none: auto, compile, package (the distribution's, fetched), host (that of this machine), or
    /// the FILE of a package of Debian, Ubuntu, Fedora, openSUSE, Alpine or Arch
    #[arg(long, value_name = "WHERE", default_value_t = KernelFrom::Auto)]
    kernel_from: KernelFrom,

    /// Say what would be made, and why, and make nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

impl PrepareArgs {
    /// Make what is missing before these can be used. False if nothing is to be done after that.
    pub(crate) fn run(
        &self,
        products: &[Product],
        common: &CommonOptions,
        progress: Progress,
    ) -> Result<bool> {
        let kernel_from = self.kernel_from.to_string();
        let plan = Plan::of(products, &place(common, &kernel_from))
            .with_context(|| format!("cannot look for what is in {}", common.output.display()))?;
        if !self.dry_run {
            run(&plan, progress)?;
            return Ok(true);
        }
        let mut out = std::io::stdout().lock();
        self.print(&plan, common, &mut out)
            .context("cannot print the plan")?;
        Ok(false)
    }

    fn print(
        &self,
        plan: &Plan,
        common: &CommonOptions,
        out: &mut impl std::io::Write,
    ) -> Result<()> {
        for warning in &plan.warnings {
            writeln!(out, "# {warning}")?;
        }
        for step in &plan.steps {
            writeln!(out, "# {}", step.reason)?;
            if step.product == Product::Kernel && step.directory.is_none() {
                let (chosen, reason) = self.kernel_from.choose(common.arch)?;
                writeln!(out, "# --kernel-from {chosen}: {reason}")?;
            }
            if let Some(directory) = &step.directory {
                writeln!(out, "# as the last time, in {}", directory.display())?;
            }
            writeln!(out, "{}", plan::shown(&step.arguments))?;
        }
        let rest: Vec<_> = std::env::args_os()
            .skip(1)
            .filter(|word| word != "--dry-run")
            .collect();
        writeln!(out, "{}", plan::shown(&rest))?;
        Ok(())
    }
}

/// Make what is missing before these can be used.
pub(crate) fn all(products: &[Product], common: &CommonOptions, progress: Progress) -> Result<()> {
    let plan = Plan::of(products, &place(common, "auto"))
        .with_context(|| format!("cannot look for what is in {}", common.output.display()))?;
    run(&plan, progress)
}

/// Make a product with the arguments of the last time in the directory. False if they are not known.
pub(crate) fn again(product: Product, common: &CommonOptions, progress: Progress) -> Result<bool> {
    let plan = plan::again(&common.output, product)
        .with_context(|| format!("cannot look for what is in {}", common.output.display()))?;
    if let Some(plan) = &plan {
        run(plan, progress)?;
    }
    Ok(plan.is_some())
}

fn place<'a>(common: &'a CommonOptions, kernel_from: &'a str) -> Place<'a> {
    Place {
        directory: &common.output,
        arch: common.arch,
        kernel_from,
    }
}

fn run(plan: &Plan, progress: Progress) -> Result<()> {
    for warning in &plan.warnings {
        progress.say(warning);
    }
    let mkimage = std::env::current_exe().context("cannot find mkimage itself")?;
    for step in &plan.steps {
        progress.say(format!("{}: {}", step.reason, plan::shown(&step.arguments)));
        let mut command = Command::new(&mkimage);
        command.args(progress.flags()).args(&step.arguments);
        if let Some(directory) = &step.directory {
            command.current_dir(directory);
        }
        let status = command.status().context("cannot run mkimage itself")?;
        if !status.success() {
            bail!(
                "without {} there is nothing to go on with",
                step.product.command()
            );
        }
    }
    Ok(())
}
