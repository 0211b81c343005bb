//! Edits of a ROM: files are removed and inserted, and a program is put in place of another. The result is read back before
//! it is given away.

use std::collections::BTreeSet;

use glob::{MatchOptions, Pattern};
use uuid::Uuid;

use super::error::Error;
use super::layout;
use super::volume::FirmwareVolume;
use super::volume::file::{DXE_CORE, FirmwareFile};
use super::volume::section::{Content, Sections};
use super::{AreaContent, Changes, Rom, guard, names, program, verify};

/// What shall be done to a ROM.
#[derive(Debug, Default)]
pub(crate) struct Edit {
    /// Files by name, GUID or pattern, or a group of drivers.
    pub(crate) remove: Vec<String>,
    /// The file whose program is replaced, by name or GUID, and the program; of a UEFI Shell without a name.
    pub(crate) replace: Option<(Option<String>, Vec<u8>)>,
    /// What a file for the volume of the DXE drivers is called, and the whole of it (FFS).
    pub(crate) insert: Vec<(String, Vec<u8>)>,
}

/// The image with the edit done. Nothing is changed outside of the volumes with the files that are edited.
pub(crate) fn apply(image: &[u8], edit: &Edit) -> Result<Vec<u8>, Error> {
    guard::check(image)?;
    let mut rom = Rom::parse(image);
    let plan = plan(&rom, image, edit)?;
    let removable = removable(&rom, &plan);
    for area in &mut rom.areas {
        if !plan.reach(area) {
            continue;
        }
        if let AreaContent::Volume(volume) = &mut area.content {
            edit_volume(volume, &plan).map_err(|failure| match failure {
                Failure::Other(error) => error,
                Failure::Room { missing, inner } => {
                    let what = match plan.replace {
                        _ if !plan.insert.is_empty() => "what is inserted",
                        Some(_) => "the kernel",
                        None => "what is left",
                    };
                    room(missing, what, inner, area.offset, &removable)
                }
            })?;
        }
    }
    let result = rom.write();
    drop(rom);
    verify::result(image, &result, &plan)?;
    Ok(result)
}

/// Find the files that are meant, and refuse what cannot be done.
fn plan<'a>(rom: &Rom, image: &[u8], edit: &'a Edit) -> Result<Changes<'a>, Error> {
    let within = match guard::regions(image) {
        Some(regions) => {
            let mut regions = regions.into_iter();
            let bios = regions.find(|region| region.name == guard::BIOS);
            bios.ok_or(Error::NoBios)?.range
        }
        None => 0..image.len(),
    };
    let mut plan = Changes {
        within,
        remove: BTreeSet::new(),
        replace: None,
        insert: Vec::new(),
    };
    let mut files = Vec::new();
    for area in rom.areas.iter().filter(|area| plan.reach(area)) {
        if let AreaContent::Volume(volume) = &area.content {
            files_of(volume, &mut files);
        }
    }
    if let Some(error) = rom.not_understood() {
        return Err(Error::Unknown(error.to_string()));
    }
    if files.is_empty() {
        return Err(Error::NoVolume);
    }
    for word in &edit.remove {
        let found: Vec<_> = files.iter().filter(|file| is_meant(word, file)).collect();
        if found.is_empty() {
            return Err(Error::NotFound(word.clone()));
        }
        for file in found {
            if !is_removable(file) {
                return Err(needed(file));
            }
            plan.remove.insert(file.name);
        }
    }
    // All files of a GUID are removed, also those that the word did not mean.
    let removed = |file: &&&FirmwareFile| plan.remove.contains(&file.name);
    if let Some(file) = files
        .iter()
        .filter(removed)
        .find(|file| !is_removable(file))
    {
        return Err(needed(file));
    }
    if let Some((word, program)) = &edit.replace {
        let found: Vec<_> = files
            .iter()
            .filter(|file| match word {
                Some(word) => is_meant(word, file),
                None => names::SHELLS.contains(&file.name) || is_meant("Shell", file),
            })
            .collect();
        let word = word.as_deref().unwrap_or("UEFI Shell");
        let file = match found.as_slice() {
            [] => return Err(Error::NotFound(word.to_owned())),
            [file] => file,
            several => {
                let guids: Vec<_> = several.iter().map(|file| file.name.to_string()).collect();
                return Err(Error::Ambiguous(
                    word.to_owned(),
                    several.len(),
                    guids.join(", "),
                ));
            }
        };
        if plan.remove.contains(&file.name) {
            return Err(Error::Both(file.title()));
        }
        let same = files.iter().filter(|other| other.name == file.name).count();
        if same > 1 {
            let guid = file.name.to_string();
            return Err(Error::Ambiguous(word.to_owned(), same, guid));
        }
        program::check_machine(file, "the kernel", program)?;
        program::check_place(file, program)?;
        plan.replace = Some((file.name, program.as_slice()));
    }
    for (called, bytes) in &edit.insert {
        let file = insertion(bytes, &files, &plan);
        let file = file.map_err(|error| Error::Insert(called.clone(), error.to_string()))?;
        plan.insert.push(file);
    }
    Ok(plan)
}

