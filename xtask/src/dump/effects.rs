//! What a small commit did to a family, decoded from the byte table of effects.

use std::fmt::Write;

/// How many are shown one by one.
const SHOWN_MAX: usize = 8;

/// Lists effects; `None` when they are none.
pub(super) fn show(effects: &[u8], out: &mut String) -> Option<()> {
    let Some((&version, rest)) = effects.split_first() else {
        let _ = writeln!(out, "        nothing that is seen");
        return Some(());
    };
    if version != 1 {
        return None;
    }
    let mut cursor = Cursor(rest);
    let mut count = 0;
    while !cursor.0.is_empty() {
        let line = effect(&mut cursor)?;
        if count < SHOWN_MAX {
            let _ = writeln!(out, "        {line}");
        }
        count += 1;
    }
    if count > SHOWN_MAX {
        let _ = writeln!(out, "        and {} more", count - SHOWN_MAX);
    }
    Some(())
}

fn effect(cursor: &mut Cursor<'_>) -> Option<String> {
    let first = cursor.byte()?;
    let table = if first & 8 == 0 { 0 } else { cursor.number()? };
    if first & !0b1_1111 != 0 {
        return None;
    }
    let existed = if first & 16 == 0 { "" } else { " (was there)" };
    match first & 7 {
        1 => {
            let (key, value) = (cursor.number()?, cursor.number()?);
            let key = words(cursor.bytes(key)?);
            cursor.bytes(value)?;
            Some(format!("put {key}{existed} into table {table}: {value} bytes"))
        }
        2 => {
            let key = cursor.number()?;
            Some(format!("delete {}{existed} from table {table}", words(cursor.bytes(key)?)))
        }
        _ => None,
    }
}

fn words(key: &[u8]) -> String {
    format!("\"{}\"", key.escape_ascii())
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    /// A number in LEB128, of five bytes at most.
    fn number(&mut self) -> Option<usize> {
        let mut number = 0_usize;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}
