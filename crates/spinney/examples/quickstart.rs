//! The whole of Spinney in one screen: families, transactions over one and several of them, snapshots, ranges.
//!
//! `cargo run --example quickstart [FILE]`: with a file the second run finds what the first one stored.

use spinney::{Database, Result};

fn main() -> Result<()> {
    let db = match std::env::args_os().nth(1) {
        Some(path) => Database::open(path)?,
        None => Database::in_memory()?,
    };
    let orders = db.family("orders")?;
    let stock = db.family("stock")?;

    // One family: writers of other families go on.
    let mut txn = orders.begin()?;
    txn.insert("1001", "3 apples")?;
    txn.commit()?;

    // Several families, all or nothing.
    let mut txn = db.begin([&orders, &stock])?;
    txn.family(&orders)?.insert("1002", "1 pear")?;
    txn.family(&stock)?.insert("pear", "41")?;
    txn.commit()?;

    // Every family at one instant; writers do not notice.
    let snap = db.snapshot();
    assert_eq!(snap.get(&stock, "pear")?.as_deref(), Some(&b"41"[..]));
    for entry in snap.range(&orders, "1000".."2000") {
        let (key, value) = entry?;
        println!("{} -> {}", key.escape_ascii(), value.escape_ascii());
    }

    // A second tree in the same family, with types.
    let by_weight = orders.typed_table::<(u64, String), ()>("by weight")?;
    let mut txn = orders.begin()?;
    txn.typed(&by_weight)?.insert((150, "pear".to_owned()), ())?;
    txn.typed(&by_weight)?.insert((90, "apple".to_owned()), ())?;
    txn.commit()?;
    let lightest = db.snapshot().typed(&by_weight).first()?;
    println!("lightest: {:?}", lightest.map(|((grams, name), ())| (name, grams)));

    db.close()
}
