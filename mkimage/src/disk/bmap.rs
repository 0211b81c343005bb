//! The block map beside an image, by which bmaptool writes and verifies only what is in use
//! (github.com/yoctoproject/bmaptool, bmap format 2.0).

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::ops::Range;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

/// Bytes of a block of the map.
const BLOCK: u64 = 4096;

/// The map of an image of which `mapped` matters.
pub(crate) fn make(image: &File, mapped: &[Range<u64>]) -> io::Result<String> {
    let size = image.metadata()?.len();
    let mut ranges = String::new();
    let mut count = 0;
    for range in mapped {
        let (first, end) = (range.start / BLOCK, range.end.div_ceil(BLOCK));
        let bytes = first * BLOCK..(end * BLOCK).min(size);
        let hash = HEXLOWER.encode(&super::hash_range(image, &bytes)?);
        count += end - first;
        let _ = writeln!(
            ranges,
            "    <Range chksum=\"{hash}\">{first}-{}</Range>",
            end - 1
        );
    }
    let no_hash = "0".repeat(64);
    let map = format!(
        "<?xml version=\"1.0\" ?>\n\
         <bmap version=\"2.0\">\n  \
           <ImageSize>{size}</ImageSize>\n  \
           <BlockSize>{BLOCK}</BlockSize>\n  \
           <BlocksCount>{blocks}</BlocksCount>\n  \
           <MappedBlocksCount>{count}</MappedBlocksCount>\n  \
           <ChecksumType>sha256</ChecksumType>\n  \
           <BmapFileChecksum>{no_hash}</BmapFileChecksum>\n  \
           <BlockMap>\n{ranges}  </BlockMap>\n\
         </bmap>\n",
        blocks = size.div_ceil(BLOCK),
    );
    // The file's own hash is made with zeros in its place.
    let hash = HEXLOWER.encode(&Sha256::digest(map.as_bytes()));
    Ok(map.replacen(&no_hash, &hash, 1))
}
