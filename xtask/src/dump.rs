//! What is in a database file, for people: superblocks, log, map and owner table, or one page.
//!
//! Decodes from the byte tables alone and shares no code with the engine: what it prints is what is written down, and a
//! difference between the two shows here. It takes no lock and writes nothing; a database that is in use
//! may change while it is read. A damaged file is shown as far as it can be.

pub(crate) mod bytes; // numbers out of bytes that may be too few
mod effects; // what small commits did
pub(crate) mod image; // the file, its pages and their checksums
pub(crate) mod log; // groups and their records
mod map; // which pages are free
mod node; // leaves and branches
mod owners; // where families begin
mod page; // any page, by its number
pub(crate) mod superblock; // where everything else begins

use crate::dump::{image::Image, superblock::Superblock};
use anyhow::{Context, bail};
use std::{
    fmt::Write,
    io::{self, Write as _},
    path::PathBuf,
};

/// Which file, and which page of it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A database
    file: PathBuf,
    /// A page, by its number; without one the file as a whole
    page: Option<u64>,
}

/// Prints it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut image =
        Image::open(&arguments.file).with_context(|| format!("cannot read {}", arguments.file.display()))?;
    let mut text = String::new();
    let outcome = match arguments.page {
        None => whole(&mut image, &mut text),
        Some(number) => one_page(&mut image, number, &mut text),
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        written => written?,
    }
    outcome
}

/// Everything that says where pages are.
fn whole(image: &mut Image, out: &mut String) -> anyhow::Result<()> {
    let newest = superblock::show(image, out);
    let Some(superblock) = newest else { bail!("no valid superblock") };
    image.page_bytes = superblock.page_bytes;
    log::show(image, &superblock, out);
    map::show(image, &superblock, out);
    owners::show(image, &superblock, out);
    Ok(())
}

fn one_page(image: &mut Image, number: u64, out: &mut String) -> anyhow::Result<()> {
    let superblock = Superblock::newest(image);
    match &superblock {
        Some(superblock) => image.page_bytes = superblock.page_bytes,
        None => drop(writeln!(out, "no valid superblock: pages are taken to be {} bytes long", image.page_bytes)),
    }
    page::show(image, superblock.as_ref(), number, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinney::Options;
    use std::{fs, path::Path};

    /// A database with two families, a table, small and large values, and a log that was not folded into the map.
    fn database(path: &Path) {
        let db = Options::new().background(false).create(path).expect("created");
        let family = db.family("first").expect("created");
        db.family("second").expect("created");
        let mut txn = family.begin().expect("nobody else writes");
        for key in 0..2000_u32 {
            txn.insert(format!("key {key:05}"), "value".repeat(20)).expect("inserted");
        }
        txn.insert("large", vec![7; 300_000]).expect("inserted");
        txn.commit().expect("committed");
        db.checkpoint().expect("taken");
        let mut txn = family.begin().expect("nobody else writes");
        txn.insert("later", "than the checkpoint").expect("inserted");
        txn.commit().expect("committed");
        // A copy of the open file: closing would take a checkpoint.
        fs::copy(path, path.with_extension("copy")).expect("copied");
    }

    fn dump(path: &Path, page: Option<u64>) -> (String, bool) {
        let mut image = Image::open(path).expect("readable");
        let mut text = String::new();
        let outcome = match page {
            None => whole(&mut image, &mut text),
            Some(number) => one_page(&mut image, number, &mut text),
        };
        (text, outcome.is_ok())
    }

    #[test]
    fn a_file_and_each_of_its_pages_are_shown() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let path = home.path().join("db.spinney");
        database(&path);
        let path = path.with_extension("copy");
        let (text, is_whole) = dump(&path, None);
        assert!(is_whole, "{text}");
        for expected in [
            "superblock 0",
            "superblock 1",
            "newest",
            "anchor",
            "commit",
            "put \"later\" into table 0: 19 bytes",
            "region 0",
            "owner 1: 2001 entries",
        ] {
            assert!(text.contains(expected), "{expected} is missing:\n{text}");
        }
        assert!(!text.contains("damaged"), "{text}");

        let pages = fs::metadata(&path).expect("it exists").len() / 4096;
        let mut all = String::new();
        for page in 0..pages {
            let (text, is_known) = dump(&path, Some(page));
            assert!(is_known, "page {page}: {text}");
            all += &text;
        }
        for expected in [
            "superblock",
            "map region",
            "map directory",
            "owner table",
            "owner directory",
            "leaf, table 0",
            "branch, table 0",
            "head of a large value",
            "block of the log",
            "\"key 01234\"",
            "\"ffirst\"",
        ] {
            assert!(all.contains(expected), "no page shows {expected}");
        }
        assert!(!dump(&path, Some(pages)).1, "a page beyond the end");
        assert!(!dump(&path, Some(u64::MAX)).1, "a page beyond any end");
    }

    #[test]
    fn damaged_files_are_shown_as_far_as_they_can_be() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let path = home.path().join("db.spinney");
        database(&path);
        let good = fs::read(path.with_extension("copy")).expect("readable");
        let used = good.len().min(64 * 4096);
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % below as u64).expect("below a usize")
        };
        for round in 0..60 {
            let mut bad = good.clone();
            for _ in 0..1 + round * 4 {
                let at = next(used);
                bad[at] = u8::try_from(next(256)).expect("a byte");
            }
            if round % 3 == 0 {
                bad.truncate(next(good.len()));
            }
            fs::write(&path, &bad).expect("written");
            dump(&path, None);
            for page in 0..used as u64 / 4096 {
                dump(&path, Some(page));
            }
        }
    }

    #[test]
    fn damage_behind_a_good_checksum_is_shown_too() {
        let home = tempfile::tempdir().expect("a temporary folder");
        let path = home.path().join("db.spinney");
        database(&path);
        let good = fs::read(path.with_extension("copy")).expect("readable");
        for at in (8..4096).step_by(3) {
            let mut bad = good.clone();
            for page in bad.chunks_exact_mut(4096).take(40) {
                page[at] ^= 0xff;
                image::seal(page);
            }
            fs::write(&path, &bad).expect("written");
            dump(&path, None);
            for page in 0..40 {
                dump(&path, Some(page));
            }
        }
    }
}
