//! What does a snapshot cost, by the number of families?
//!
//! Nothing that grows: it registers one version, whatever that contains.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use spinney::Database;
use spinney_benches::settings;

fn snapshot_by_families(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot_by_families");
    for families in [1, 100, 10_000] {
        let db = Database::in_memory().expect("default options");
        let mut txn = db.begin([]).expect("nobody else writes");
        for number in 0..families {
            txn.create_family(&format!("family {number}")).expect("memory has room");
        }
        txn.commit().expect("memory does not fail");
        group.bench_function(BenchmarkId::from_parameter(families), |bencher| {
            bencher.iter(|| db.snapshot().seq());
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = settings(); targets = snapshot_by_families }
criterion_main!(benches);
