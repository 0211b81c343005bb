//! Reads the text on a machine's screen from QEMU's picture of it. The font is learned from a picture whose text is known.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// A picture in PPM's binary form, P6.
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

/// Which of a cell's pixels differ from its ground.
type Glyph = Vec<bool>;

/// A text screen's characters as pictures.
pub struct Font {
    rows: usize,
    columns: usize,
    characters: HashMap<Glyph, char>,
}

impl Picture {
    /// Read a file.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file)?;
        let mut fields = bytes.splitn(4, u8::is_ascii_whitespace);
        ensure!(fields.next() == Some(b"P6"), "{} is no PPM", file.display());
        let mut number = || -> Result<usize> {
            let field = fields.next().context("the picture has no size")?;
            Ok(str::from_utf8(field)?.parse()?)
        };
        let (width, height) = (number()?, number()?);
        let data = bytes.len().checked_sub(3 * width * height);
        let data = &bytes[data.context("the picture is cut off")?..];
        let pixels = data.as_chunks().0.to_vec();
        Ok(Self {
            width,
            height,
            pixels,
        })
    }

    /// What is drawn in each cell of a screen of so many rows and columns.
    fn glyphs(&self, rows: usize, columns: usize) -> Vec<Glyph> {
        let (high, wide) = (self.height / rows, self.width / columns);
        let glyph = |row: usize, column: usize| {
            let lines = row * high..(row + 1) * high;
            let cell: Vec<[u8; 3]> = lines
                .flat_map(|line| &self.pixels[line * self.width + column * wide..][..wide])
                .copied()
                .collect();
            let count = |pixel: &&[u8; 3]| cell.iter().filter(|other| other == pixel).count();
            let ground = cell.iter().max_by_key(count).copied();
            cell.iter().map(|pixel| Some(*pixel) != ground).collect()
        };
        (0..rows * columns)
            .map(|cell| glyph(cell / columns, cell % columns))
            .collect()
    }
}

impl Font {
    /// From a picture that shows this text, of `columns` characters a row. An error when it does not: each
    /// character has one shape, and each shape is of one character.
    pub fn learn(picture: &Picture, text: &str, columns: usize) -> Result<Self> {
        let rows = text.chars().count() / columns;
        let mut font = Self {
            rows,
            columns,
            characters: HashMap::new(),
        };
        let mut shapes: HashMap<char, Glyph> = HashMap::new();
        for (glyph, c) in picture.glyphs(rows, columns).into_iter().zip(text.chars()) {
            let known = *font.characters.entry(glyph.clone()).or_insert(c);
            ensure!(known == c, "{known:?} and {c:?} look the same");
            let shape = shapes.entry(c).or_insert_with(|| glyph.clone());
            ensure!(
                *shape == glyph,
                "{c:?} looks in one place as it does not in another"
            );
        }
        Ok(font)
    }

    /// The rows of a picture as text, with U+FFFD for what was not in the one that was learned from.
    pub fn read(&self, picture: &Picture) -> String {
        let glyphs = picture.glyphs(self.rows, self.columns);
        let rows = glyphs.chunks(self.columns).map(|row| {
            let read = |glyph| self.characters.get(glyph).copied().unwrap_or('\u{fffd}');
            let text: String = row.iter().map(read).collect();
            text.trim_end().to_owned()
        });
        rows.collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cells of two by two pixels, some of them dark on light.
    fn picture(cells: &[[u8; 4]]) -> Picture {
        let row = |line: usize| cells.iter().flat_map(move |cell| &cell[2 * line..][..2]);
        let pixels = row(0).chain(row(1)).map(|value| [*value; 3]).collect();
        Picture {
            width: 2 * cells.len(),
            height: 2,
            pixels,
        }
    }

    const A: [u8; 4] = [0, 0, 0, 9];
    const INVERSE_A: [u8; 4] = [9, 9, 9, 0];
    const B: [u8; 4] = [9, 0, 0, 0];
    const BLANK: [u8; 4] = [0; 4];

    #[test]
    fn a_font_is_learned_from_what_is_known_and_reads_what_is_not() {
        let font = Font::learn(&picture(&[A, B, INVERSE_A, BLANK]), "aba ", 4).unwrap();
        assert_eq!(font.read(&picture(&[B, INVERSE_A, B, B])), "babb");
        assert_eq!(
            font.read(&picture(&[B, [0, 7, 0, 0], B, BLANK])),
            "b\u{fffd}b"
        );
    }

    #[test]
    fn a_picture_of_another_text_is_refused() {
        for text in ["ab", "a "] {
            assert!(Font::learn(&picture(&[A, A]), text, 2).is_err(), "{text}");
        }
        assert!(Font::learn(&picture(&[A, B]), "aa", 2).is_err());
    }
}
