//! A ROM as text: areas, volumes, files and sections, with sizes and free space.

use std::fmt::Write as _;

use super::volume::FirmwareVolume;
use super::volume::file::FirmwareFile;
use super::volume::section::{Content, Section, Sections, VOLUME_IMAGE};
use super::{AreaContent, Rom, guard, names};

/// The tree of an image, one line for each part of it that a person may want to know of.
pub(crate) fn tree(rom: &Rom, image: &[u8]) -> String {
    let mut text = String::new();
    for region in guard::regions(image).into_iter().flatten() {
        let (name, begin, end) = (region.name, region.range.start, region.range.end);
        line(
            &mut text,
            0,
            end - begin,
            &format!("region {name} at {begin:#x}"),
        );
    }
    for area in &rom.areas {
        let (at, length) = (area.offset, area.length());
        match &area.content {
            AreaContent::Raw(_) => line(&mut text, 0, length, &format!("{at:#x}  not read")),
            AreaContent::Unread(_, error) => {
                let why = format!("{at:#x}  volume, not understood: {error}");
                line(&mut text, 0, length, &why);
            }
            AreaContent::Volume(volume) => show_volume(&mut text, 0, &format!("{at:#x}  "), volume),
        }
    }
    text
}

fn line(text: &mut String, depth: usize, size: usize, what: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{size:>10}  {:1$}{what}", "", 2 * depth);
}

fn show_volume(text: &mut String, depth: usize, before: &str, volume: &FirmwareVolume) {
    let format = volume.format();
    let mut what = format!(
        "{before}volume of {}",
        names::of(format).map_or_else(|| format.to_string(), str::to_owned)
    );
    if volume.is_read() {
        let _ = write!(what, ", {} bytes free", volume.free());
    }
    line(text, depth, volume.length(), &what);
    for file in &volume.files {
        if !file.is_gap(volume.erased) {
            show_file(text, depth + 1, file);
        }
    }
}

fn show_file(text: &mut String, depth: usize, file: &FirmwareFile) {
    let known = || names::of(file.name).map(str::to_owned);
    let mut what = format!("{}  {}", file.name, names::kind(file.kind));
    // Names in a volume inside are not the name of the file.
    let contains_volumes = file.kind == 0x0b;
    let name = file
        .user_interface()
        .filter(|_| !contains_volumes)
        .or_else(known);
    if let Some(name) = name {
        let _ = write!(what, "  {name}");
    }
    line(text, depth, file.length(), &what);
    if let Some(sections) = &file.sections {
        show_sections(text, depth + 1, sections);
    }
}

/// Only those that contain something: a tree of all leaves is long, and says nothing about what can be edited.
fn show_sections(text: &mut String, depth: usize, sections: &Sections) {
    for section in &sections.list {
        match &section.content {
            Content::Volume(volume) => show_volume(text, depth, "", volume),
            Content::Sections(inner) => {
                line(text, depth, inner.length(), section.name());
                show_sections(text, depth + 1, inner);
            }
            Content::Packed(packed) => {
                let unpacked = packed.sections.length();
                let what = format!("{}, {unpacked} bytes unpacked", section.name());
                line(text, depth, packed.bytes.len(), &what);
                show_sections(text, depth + 1, &packed.sections);
            }
            Content::Bytes(bytes) if is_unread(section) => {
                line(text, depth, bytes.len(), section.name());
            }
            Content::Bytes(_) => {}
        }
    }
}

/// Whether a section contains more than is looked into.
fn is_unread(section: &Section) -> bool {
    matches!(section.kind, 0x01 | 0x02 | VOLUME_IMAGE)
}
