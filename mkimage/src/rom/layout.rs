//! Puts changed files back into their volume. No other file moves: what runs in place was linked for its address, and
//! what is found by its address stays where it is. Removed files leave gaps, which pads fill.

use std::collections::BTreeMap;

use super::volume::FirmwareVolume;
use super::volume::file::FirmwareFile;

/// A volume has no room for a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    /// Bytes that it has too many for the largest gap.
    pub(super) missing: usize,
}

/// Bytes of the smallest pad.
const SMALLEST: usize = 24;
/// The most bytes of a pad whose size has 24 bits, as a multiple of eight.
const LARGEST: usize = 0xff_fff8;

/// Bytes between files that are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    begin: usize,
    end: usize,
    /// Behind the last file: it needs no pad.
    is_last: bool,
}

impl Gap {
    /// Whether a pad can fill the bytes between two offsets.
    fn can_be_padded(length: usize) -> bool {
        length == 0 || length >= SMALLEST
    }

    /// Where a file of so many bytes can begin in it, with its content aligned and gaps around it that pads can fill.
    fn room_for(self, file: &FirmwareFile, length: usize) -> Option<usize> {
        let header = file.header_length();
        let alignment = file.alignment().max(8);
        let mut content = (self.begin + header).next_multiple_of(alignment);
        while !Self::can_be_padded(content - header - self.begin) {
            content += alignment;
        }
        let begin = content - header;
        self.takes(begin, length).then_some(begin)
    }

    /// Whether a file that begins there leaves gaps that pads can fill.
    fn takes(self, begin: usize, length: usize) -> bool {
        let end = begin + length;
        let rest = self.end.checked_sub(end.next_multiple_of(8));
        let ends_well = if self.is_last {
            end <= self.end
        } else {
            rest.is_some_and(Self::can_be_padded)
        };
        ends_well && Self::can_be_padded(begin - self.begin)
    }

    /// What is left of it around a file.
    fn without(self, begin: usize, length: usize) -> impl Iterator<Item = Self> {
        let before = Self {
            end: begin,
            is_last: false,
            ..self
        };
        let after = Self {
            begin: (begin + length).next_multiple_of(8),
            ..self
        };
        [before, after]
            .into_iter()
            .filter(|gap| gap.begin < gap.end)
    }
}

/// The gaps of a volume whose files in use are these, in order, by where they begin.
fn gaps(volume: &FirmwareVolume, files: &[FirmwareFile]) -> BTreeMap<usize, Gap> {
    let mut gaps = BTreeMap::new();
    let mut begin = volume.first();
    let ends = files.iter().map(|file| (file.offset, file.length()));
    for (end, length) in ends.chain([(volume.length(), 0)]) {
        if begin < end {
            let is_last = end == volume.length();
            gaps.insert(
                begin,
                Gap {
                    begin,
                    end,
                    is_last,
                },
            );
        }
        begin = (end + length).next_multiple_of(8);
    }
    gaps
}

/// Put files into a volume that they were taken from: where they were if they fit there, else into the first gap.
pub(super) fn arrange(
    volume: &mut FirmwareVolume,
    mut changed: Vec<FirmwareFile>,
) -> Result<(), NoRoom> {
    let erased = volume.erased;
    let all = std::mem::take(&mut volume.files);
    let (pads, mut files): (Vec<_>, Vec<_>) = all.into_iter().partition(|file| file.is_gap(erased));
    let mut gaps = gaps(volume, &files);
    // What must not move goes first, before others take its place.
    changed.sort_by_key(|file| !file.is_fixed());
    for mut file in changed {
        let fits = file.fit_size(volume.large_files);
        fits.map_err(|missing| NoRoom { missing })?;
        let length = file.length();
        let at_home = gaps.range(..=file.offset).next_back();
        let is_aligned = (file.offset + file.header_length()).is_multiple_of(file.alignment());
        let at_home = at_home
            .filter(|(_, gap)| is_aligned && gap.takes(file.offset, length))
            .map(|(_, gap)| (*gap, file.offset));
        let place = at_home.or_else(|| {
            let mut rooms = gaps.values().filter(|_| !file.is_fixed());
            rooms.find_map(|gap| Some((*gap, gap.room_for(&file, length)?)))
        });
        let Some((gap, offset)) = place else {
            let largest = gaps.values().map(|gap| gap.end - gap.begin).max();
            // By alignment more may be missing than by size.
            let missing = length.saturating_sub(largest.unwrap_or(0));
            return Err(NoRoom {
                missing: missing.max(8),
            });
        };
        gaps.remove(&gap.begin);
        gaps.extend(gap.without(offset, length).map(|gap| (gap.begin, gap)));
        file.offset = offset;
        files.push(file);
    }
    let mut pads: BTreeMap<_, _> = pads.into_iter().map(|pad| (pad.offset, pad)).collect();
    for gap in gaps.into_values().filter(|gap| !gap.is_last) {
        let is_same = |pad: &FirmwareFile| pad.length() == gap.end - gap.begin;
        match pads.remove(&gap.begin).filter(is_same) {
            Some(pad) => files.push(pad),
            None => files.extend(fill(gap, erased)),
        }
    }
    files.sort_by_key(|file| file.offset);
    volume.files = files;
    Ok(())
}

