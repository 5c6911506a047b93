//! A sound file whose log goes on with small commits of somebody else's making. What they do is decoded here once more, as
//! `docs/format.md` says it: where it makes sense the database holds just that, in memory and, after a checkpoint, in pages;
//! where it does not, opening is an error and writes nothing.
//!
//! | bytes | meaning                                                                              |
//! |------:|--------------------------------------------------------------------------------------|
//! |     1 | which base                                                                           |
//! |     1 | bit 0: open for reading only                                                         |
//! |       | commits, and in each                                                                 |
//! |     1 | whose: an owner below 8, or, from 240 on, any; bits 3 and 4: how many bytes are changed |
//! |     1 | how many effects                                                                     |
//! |       | effects: how it is shaped, table, key, value; then places and other bytes            |

use crate::{
    bases::Base,
    disk::Disk,
    format::LogEnd,
    input::Input,
    memory::Meter,
    visit::{Visit, visit},
};
use spinney::{Database, Error, Options, Result};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, OnceLock},
};

const COMMITS_MAX: usize = 12;
const EFFECTS_MAX: usize = 24;
const BUDGET_BYTES: u64 = 1 << 20;
/// No owner from here on exists in a base.
const OWNERS: u32 = 8;
/// Numbers of tables: the one that every family has, and the one that no effect may name.
const DEFAULT: u32 = 0;
const DIRECTORY: u32 = u32::MAX;

/// The entries of default tables, by owner.
type Contents = BTreeMap<u32, BTreeMap<Vec<u8>, Vec<u8>>>;

/// What somebody decided from the log's bytes alone.
struct Model {
    contents: Contents,
    /// Some commit makes no sense.
    is_malformed: bool,
    /// Every effect is one that the engine might have written: pages can take it, and counts stay right.
    is_honest: bool,
}

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let number = input.byte();
    let base = Base::of(number);
    let read_only = input.byte() & 1 != 0;
    let mut model = Model { contents: contents_of(base), is_malformed: false, is_honest: true };
    let mut file = base.file.clone();
    let mut end = LogEnd::of(&base.layout, &file);
    for _ in 0..COMMITS_MAX {
        if input.is_empty() {
            break;
        }
        let whose = input.byte();
        let owner = if whose < 240 { u32::from(whose) % OWNERS } else { input.u32() };
        let effects = effects(&mut input, whose >> 3 & 3);
        if !end.append(&base.layout, &mut file, &[ops_record(owner, &effects)]) {
            break;
        }
        model.commit(base, owner, &effects);
    }
    compare(&file, &model, read_only);
    visit(&file, Visit { read_only, len: 0 });
}

/// One commit's effects, encoded; `damage` bytes of them are others.
fn effects(input: &mut Input<'_>, damage: u8) -> Vec<u8> {
    let count = input.below(EFFECTS_MAX + 1);
    let mut out = if count == 0 { Vec::new() } else { vec![1] };
    for _ in 0..count {
        let shape = input.byte();
        let kind = if shape & 3 == 0 { 2 } else { 1 };
        let has_table = shape & 0x0C == 0x0C;
        out.push(kind | u8::from(has_table) << 3 | (shape >> 4 & 3) << 4);
        if has_table {
            put_varint(&mut out, u32::from(input.byte() % 6) + 1);
        }
        let key = key(input);
        let value = if kind == 1 { vec![input.byte(); value_len(input)] } else { Vec::new() };
        put_varint(&mut out, key.len() as u32);
        if kind == 1 {
            put_varint(&mut out, value.len() as u32);
        }
        out.extend(key);
        out.extend(value);
    }
    for _ in 0..damage {
        let (at, byte) = (usize::from(input.u16()), input.byte());
        match out.len() {
            0 => out.push(byte),
            len if byte == 0 => out.truncate(at % len),
            len => out[at % len] ^= byte,
        }
    }
    out
}

/// Keys that bases have, and others; rarely one that no tree takes.
fn key(input: &mut Input<'_>) -> Vec<u8> {
    let n = input.byte();
    match n {
        0..160 => u32::from(n).to_be_bytes().to_vec(),
        160..200 => format!("key {n:06}").into_bytes(),
        200..230 => vec![n; usize::from(n - 200) * 30],
        230..250 => input.bytes(usize::from(n - 230)).to_vec(),
        _ => vec![n; 1020 + usize::from(input.byte() % 8)],
    }
}

