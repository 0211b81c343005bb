//! Who may log in to the machine that an image boots.

use std::path::Path;

use cpu_proto::AuthorizedKeys;

use super::recognise;
use super::report::{ImageContents, KernelReport, NotableFile, PartReport, UkiSection};

/// The list of keys in a kernel or an initramfs. `None` if it has none, or cannot be read.
pub(crate) fn logins(path: &Path) -> Option<AuthorizedKeys> {
    match recognise::file(path).ok()?.contents {
        ImageContents::Initramfs(parts) => of_parts(parts),
        ImageContents::Kernel(report) => of_kernel(report),
        ImageContents::Disk(_) => None,
    }
}

fn of_kernel(report: KernelReport) -> Option<AuthorizedKeys> {
    match report {
        KernelReport::Plain { initramfs, .. } => of_parts(initramfs),
        KernelReport::Unified(sections) => sections.into_iter().find_map(|section| match section {
            UkiSection::Initramfs { parts, .. } => of_parts(parts),
            UkiSection::Kernel(_) | UkiSection::CommandLine(_) => None,
        }),
    }
}

/// The last one, as the kernel unpacks them one over the other.
fn of_parts(parts: impl IntoIterator<Item = PartReport>) -> Option<AuthorizedKeys> {
    let files = parts.into_iter().flat_map(|part| part.notable);
    files
        .filter_map(|file| match file {
            NotableFile::Logins(keys) => Some(keys),
            _ => None,
        })
        .last()
}