/// Pads that fill a gap.
fn fill(gap: Gap, erased: u8) -> Vec<FirmwareFile> {
    let mut pads = Vec::new();
    let mut at = gap.begin;
    while at < gap.end {
        let rest = gap.end - at;
        // What is left must be fillable too.
        let length = if rest <= LARGEST {
            rest
        } else {
            (rest - SMALLEST).min(LARGEST)
        };
        pads.push(FirmwareFile::pad(at, length, erased));
        at += length;
    }
    pads
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::volume::file::PAD;
    use super::super::volume::file::testing::{file, with_attributes};
    use super::super::volume::section::testing::{leaf, sections};
    use super::super::volume::testing::volume;
    use super::*;

    /// A file of so many bytes, header included.
    fn sized(name: u8, length: usize) -> FirmwareFile {
        file(
            name,
            7,
            sections(vec![leaf(0x19, &vec![name; length - 28])]),
        )
    }

    /// The file at another offset.
    fn moved(offset: usize, mut file: FirmwareFile) -> FirmwareFile {
        file.offset = offset;
        file
    }

    fn offsets(volume: &FirmwareVolume) -> Vec<(usize, u8, usize)> {
        let files = volume.files.iter();
        files
            .map(|file| (file.offset, file.name.as_bytes()[0], file.length()))
            .collect()
    }

    /// Whether reading what is written gives the same.
    fn reads_back(volume: &FirmwareVolume) {
        let mut bytes = Vec::new();
        volume.write(&mut bytes);
        let mut reader = super::super::reader::Reader::new(bytes.len());
        let again = FirmwareVolume::parse_faithfully(&bytes, 0, &mut reader).unwrap();
        assert_eq!(offsets(&again), offsets(volume));
    }

    fn three() -> FirmwareVolume {
        volume(4096, vec![sized(1, 100), sized(2, 200), sized(3, 100)])
    }

    #[test]
    fn a_removed_file_becomes_a_pad_and_nothing_moves() {
        let mut volume = three();
        volume.files.remove(1);
        arrange(&mut volume, Vec::new()).unwrap();
        assert_eq!(
            offsets(&volume),
            [(72, 1, 100), (176, 0xff, 200), (376, 3, 100)]
        );
        assert_eq!(volume.files[1].kind, PAD);
        reads_back(&volume);
    }

    #[test]
    fn a_file_that_shrinks_stays_and_one_that_grows_goes_where_room_is() {
        let mut shrunk = three();
        let old = shrunk.files.remove(1);
        let new = moved(old.offset, sized(2, 150));
        arrange(&mut shrunk, vec![new]).unwrap();
        assert_eq!(
            offsets(&shrunk),
            [(72, 1, 100), (176, 2, 150), (328, 0xff, 48), (376, 3, 100)]
        );
        reads_back(&shrunk);

        let mut grown = three();
        grown.files.remove(1);
        let new = moved(176, sized(2, 201));
        arrange(&mut grown, vec![new]).unwrap();
        assert_eq!(
            offsets(&grown),
            [(72, 1, 100), (176, 0xff, 200), (376, 3, 100), (480, 2, 201)]
        );
        reads_back(&grown);
    }

    #[test]
    fn a_gap_that_no_pad_fills_is_avoided() {
        let mut volume = three();
        volume.files.remove(1);
        // 8 bytes would be left.
        let new = moved(176, sized(2, 192));
        arrange(&mut volume, vec![new]).unwrap();
        assert_eq!(volume.files.last().unwrap().offset, 480);
        reads_back(&volume);
    }

    #[test]
    fn content_is_aligned_in_its_volume() {
        for (attributes, alignment) in [(0x08, 16), (0x10, 128), (0x18, 512), (0x20, 1024)] {
            let mut volume = three();
            volume.files.remove(1);
            let new = moved(176, with_attributes(sized(2, 300), attributes));
            arrange(&mut volume, vec![new]).unwrap();
            let file = volume.files.last().unwrap();
            assert_eq!((file.offset + 24) % alignment, 0);
            assert_eq!(file.alignment(), alignment);
            reads_back(&volume);
        }
        let alignment = |attributes| with_attributes(sized(1, 50), attributes).alignment();
        assert_eq!(
            [0x28, 0x30, 0x38, 0x02, 0x3a].map(alignment),
            [4 << 10, 32 << 10, 64 << 10, 128 << 10, 16 << 20]
        );
    }

    #[test]
    fn what_does_not_fit_says_what_is_missing() {
        let free = 4096 - 480;
        for (length, expected) in [
            (free, Ok(())),
            (free + 1, Err(NoRoom { missing: 8 })),
            (free + 1000, Err(NoRoom { missing: 1000 })),
        ] {
            let mut volume = three();
            volume.files.remove(1);
            let new = moved(176, sized(2, length));
            assert_eq!(arrange(&mut volume, vec![new]), expected, "{length}");
        }
    }

    #[test]
    fn a_fixed_file_never_moves() {
        let mut volume = three();
        volume.files.remove(1);
        let new = moved(176, with_attributes(sized(2, 300), 0x04));
        assert!(arrange(&mut volume, vec![new]).is_err());
    }

    #[test]
    fn a_file_of_more_than_16_mib_has_a_size_of_64_bits_or_does_not_fit() {
        const MORE: usize = (16 << 20) + 100;
        for (large_files, expected) in [(true, Ok(())), (false, Err(NoRoom { missing: 106 }))] {
            let mut volume = volume(40 << 20, vec![sized(1, 100), sized(2, 17 << 20)]);
            volume.large_files = large_files;
            volume.files.pop();
            // A section of so many bytes has a longer header too.
            let new = moved(176, sized(2, MORE));
            assert_eq!(arrange(&mut volume, vec![new]), expected);
            if large_files {
                let mut bytes = Vec::new();
                volume.files[1].write(&mut bytes);
                assert_eq!(bytes.len(), MORE + 12);
                assert_eq!(bytes[20..23], [0; 3]);
                assert_eq!(bytes[24..32], (MORE as u64 + 12).to_le_bytes());
            }
        }
    }

    #[test]
    fn a_pad_with_attributes_of_its_own_stays_if_its_gap_does() {
        let mut volume = three();
        let pad = with_attributes(FirmwareFile::pad(176, 200, 0xff), 0x40);
        volume.files[1] = pad.clone();
        let bytes = |file: &FirmwareFile| {
            let mut bytes = Vec::new();
            file.write(&mut bytes);
            bytes
        };
        let new = moved(376, sized(3, 80));
        volume.files.pop();
        arrange(&mut volume, vec![new]).unwrap();
        assert_eq!(bytes(&volume.files[1]), bytes(&pad));
        assert_eq!(volume.files.len(), 3);
        reads_back(&volume);
    }

    #[test]
    fn gaps_larger_than_a_pad_take_several() {
        let gap = Gap {
            begin: 72,
            end: 72 + LARGEST + 8,
            is_last: false,
        };
        let pads = fill(gap, 0xff);
        assert_eq!(
            pads.iter().map(FirmwareFile::length).collect::<Vec<_>>(),
            [LARGEST - 16, 24]
        );
        assert_eq!(pads[1].offset, 72 + LARGEST - 16);
    }

    proptest! {
        #[test]
        fn whatever_is_removed_or_changed_all_else_stays_and_no_file_is_lost(
            files in prop::collection::vec((28_usize..300, 0..6, 28_usize..400), 1..20),
            room in 0_usize..2000,
        ) {
            let list: Vec<_> = (0_u8..)
                .zip(&files)
                .map(|(name, (length, ..))| sized(name, *length))
                .collect();
            let used: usize = files.iter().map(|(length, ..)| length.next_multiple_of(8)).sum();
            let mut volume = volume((72 + used + room).next_multiple_of(8), list);
            let mut changed = Vec::new();
            let (mut kept, mut pads) = (Vec::new(), Vec::new());
            for (file, (_, action, length)) in volume.files.into_iter().zip(files) {
                match action {
                    0 => {}
                    1 => {
                        let new = sized(file.name.as_bytes()[0], length);
                        changed.push(moved(file.offset, new));
                    }
                    2 => pads.push(FirmwareFile::pad(file.offset, file.length(), 0xff)),
                    _ => kept.push(file),
                }
            }
            volume.files = [&kept[..], &pads].concat();
            volume.files.sort_by_key(|file| file.offset);
            let names: Vec<_> = changed.iter().map(|file| (file.name, file.length())).collect();
            if arrange(&mut volume, changed).is_ok() {
                reads_back(&volume);
                let found: Vec<_> = volume.files.iter().filter(|file| file.kind != PAD).collect();
                prop_assert_eq!(found.len(), kept.len() + names.len());
                for file in kept {
                    prop_assert!(found.iter().any(|same| (same.name, same.offset) == (file.name, file.offset)));
                }
                for name in names {
                    prop_assert!(found.iter().any(|file| (file.name, file.length()) == name));
                }
            }
        }
    }
}
