//! Saves what still reads of a damaged database, and says what does not.
//!
//! `cargo run --release --example salvage -- damaged.spinney saved.spinney`
//!
//! The damaged file is never written. Without arguments a small database is made, damaged and saved, to show what that looks like.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [from, into] => salvage(Path::new(from), Path::new(into)),
        [] => show(),
        _ => Err("give a damaged file and the name of a new one".into()),
    }
}

fn salvage(from: &Path, into: &Path) -> Result<(), Box<dyn Error>> {
    let report = spinney::salvage(from, into)?;
    print!("{report}");
    let (led, found) = report.records();
    println!("{} records are in {}", led + found, into.display());
    match report.is_complete() {
        true => Ok(()),
        false => Err("not everything could be saved, see above; where there is a backup, compare".into()),
    }
}

/// A database of which one page is overwritten with letters.
fn show() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (damaged, saved) = (folder.path().join("damaged"), folder.path().join("saved"));
    let db = spinney::Database::create(&damaged)?;
    let mut txn = db.family("orders")?.begin()?;
    for order in 0..2000 {
        txn.insert(format!("order {order:04}"), "3 apples")?;
    }
    txn.commit()?;
    db.close()?;
    let mut bytes = fs::read(&damaged)?;
    let is_leaf = |page: &&mut [u8]| page[28] == 16 && page[24] == 1;
    let leaf = bytes.chunks_exact_mut(4096).filter(is_leaf).nth(3).ok_or("no leaf")?;
    leaf[1000..1010].fill(b'x');
    fs::write(&damaged, bytes)?;
    // An error is what to expect of a damaged file, and here it is.
    match salvage(&damaged, &saved) {
        Err(error) => println!("{error}"),
        Ok(()) => return Err("nothing was lost".into()),
    }
    Ok(())
}
