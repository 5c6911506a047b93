//! What must compile: the ways people write keys, values, ranges and handles; and what may cross threads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use spinney::{Database, Durability, Family, Range, Result, Snapshot, Table, TypedTable, Value, WriteTransaction};
use std::{ops::Bound, time::Duration};

fn crosses_threads<T: Send + Sync + 'static>() {}
fn can_be_sent<T: Send + 'static>() {}
fn is_handle<T: Clone + Send + Sync + 'static>() {}

#[test]
fn handles_are_shared_and_transactions_sent() {
    is_handle::<Database>();
    is_handle::<Family>();
    is_handle::<Table>();
    is_handle::<TypedTable<u64, String>>();
    is_handle::<Snapshot>();
    is_handle::<Value>();
    is_handle::<spinney::Error>();
    can_be_sent::<WriteTransaction>();
    can_be_sent::<Range<'static>>();
    crosses_threads::<spinney::Stats>();
    crosses_threads::<spinney::Report>();
}

#[test]
fn keys_and_values_are_whatever_is_bytes() -> Result<()> {
    let db = Database::in_memory()?;
    let orders = db.family("orders")?;
    let mut txn = orders.begin()?;
    txn.insert(b"1001", b"3 apples")?;
    txn.insert("1002", "1 pear")?;
    txn.insert(String::from("1003"), vec![0u8; 3])?;
    txn.insert(1004u64.to_be_bytes(), Value::from(vec![1]))?;
    txn.insert([b'1', b'5'], &b"slice"[..])?;
    txn.remove([b'1', b'5'])?;
    txn.commit()?;

    let snap = db.snapshot();
    assert_eq!(snap.get(&orders, b"1001")?.as_deref(), Some(&b"3 apples"[..]));
    assert_eq!(snap.get(&orders, "1002")?.unwrap(), "1 pear");
    assert_eq!(snap.get(&orders, vec![b'1'; 4])?, None);
    assert_eq!(snap.get_with(&orders, "1001", <[u8]>::len)?, Some(8));
    Ok(())
}

#[test]
fn ranges_are_range_expressions() -> Result<()> {
    let db = Database::in_memory()?;
    let orders = db.family("orders")?;
    let mut txn = db.begin([&orders])?;
    for key in ["1", "10", "1000", "1001", "15", "2", "3"] {
        txn.insert(key, key)?;
    }
    let count = |range: Range<'_>| range.count();
    assert_eq!(count(txn.range(..)), 7);
    assert_eq!(count(txn.range("1000".."2")), 3);
    txn.commit()?;

    let snap = db.snapshot_of([&orders]);
    assert_eq!(count(snap.range(&orders, ..)), 7);
    assert_eq!(count(snap.range(&orders, &b"1000"[..]..&b"2000"[..])), 4);
    assert_eq!(count(snap.range(&orders, b"1000"..b"2000")), 4);
    assert_eq!(count(snap.range(&orders, "15"..)), 3);
    assert_eq!(count(snap.range(&orders, ..="15")), 5);
    assert_eq!(count(snap.range(&orders, ..b"15".to_vec())), 4);
    assert_eq!(count(snap.range(&orders, "10"..="15")), 4);
    assert_eq!(count(snap.range(&orders, (Bound::Excluded("1"), Bound::<&str>::Unbounded))), 6);
    assert_eq!(count(snap.prefix(&orders, "10")), 3);
    assert_eq!(count(snap.range(&orders, "3".."1")), 0);
    let keys = snap.range(&orders, "1000"..).rev().keys_of();
    assert_eq!(keys?, ["3", "2", "15", "1001", "1000"]);
    assert_eq!(snap.range(&orders, "2"..).keys().rev().collect::<Result<Vec<_>>>()?, ["3", "2"]);
    Ok(())
}

/// Collects keys as text.
trait KeysOf {
    fn keys_of(self) -> Result<Vec<String>>;
}

impl<I: Iterator<Item = Result<(Value, Value)>>> KeysOf for I {
    fn keys_of(self) -> Result<Vec<String>> {
        self.map(|entry| entry.map(|(key, _)| String::from_utf8_lossy(&key).into_owned())).collect()
    }
}

#[test]
fn typed_tables_take_values_and_what_stands_for_them() -> Result<()> {
    let db = Database::in_memory()?;
    let family = db.family("typed")?;
    let users = family.typed::<u64, String>()?;
    let by_name = family.typed_table::<(String, u64), ()>("by_name")?;
    let mut txn = users.begin()?;
    {
        let mut users = txn.typed(&users)?;
        users.insert(1, "Ada")?;
        let grace = (2, String::from("Grace"));
        users.insert(&grace.0, &*grace.1)?;
        users.insert(300u64, "Barbara")?;
        assert_eq!(users.get(2)?.as_deref(), Some("Grace"));
    }
    txn.typed(&by_name)?.insert(("Ada".to_owned(), 1), ())?;
    txn.commit()?;

    let snap = db.snapshot();
    let view = snap.typed(&users);
    assert_eq!(view.range(..).map(|entry| entry.map(|(id, _)| id)).collect::<Result<Vec<_>>>()?, [1, 2, 300]);
    assert_eq!(view.range(2..).count(), 2);
    assert_eq!(view.range(..=2).next_back().transpose()?, Some((2, "Grace".to_owned())));
    assert_eq!(view.count(1..300)?, 2);
    let by_name = snap.typed(&by_name);
    assert!(by_name.contains(("Ada".to_owned(), 1))?);
    assert_eq!(by_name.first()?, Some((("Ada".to_owned(), 1), ())));
    Ok(())
}

#[test]
fn handles_live_in_structs_and_ranges_outlive_them() -> Result<()> {
    struct Shop {
        orders: Family,
        last: Option<Snapshot>,
    }
    let db = Database::in_memory()?;
    let mut shop = Shop { orders: db.family("orders")?, last: None };
    drop(db);
    let mut txn = shop.orders.begin_timeout(Duration::from_secs(1))?;
    txn.insert("a", "1")?;
    let seq = txn.commit_with(Durability::Eventual)?;
    shop.orders.database().wait_durable(seq)?;
    shop.last = Some(shop.orders.database().snapshot());
    let entries = shop.last.take().unwrap().range(&shop.orders, ..);
    drop(shop);
    assert_eq!(entries.collect::<Result<Vec<_>>>()?.len(), 1);
    Ok(())
}
