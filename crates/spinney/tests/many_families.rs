//! Ten thousand families: what one costs does not depend on how many there are.

use spinney::{Durability, Options, Result};

const MANY: usize = 10_000;

#[test]
fn ten_thousand_families_in_one_file() -> Result<()> {
    let db = Options::new().memory_budget(8 << 20).in_memory()?;
    let first = db.family("first")?;

    // In one transaction ...
    let mut txn = db.begin([])?;
    for i in 0..MANY / 2 {
        let family = txn.create_family(&format!("family {i:05}"))?;
        txn.family(&family)?.insert("k", i.to_string())?;
    }
    txn.commit()?;
    // ... and one by one.
    for i in MANY / 2..MANY {
        let family = db.family(&format!("family {i:05}"))?;
        let mut txn = family.begin()?;
        txn.insert("k", i.to_string())?;
        txn.commit_with(Durability::Eventual)?;
    }
    assert_eq!(db.stats()?.families, MANY as u64 + 1);

    let snap = db.snapshot();
    for i in (0..MANY).step_by(97) {
        let family = db.open_family(&format!("family {i:05}"))?.expect("created above");
        assert_eq!(snap.get(&family, "k")?.unwrap(), i.to_string().as_str());
    }
    assert!(db.open_family("family 99999")?.is_none());
    let mut txn = first.begin()?;
    txn.insert("k", "v")?;
    txn.commit()?;
    assert_eq!(db.snapshot().get(&first, "k")?.unwrap(), "v");

    let infos = db.families()?;
    assert_eq!(infos.len(), MANY + 1);
    for info in infos.iter().step_by(97) {
        assert_eq!(db.snapshot().len(&db.family(&info.name)?)?, 1);
    }

    for i in 0..MANY / 4 {
        assert!(db.drop_family(&format!("family {i:05}"))?);
    }
    while db.stats()?.families_waiting > 0 {
        db.maintain(100_000)?;
    }
    assert_eq!(db.stats()?.families, (MANY - MANY / 4) as u64 + 1);
    let report = db.check()?;
    assert!(report.is_sound(), "{:?}", report.problems);
    assert_eq!(report.families, (MANY - MANY / 4) as u64 + 1);
    Ok(())
}