fn value_len(input: &mut Input<'_>) -> usize {
    let n = usize::from(input.byte());
    match n {
        0..230 => n,
        230..250 => 1000 + 4 * (n - 230),
        _ => 6000,
    }
}

fn put_varint(out: &mut Vec<u8>, mut n: u32) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A commit of one owner's effects.
fn ops_record(owner: u32, effects: &[u8]) -> Vec<u8> {
    const COMMIT: u8 = 1;
    const OPS: u8 = 2;
    let len = 8 + 12 + effects.len() as u32;
    let mut record = len.to_le_bytes().to_vec();
    record.extend([COMMIT, 0, 1, 0]);
    record.extend(owner.to_le_bytes());
    record.extend([OPS, 0, 0, 0]);
    record.extend((effects.len() as u32).to_le_bytes());
    record.extend_from_slice(effects);
    record
}

/// An effect: table, key, value, and whether the key is said to have been there, if it is said.
type Effect<'a> = (u32, &'a [u8], Option<&'a [u8]>, Option<bool>);

/// What the bytes of one commit say; `None` if they do not make sense: no transaction tells a key twice, out of order, or one that is longer
/// than a quarter of a page.
fn decode(bytes: &[u8], page_bytes: usize) -> Option<Vec<Effect<'_>>> {
    let Some((&version, mut rest)) = bytes.split_first() else { return Some(Vec::new()) };
    let mut out: Vec<Effect<'_>> = Vec::new();
    if version != 1 || rest.is_empty() {
        return None;
    }
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let table = if first & 8 != 0 { varint(&mut rest)? } else { DEFAULT };
        if first >> 6 != 0 || first & 48 == 48 || first & 8 != 0 && [DEFAULT, DIRECTORY].contains(&table) {
            return None;
        }
        let key_len = match first & 7 {
            1 | 2 => varint(&mut rest)? as usize,
            _ => return None,
        };
        let value_len = if first & 7 == 1 { Some(varint(&mut rest)? as usize) } else { None };
        let (key, after) = rest.split_at_checked(key_len)?;
        let (value, after) = after.split_at_checked(value_len.unwrap_or(0))?;
        rest = after;
        let is_next = out.last().is_none_or(|&(last_table, last_key, ..)| (last_table, last_key) < (table, key));
        if !is_next || key.len() > page_bytes / 4 {
            return None;
        }
        out.push((table, key, value_len.map(|_| value), (first & 32 == 0).then_some(first & 16 != 0)));
    }
    Some(out)
}

/// Seven bits per byte, the lowest first, as few bytes as will do, no more than 32 bits.
fn varint(rest: &mut &[u8]) -> Option<u32> {
    let mut n = 0u64;
    for i in 0..5 {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        n |= u64::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            return if byte == 0 && i > 0 { None } else { u32::try_from(n).ok() };
        }
    }
    None
}

impl Model {
    fn commit(&mut self, base: &Base, owner: u32, bytes: &[u8]) {
        let Some(effects) = decode(bytes, base.layout.page_bytes) else {
            self.is_malformed = true;
            return;
        };
        let Some(entries) = self.contents.get_mut(&owner) else {
            // Of nobody, or of the catalog: whatever comes of it.
            self.is_honest = false;
            return;
        };
        for (table, key, value, existed) in effects {
            self.is_honest &= table == DEFAULT && existed.is_none_or(|existed| existed == entries.contains_key(key));
            if table != DEFAULT {
                continue;
            }
            match value {
                Some(value) => drop(entries.insert(key.to_vec(), value.to_vec())),
                None => drop(entries.remove(key)),
            }
        }
    }
}

fn options() -> Options {
    Options::new().memory_budget(BUDGET_BYTES).background(false).create_missing(false)
}

