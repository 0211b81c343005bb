//! Reads an edited ROM back and compares it with the one before: what was to be changed is, and nothing else.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::error::Error;
use super::volume::FirmwareVolume;
use super::volume::section::{Content, Sections, first_difference};
use super::{AreaContent, Changes, Rom, program};

/// A file or a volume, for comparison.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    /// The files that it is in.
    path: Vec<Uuid>,
    name: Uuid,
    kind: u8,
    /// Of files that must not move.
    offset: Option<usize>,
    /// All of it, or without what has records of its own.
    content: Digest,
}

/// What is compared of some bytes, which themselves would take more memory.
type Digest = [u8; 32];

fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// An error unless `after` is `before` with the plan carried out.
pub(super) fn result(before: &[u8], after: &[u8], plan: &Changes<'_>) -> Result<(), Error> {
    let fail = |what: String| Err(Error::ReadBack(what));
    if before.len() != after.len() {
        return fail(format!("{} bytes became {}", before.len(), after.len()));
    }
    // One tree at a time: each is much larger than the image.
    let new = Rom::parse(after);
    if let Some(error) = new.not_understood() {
        return fail(error.to_string());
    }
    if let Some(offset) = first_difference(&new.write(), after) {
        return fail(format!("another byte at {offset:#x}"));
    }
    let found = records(&new, plan, false)?;
    drop(new);
    let old = Rom::parse(before);
    for area in &old.areas {
        let range = area.offset..area.offset + area.length();
        let is_edited = match &area.content {
            AreaContent::Volume(volume) => plan.reach(area) && concerns(volume, plan),
            _ => false,
        };
        if !is_edited && before[range.clone()] != after[range] {
            return fail(format!("what is at {:#x} has changed", area.offset));
        }
    }
    let expected = records(&old, plan, true)?;
    for (expected, found) in expected.iter().zip(&found) {
        if expected != found {
            return fail(format!("the file {} is not as expected", expected.name));
        }
    }
    if expected.len() != found.len() {
        return fail(format!("{} files, not {}", found.len(), expected.len()));
    }
    Ok(())
}

/// Whether a volume has a file that is edited.
fn concerns(volume: &FirmwareVolume, plan: &Changes<'_>) -> bool {
    fn inside(sections: &Sections, plan: &Changes<'_>) -> bool {
        sections.list.iter().any(|section| match &section.content {
            Content::Volume(volume) => concerns(volume, plan),
            Content::Sections(sections) => inside(sections, plan),
            Content::Packed(packed) => inside(&packed.sections, plan),
            Content::Bytes(_) => false,
        })
    }
    !plan.insertions(volume).is_empty()
        || volume.files.iter().any(|file| {
            plan.remove.contains(&file.name)
                || plan.replace.is_some_and(|(guid, _)| guid == file.name)
                || file
                    .sections
                    .as_ref()
                    .is_some_and(|sections| inside(sections, plan))
        })
}

/// All files and volumes of a ROM, in an order of their own; with the plan carried out on them if `edited`.
fn records(rom: &Rom, plan: &Changes<'_>, edited: bool) -> Result<Vec<Record>, Error> {
    let mut found = Vec::new();
    for area in &rom.areas {
        if let AreaContent::Volume(volume) = &area.content {
            let edited = edited && plan.reach(area);
            record_volume(volume, &mut Vec::new(), plan, edited, &mut found)?;
        }
    }
    found.sort();
    Ok(found)
}

fn record_volume(
    volume: &FirmwareVolume,
    path: &mut Vec<Uuid>,
    plan: &Changes<'_>,
    edited: bool,
    to: &mut Vec<Record>,
) -> Result<(), Error> {
    to.push(Record {
        path: path.clone(),
        name: volume.format(),
        kind: 0,
        offset: Some(volume.length()),
        content: digest(volume.header()),
    });
    let kept = volume
        .files
        .iter()
        .filter(|file| !(file.is_gap(volume.erased) || edited && plan.remove.contains(&file.name)));
    let inserted = if edited { plan.insertions(volume) } else { &[] };
    for file in kept.chain(inserted) {
        let mut record = Record {
            path: path.clone(),
            name: file.name,
            kind: file.kind,
            offset: Some(file.offset).filter(|_| !plan.inserts(file.name)),
            content: Digest::default(),
        };
        path.push(file.name);
        let inside = to.len();
        if let Some(sections) = &file.sections {
            record_sections(sections, path, plan, edited, to)?;
        }
        path.pop();
        match plan.replace {
            Some((guid, new)) if guid == file.name => {
                let mut file = file.clone();
                if edited {
                    program::replace(&mut file, new)?;
                } else if file.sections.as_ref().and_then(program::of) != Some(new) {
                    let what = "the kernel is not there".to_owned();
                    return Err(Error::ReadBack(what));
                }
                record.offset = None;
                record.content = digest(&file.content());
            }
            // A file with a volume grows, and may move then.
            _ if to.len() > inside => {
                record.offset = None;
                if let Some(sections) = &file.sections {
                    let mut bytes = Vec::new();
                    leaves(sections, &mut bytes);
                    record.content = digest(&bytes);
                }
            }
            _ => record.content = digest(&file.content()),
        }
        to.push(record);
    }
    Ok(())
}

/// What is in the sections beside volumes.
fn leaves(sections: &Sections, to: &mut Vec<u8>) {
    for section in &sections.list {
        to.push(section.kind);
        match &section.content {
            Content::Bytes(bytes) => to.extend(section.header.iter().chain(bytes)),
            Content::Volume(_) => {}
            Content::Sections(sections) => leaves(sections, to),
            Content::Packed(packed) => leaves(&packed.sections, to),
        }
    }
}

fn record_sections(
    sections: &Sections,
    path: &mut Vec<Uuid>,
    plan: &Changes<'_>,
    edited: bool,
    to: &mut Vec<Record>,
) -> Result<(), Error> {
    for section in &sections.list {
        match &section.content {
            Content::Bytes(_) => {}
            Content::Volume(volume) => record_volume(volume, path, plan, edited, to)?,
            Content::Sections(sections) => record_sections(sections, path, plan, edited, to)?,
            Content::Packed(packed) => record_sections(&packed.sections, path, plan, edited, to)?,
        }
    }
    Ok(())
}
