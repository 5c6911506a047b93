//! What does a commit cost apart from the disk, by the number of pages it carries?
//!
//! In memory, so that what is left is sealing, digests, the log and publication. If the part that does not grow with the
//! pages exceeds a few microseconds, small commits deserve a path of their own.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use spinney_benches::settings;
use spinney_file::{Durability, FileOptions, Owner, PagedFile, Wait};

fn commit_by_image_size(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit_by_image_size");
    for pages in [1_u64, 16, 256] {
        let file = PagedFile::in_memory(FileOptions::default()).expect("default options");
        let mut before = Vec::new();
        group.throughput(Throughput::Elements(pages));
        group.bench_function(BenchmarkId::from_parameter(pages), |bencher| {
            bencher.iter(|| {
                let mut txn = file.begin(&[Owner(1)], Wait::Forever).expect("nobody else writes");
                let part = txn.part(Owner(1)).expect("named above");
                for old in before.drain(..) {
                    part.free(old);
                }
                for _ in 0..pages {
                    before.push(part.allocate().expect("memory has room"));
                }
                let mut root = [0; 64];
                root[..16].copy_from_slice(&before[0].encode());
                part.set_root(root);
                txn.commit(Durability::Eventual).expect("memory does not fail")
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = settings(); targets = commit_by_image_size }
criterion_main!(benches);
