//! EFI 1.1 compression, and Tiano, which is the same with a larger window: LZ77, and Huffman codes for each block (UEFI
//! specification, "Compression Algorithm Specification"). Only reading. The bytes may come from anybody.

#[cfg(test)]
pub(super) mod tests;

use std::io;

use crate::archive::decompress;

/// What the two differ in.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlidingWindow {
    name: &'static str,
    /// Of the numbers of bits that positions have.
    symbols: usize,
    /// Of the number of these symbols in the header of a block.
    bits: u32,
}

/// 8 KiB.
pub(super) const EFI: SlidingWindow = SlidingWindow {
    name: "EFI 1.1",
    symbols: 14,
    bits: 4,
};

/// 512 KiB.
pub(super) const TIANO: SlidingWindow = SlidingWindow {
    name: "Tiano",
    symbols: 20,
    bits: 5,
};

/// Characters, and lengths of strings from 3 to 256.
const CHARACTERS: usize = 510;
/// The lengths of the codes of characters, and what stands for many zeros.
const LENGTHS: usize = 19;
/// Bits of the longest code.
const LONGEST: usize = 16;

/// What the bytes unpack to, `limit` bytes or less.
pub(super) fn unpack(
    packed: &[u8],
    window: SlidingWindow,
    limit: u64,
) -> Result<Vec<u8>, decompress::Error> {
    let damaged = || {
        let why = io::ErrorKind::InvalidData.into();
        decompress::Error::Damaged(window.name, why)
    };
    let (header, rest) = packed.split_first_chunk::<8>().ok_or_else(damaged)?;
    let [compressed, original] = [0, 4].map(|at| {
        let size = header[at..at + 4].iter().rev();
        size.fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    });
    if original as u64 > limit {
        let packed = packed.len() as u64;
        return Err(decompress::Error::Bomb { packed, limit });
    }
    let body = rest.get(..compressed).ok_or_else(damaged)?;
    decode(body, original, window).ok_or_else(damaged)
}

/// `None` unless the blocks end where the original does.
fn decode(body: &[u8], original: usize, window: SlidingWindow) -> Option<Vec<u8>> {
    let mut bits = BitReader { bytes: body, at: 0 };
    let mut output = Vec::with_capacity(original);
    while output.len() < original {
        let count = bits.take(16)?;
        if count == 0 {
            return None;
        }
        let lengths = HuffmanCode::read(&mut bits, 5, LENGTHS, true)?;
        let characters = HuffmanCode::read_packed(&mut bits, &lengths)?;
        let positions = HuffmanCode::read(&mut bits, window.bits, window.symbols, false)?;
        for _ in 0..count {
            let symbol = characters.next(&mut bits)?;
            let room = original - output.len();
            if let Ok(character) = u8::try_from(symbol) {
                if room == 0 {
                    return None;
                }
                output.push(character);
                continue;
            }
            let length = symbol - 253;
            if length > room {
                return None;
            }
            let size = positions.next(&mut bits)?;
            let distance = match u32::try_from(size).ok()?.checked_sub(1) {
                None | Some(0) => size,
                Some(low) => 1 << low | bits.take(low)?,
            };
            let start = output.len().checked_sub(distance + 1)?;
            // The string may overlap with what it becomes.
            for at in start..start + length {
                output.push(output[at]);
            }
        }
    }
    bits.are_zeros().then_some(output)
}

/// Bits from the highest of a byte to the lowest.
struct BitReader<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl BitReader<'_> {
    /// The next 24 bits, zeros after the end.
    fn peek(&self) -> usize {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let word = (0..4).fold(0, |word, index| {
            word << 8 | usize::from(rest.get(index).copied().unwrap_or(0))
        });
        word >> (8 - self.at % 8) & 0xff_ffff
    }

    fn skip(&mut self, count: u32) -> Option<()> {
        self.at += count as usize;
        (self.at <= 8 * self.bytes.len()).then_some(())
    }

    /// A number of at most 24 bits.
    fn take(&mut self, count: u32) -> Option<usize> {
        let number = self.peek() >> (24 - count);
        self.skip(count)?;
        Some(number)
    }

    /// Whether what is left are zeros.
    fn are_zeros(&self) -> bool {
        let (byte, bit) = (self.at / 8, self.at % 8);
        self.bytes.get(byte).is_none_or(|first| first << bit == 0)
            && self.bytes.iter().skip(byte + 1).all(|byte| *byte == 0)
    }
}