/// A file to insert, unless it cannot be put beside these files.
fn insertion(
    bytes: &[u8],
    files: &[&FirmwareFile],
    plan: &Changes<'_>,
) -> Result<FirmwareFile, Error> {
    let file = FirmwareFile::parse_alone(bytes).map_err(|error| Error::NoFile(error.into()))?;
    if !names::is_removable(file.kind) {
        return Err(Error::NoDriver(names::kind(file.kind)));
    }
    let mut there = files.iter().map(|other| other.name);
    if plan.inserts(file.name)
        || !plan.remove.contains(&file.name) && there.any(|name| name == file.name)
    {
        return Err(Error::There(file.name));
    }
    if holds_a_volume(&file) {
        return Err(Error::NoDriver("file that contains a firmware volume"));
    }
    let mut cores = files.iter().filter(|file| file.kind == DXE_CORE);
    let (Some(core), None) = (cores.next(), cores.next()) else {
        return Err(Error::NoCore);
    };
    program::check_driver(core, &file)?;
    Ok(file)
}

fn needed(file: &FirmwareFile) -> Error {
    Error::Needed(file.title(), file.name, names::kind(file.kind))
}

/// Call something with each volume in these sections, but not with those inside the volumes.
fn volumes_of<'a>(sections: &'a Sections, each: &mut impl FnMut(&'a FirmwareVolume)) {
    for section in &sections.list {
        match &section.content {
            Content::Volume(volume) => each(volume),
            Content::Sections(sections) => volumes_of(sections, each),
            Content::Packed(packed) => volumes_of(&packed.sections, each),
            Content::Bytes(_) => {}
        }
    }
}

fn holds_a_volume(file: &FirmwareFile) -> bool {
    let mut found = false;
    if let Some(sections) = &file.sections {
        volumes_of(sections, &mut |_| found = true);
    }
    found
}

/// All files but pads, those in volumes inside too.
fn files_of<'a>(volume: &'a FirmwareVolume, files: &mut Vec<&'a FirmwareFile>) {
    for file in &volume.files {
        if file.is_gap(volume.erased) {
            continue;
        }
        files.push(file);
        if let Some(sections) = &file.sections {
            volumes_of(sections, &mut |volume| files_of(volume, files));
        }
    }
}

/// Whether a word names a file: by GUID, by name in capitals or not, by a pattern of names, by a group of drivers.
fn is_meant(word: &str, file: &FirmwareFile) -> bool {
    if let Ok(guid) = Uuid::parse_str(word) {
        return file.name == guid;
    }
    // The names in a volume are not those of the file that it is in.
    if file.kind == 0x0b {
        return false;
    }
    let Some(name) = file.user_interface() else {
        return false;
    };
    if let Some(group) = names::group(word) {
        return group
            .iter()
            .any(|member| member.eq_ignore_ascii_case(&name));
    }
    let options = MatchOptions {
        case_sensitive: false,
        ..MatchOptions::new()
    };
    Pattern::new(word).is_ok_and(|pattern| pattern.matches_with(&name, options))
}

