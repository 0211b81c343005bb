//! New contents for files of an image that is there: where they were, as far as they fit, so that nothing else moves.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;

use fatfs::{FileSystem, FsOptions};

use super::{FileList, Window};

/// Write the files, all of which are in the FAT file system on this range of the image. They keep their times.
#[expect(
    deprecated,
    reason = "meant for implementers of time providers; another time would make another image at every call"
)]
pub(crate) fn overwrite(image: &File, range: Range<u64>, files: &FileList) -> io::Result<()> {
    let system = FileSystem::new(Window::new(image, range), FsOptions::new())?;
    for (name, bytes) in files {
        let (directory, file) = match name.rsplit_once('/') {
            Some((path, file)) => (system.root_dir().open_dir(path)?, file),
            None => (system.root_dir(), name.as_str()),
        };
        let entry = directory
            .iter()
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().eq_ignore_ascii_case(file))
            .ok_or(io::ErrorKind::NotFound)?;
        let (created, accessed, modified) = (entry.created(), entry.accessed(), entry.modified());
        let mut file = entry.to_file();
        file.write_all(bytes)?;
        file.truncate()?;
        file.set_created(created);
        file.set_accessed(accessed);
        file.set_modified(modified);
        file.flush()?;
    }
    system.unmount()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::super::{Layout, MIN_SIZE, Volume};
    use super::*;

    fn image(files: &FileList) -> (File, Range<u64>) {
        let file = tempfile::tempfile().unwrap();
        let layout = Layout::new(MIN_SIZE, files).unwrap();
        layout.write_table(&file, b"").unwrap();
        let volume = Volume::format(&file, &layout).unwrap();
        volume.fill(files, 1_700_000_000).unwrap();
        (file, layout.partition())
    }

    fn bytes_of(mut file: &File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn files(middle: Vec<u8>) -> FileList {
        let name = str::to_owned;
        vec![
            (name("first"), vec![1; 5000]),
            (name("EFI/BOOT/middle"), middle),
            (name("last"), vec![3; 5000]),
        ]
    }

    #[test]
    fn a_file_becomes_longer_or_shorter_and_the_others_stay() {
        let (image, range) = image(&files(vec![2; 4000]));
        for length in [4000, 9000, 1, 1024, 200_000] {
            let changed = vec![("EFI/BOOT/middle".to_owned(), vec![9; length])];
            overwrite(&image, range.clone(), &changed).unwrap();
            let window = Window::new(&image, range.clone());
            let system = FileSystem::new(window, FsOptions::new()).unwrap();
            for (name, expected) in files(vec![9; length]) {
                let mut found = Vec::new();
                let mut file = system.root_dir().open_file(&name).unwrap();
                file.read_to_end(&mut found).unwrap();
                assert!(found == expected, "{name} with {length}");
            }
        }
    }

    #[test]
    fn the_same_size_is_the_image_that_would_have_been_made() {
        let (changed, range) = image(&files(vec![2; 4000]));
        let new = vec![("EFI/BOOT/middle".to_owned(), vec![9; 4000])];
        overwrite(&changed, range.clone(), &new).unwrap();
        let volume = |file: &File| {
            let bytes = bytes_of(file);
            let start = usize::try_from(range.start).unwrap();
            // After the boot sector, which has the number of the volume, and its copy.
            bytes[start + 7 * 512..bytes.len() - 33 * 512].to_vec()
        };
        assert!(volume(&changed) == volume(&image(&files(vec![9; 4000])).0));
    }

    #[test]
    fn what_is_not_there_or_too_big_is_an_error() {
        let (image, range) = image(&files(vec![2; 4000]));
        let new = |name: &str, length| vec![(name.to_owned(), vec![9; length])];
        assert!(overwrite(&image, range.clone(), &new("EFI/none", 1)).is_err());
        let error = overwrite(&image, range, &new("first", 40 << 20)).unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
    }
}
