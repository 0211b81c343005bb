//! Changes the list of keys in an image: an initramfs, a unified kernel image, or a stick with these. Nothing is compiled and
//! nothing else is changed. The file may come from anybody.

mod stick;

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use crate::archive::decompress::{self, MAX_UNPACKED};
use crate::archive::{self, replace};
use crate::disk::table;
use crate::kernel::image;
use crate::media::uki;
use crate::{program, publish, read};

/// Why it is not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read it")]
    Read(#[from] io::Error),
    #[error("it is neither an initramfs, nor a unified kernel image, nor the image of a stick")]
    Unknown,
    #[error("it is a compressed image of a disk: unpack it first (xz -dk)")]
    PackedDisk,
    #[error(
        "the initramfs is inside the kernel, which must be linked again: change the initramfs that it is made of, then run \
         mkimage kernel and what comes after it"
    )]
    InKernel,
    #[error("it is a kernel, and the initramfs is beside it: change {0}")]
    BesideKernel(PathBuf),
    #[error("it has {0} bytes, and its partition ends after {1}: it is truncated")]
    Truncated(u64, u64),
    #[error("it has no /key.pub of its own: it is no initramfs that mkimage has made")]
    NoList,
    #[error("its file {0} cannot be changed")]
    File(String, #[source] Box<Self>),
    #[error("there is no room for its new files: make it again with a larger mkimage usb --size")]
    Full(#[source] io::Error),
    #[error(transparent)]
    Table(#[from] table::Error),
    #[error("the initramfs is damaged")]
    Archive(#[from] archive::Error),
    #[error(transparent)]
    Replace(#[from] replace::Error),
    #[error("its sections are not those of mkimage: kernel, initramfs and command line at the end")]
    Sections,
    #[error(transparent)]
    Uki(#[from] uki::Error),
    #[error(transparent)]
    Logins(#[from] super::Error),
    #[error(transparent)]
    Publish(#[from] publish::Error),
}

/// What a list of keys becomes; `None` if it stays.
pub(crate) type ListEdit<'a> = dyn FnMut(&[u8]) -> Result<Option<Vec<u8>>, super::Error> + 'a;

/// A changed image.
pub(crate) enum ChangedImage {
    Bytes(Vec<u8>),
    Stick(stick::ChangedStick),
}

/// How much of the beginning of a file shows what it is.
const START: u64 = 1024;

/// The image with another list; `None` if nothing changes. `path` says where its new form will be.
pub(crate) fn edit(
    mut file: &File,
    path: &Path,
    edit: &mut ListEdit<'_>,
) -> Result<Option<ChangedImage>, Error> {
    let mut start = Vec::new();
    file.take(START).read_to_end(&mut start)?;
    file.rewind()?;
    if table::is_there(&start) {
        return Ok(stick::edit(file, path, edit)?.map(ChangedImage::Stick));
    }
    let bytes = read::to_end(file, MAX_UNPACKED)?;
    let beside = path.with_file_name("cpuinitrd");
    match edit_bytes(&bytes, edit) {
        Err(Error::InKernel) if beside.is_file() => Err(Error::BesideKernel(beside)),
        changed => Ok(changed?.map(ChangedImage::Bytes)),
    }
}

/// The same for a file that is no disk.
pub(super) fn edit_bytes(bytes: &[u8], edit: &mut ListEdit<'_>) -> Result<Option<Vec<u8>>, Error> {
    if let Some(sections) = uki::sections(bytes) {
        let initrd = sections.iter().find(|(name, _)| name == ".initrd");
        let (_, initrd) = initrd.ok_or(Error::NoList)?;
        return match edit_initramfs(initrd, edit)? {
            None => Ok(None),
            Some(initrd) => match uki::with_initrd(bytes, &initrd)? {
                None => Err(Error::Sections),
                changed => Ok(changed),
            },
        };
    }
    let start = decompress::start(bytes, START);
    if image::header(bytes).is_ok() || image::header(&start).is_ok() {
        return Err(Error::InKernel);
    }
    if table::is_there(&start) {
        return Err(Error::PackedDisk);
    }
    edit_initramfs(bytes, edit)
}

fn edit_initramfs(bytes: &[u8], edit: &mut ListEdit<'_>) -> Result<Option<Vec<u8>>, Error> {
    let parts = match archive::read(bytes) {
        Err(archive::Error::Format(0) | archive::Error::Empty) => return Err(Error::Unknown),
        parts => parts?,
    };
    let (part, entry) = replace::find(&parts, b"key.pub").ok_or(Error::NoList)?;
    let Some(list) = edit(part.contents(entry))? else {
        return Ok(None);
    };
    let init = replace::find(&parts, b"init");
    let arch = init.and_then(|(part, entry)| program::arch(part.contents(entry)));
    Ok(Some(replace::replace(bytes, part, entry, &list, arch)?))
}