fn compare(file: &[u8], model: &Model, read_only: bool) {
    let meter = Meter::new();
    let disk = Disk::new(file, 0);
    let db = match options().read_only(read_only).open_storage(Arc::new(disk.clone())) {
        Ok(db) => db,
        Err(error) => {
            assert!(matches!(error, Error::Damaged { .. } | Error::Corrupt { .. }), "{error:?}");
            assert!(model.is_malformed || !model.is_honest, "effects that make sense are refused: {error:?}");
            return;
        }
    };
    assert!(!model.is_malformed, "effects that make no sense are taken");
    if model.is_honest {
        assert!(read(&db).expect("it reads") == model.contents, "the database is not what its log says");
        assert!(db.check().expect("it can be checked").is_sound());
        if !read_only {
            db.checkpoint().expect("pages take what the engine might have written");
            assert!(read(&db).expect("it reads") == model.contents, "pages are not what the log said");
            let report = db.check().expect("it can be checked");
            assert!(report.is_sound(), "{:?}", report.problems);
        }
    } else if !read_only {
        drop(db.checkpoint());
    }
    drop(db);
    meter.assert_bounded(BUDGET_BYTES, disk.held() + 2 * file.len() as u64);
}

/// What default tables hold, as a user sees it; lengths and ranges agree.
fn read(db: &Database) -> Result<Contents> {
    let snapshot = db.snapshot();
    let mut contents = Contents::new();
    for info in snapshot.families()? {
        let Some(family) = db.open_family(&info.name)? else { continue };
        let entries = snapshot.range(&family, ..).map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())));
        let entries: BTreeMap<_, _> = entries.collect::<Result<_>>()?;
        assert_eq!(snapshot.len(&family)?, entries.len() as u64, "of {}", info.name);
        assert_eq!(snapshot.range(&family, ..).rev().count(), entries.len(), "of {} from the back", info.name);
        contents.insert(info.owner, entries);
    }
    Ok(contents)
}

/// What a base holds, read once.
fn contents_of(base: &'static Base) -> Contents {
    static KNOWN: OnceLock<Mutex<HashMap<usize, Contents>>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let read_base = || {
        let db = options().read_only(true).open_storage(Arc::new(Disk::new(&base.file, 0)));
        db.and_then(|db| read(&db)).expect("a base is sound")
    };
    known.entry(std::ptr::from_ref(base) as usize).or_insert_with(read_base).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn a_commit_behind_any_base_is_seen_and_the_model_notices_another() {
        for number in 0..Base::names().count() {
            let base = Base::of(number as u8);
            let before = contents_of(base);
            let mut model = Model { contents: before.clone(), is_malformed: false, is_honest: true };
            let mut file = base.file.clone();
            let owner = *before.keys().next().expect("a family");
            // Version 1: a put of 3 and 5 bytes.
            let effects = [&[1, 1, 3, 5][..], b"new", b"value"].concat();
            assert!(LogEnd::of(&base.layout, &file).append(&base.layout, &mut file, &[ops_record(owner, &effects)]));
            model.commit(base, owner, &effects);
            assert!(model.is_honest && model.contents != before);
            compare(&file, &model, false);
            let other = Model { contents: before, is_malformed: false, is_honest: true };
            assert!(catch_unwind(|| compare(&file, &other, true)).is_err(), "base {number}");
        }
    }

    /// `compare` asserts that it is refused when the model finds it malformed.
    #[test]
    fn effects_out_of_order_or_with_keys_too_long_are_refused() {
        for number in 0..Base::names().count() {
            let base = Base::of(number as u8);
            let key_len = base.layout.page_bytes / 4 + 1;
            let mut too_long = vec![1, 2];
            put_varint(&mut too_long, key_len as u32);
            too_long.resize(too_long.len() + key_len, b'k');
            for effects in [&[1, 2, 1, b'b', 2, 1, b'a'][..], &[1, 2, 1, b'a', 2, 1, b'a'], &too_long] {
                let mut model = Model { contents: contents_of(base), is_malformed: false, is_honest: true };
                let owner = *model.contents.keys().next().expect("a family");
                let mut file = base.file.clone();
                assert!(LogEnd::of(&base.layout, &file).append(&base.layout, &mut file, &[ops_record(owner, effects)]));
                model.commit(base, owner, effects);
                assert!(model.is_malformed);
                compare(&file, &model, true);
                compare(&file, &model, false);
            }
        }
    }
}