/// A canonical Huffman code.
struct HuffmanCode {
    /// How many codes have so many bits; none, if there is only one symbol.
    counts: [usize; LONGEST + 1],
    /// In the order of their codes.
    symbols: Vec<u16>,
}

impl HuffmanCode {
    /// `None` unless each sequence of bits begins with one code.
    fn new(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0; LONGEST + 1];
        for length in lengths {
            *counts.get_mut(usize::from(*length))? += 1;
        }
        counts[0] = 0;
        let codes = counts.iter().enumerate();
        let used: usize = codes.map(|(bits, count)| count << (LONGEST - bits)).sum();
        if used != 1 << LONGEST {
            return None;
        }
        let length = |symbol: &u16| lengths[usize::from(*symbol)];
        let mut symbols: Vec<u16> = (0..u16::try_from(lengths.len()).ok()?)
            .filter(|symbol| length(symbol) > 0)
            .collect();
        symbols.sort_by_key(length);
        Some(Self { counts, symbols })
    }

    /// Of one symbol, which takes no bits.
    fn single(symbol: usize, symbols: usize) -> Option<Self> {
        Some(Self {
            counts: [0; LONGEST + 1],
            symbols: vec![u16::try_from(symbol).ok().filter(|_| symbol < symbols)?],
        })
    }

    /// The code whose lengths are in the header of a block: `size` is the number of bits of their number, and `gap` is whether
    /// the number of zeros after the third is there.
    fn read(bits: &mut BitReader<'_>, size: u32, symbols: usize, gap: bool) -> Option<Self> {
        let count = bits.take(size)?;
        if count == 0 {
            return Self::single(bits.take(size)?, symbols);
        }
        let mut lengths = vec![0; symbols];
        let mut at = 0;
        while at < count {
            let mut length = bits.take(3)?;
            while length >= 7 && bits.take(1)? == 1 {
                length += 1;
            }
            *lengths.get_mut(at)? = u8::try_from(length).ok()?;
            at += 1;
            if gap && at == 3 {
                at += bits.take(2)?;
            }
        }
        Self::new(&lengths)
    }

    /// The code of the characters, whose lengths are encoded themselves.
    fn read_packed(bits: &mut BitReader<'_>, code: &Self) -> Option<Self> {
        let count = bits.take(9)?;
        if count == 0 {
            return Self::single(bits.take(9)?, CHARACTERS);
        }
        let mut lengths = vec![0; CHARACTERS];
        let mut at = 0;
        while at < count {
            at += match code.next(bits)? {
                0 => 1,
                1 => bits.take(4)? + 3,
                2 => bits.take(9)? + 20,
                length => {
                    *lengths.get_mut(at)? = u8::try_from(length - 2).ok()?;
                    1
                }
            };
        }
        Self::new(&lengths)
    }

    /// The next symbol.
    fn next(&self, bits: &mut BitReader<'_>) -> Option<usize> {
        if let [symbol] = self.symbols[..] {
            return Some(usize::from(symbol));
        }
        let next = bits.peek();
        // The first code of so many bits, and how many codes are shorter.
        let (mut first, mut shorter) = (0, 0);
        for length in 1..=LONGEST {
            let code = next >> (24 - length);
            let count = self.counts[length];
            if code < first + count {
                bits.skip(u32::try_from(length).ok()?)?;
                return self
                    .symbols
                    .get(shorter + code - first)
                    .map(|symbol| usize::from(*symbol));
            }
            shorter += count;
            first = (first + count) << 1;
        }
        None
    }
}