/// Whether the firmware may do without it, and what is inside.
fn is_removable(file: &FirmwareFile) -> bool {
    let mut files = vec![file];
    if let Some(sections) = &file.sections {
        volumes_of(sections, &mut |volume| files_of(volume, &mut files));
    }
    files.into_iter().all(|file| {
        names::is_removable(file.kind)
            && !names::ORDERS.contains(&file.name)
            && file
                .user_interface()
                .is_none_or(|name| !names::is_needed(&name))
    })
}

/// The largest files that could be removed too.
fn removable(rom: &Rom, plan: &Changes<'_>) -> String {
    let mut files = Vec::new();
    for volume in rom.volumes() {
        files_of(volume, &mut files);
    }
    files.retain(|file| {
        is_removable(file)
            && !plan.remove.contains(&file.name)
            && plan.replace.is_none_or(|(guid, _)| guid != file.name)
    });
    files.sort_by_key(|file| std::cmp::Reverse(file.length()));
    let names: Vec<_> = files
        .iter()
        .take(20)
        .map(|file| format!("{} {}", file.title(), file.length()))
        .collect();
    names.join(", ")
}

/// What went wrong in a volume.
enum Failure {
    Room {
        missing: usize,
        /// Whether the volume is inside a file.
        inner: bool,
    },
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

fn room(missing: usize, what: &str, inner: bool, at: usize, removable: &str) -> Error {
    let (volume, counted) = if inner {
        ("a volume inside ", "")
    } else {
        ("", ", compressed")
    };
    let largest = if removable.is_empty() {
        "nothing is left that could be removed".to_owned()
    } else {
        format!(
            "the largest files that could be removed too (--remove), in bytes before compression: {removable}"
        )
    };
    Error::Room(format!(
        "{what} does not fit into {volume}the volume at {at:#x}: {missing} bytes are missing in the largest gap{counted}; {largest}"
    ))
}

/// Whether anything was changed.
fn edit_volume(volume: &mut FirmwareVolume, plan: &Changes<'_>) -> Result<bool, Failure> {
    let inserted = plan.insertions(volume);
    if let Some(file) = inserted.iter().find(|file| !volume.aligns(file)) {
        return Err(Error::Alignment(file.title(), file.alignment(), volume.alignment()).into());
    }
    let mut changed = Vec::new();
    let mut kept = Vec::new();
    let mut is_changed = !inserted.is_empty();
    for mut file in std::mem::take(&mut volume.files) {
        if plan.remove.contains(&file.name) {
            is_changed = true;
            continue;
        }
        let mut file_changed = match &mut file.sections {
            Some(sections) => edit_sections(sections, plan)?,
            None => false,
        };
        if let Some((guid, program)) = plan.replace
            && guid == file.name
        {
            program::replace(&mut file, program)?;
            file_changed = true;
        }
        is_changed |= file_changed;
        if file_changed {
            changed.push(file);
        } else {
            kept.push(file);
        }
    }
    volume.files = kept;
    if is_changed {
        // After those that have a place already.
        let inserted = inserted.iter().cloned();
        changed.extend(inserted.map(|file| file.unplaced(volume.erased)));
        let failed = |layout::NoRoom { missing }| Failure::Room {
            missing,
            inner: false,
        };
        layout::arrange(volume, changed).map_err(failed)?;
    }
    Ok(is_changed)
}

/// Edit the volumes inside.
fn edit_sections(sections: &mut Sections, plan: &Changes<'_>) -> Result<bool, Failure> {
    let mut is_changed = false;
    for section in &mut sections.list {
        let section_changed = match &mut section.content {
            Content::Bytes(_) => false,
            Content::Sections(sections) => edit_sections(sections, plan)?,
            Content::Volume(volume) => {
                edit_volume(volume, plan).map_err(|failure| match failure {
                    Failure::Room { missing, .. } => Failure::Room {
                        missing,
                        inner: true,
                    },
                    other @ Failure::Other(_) => other,
                })?
            }
            Content::Packed(packed) => edit_sections(&mut packed.sections, plan)?,
        };
        if section_changed {
            section.pack()?;
        }
        is_changed |= section_changed;
    }
    Ok(is_changed)
}
