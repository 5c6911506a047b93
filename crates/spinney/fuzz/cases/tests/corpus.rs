//! Every file of the corpus, replayed without libFuzzer: what a target once stumbled over, and what led it everywhere else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use spinney_fuzz_cases::{Base, Target, make, pack, unpack};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// One test, so that nobody else's memory is measured.
#[test]
fn every_input_of_the_corpus_is_answered() {
    let mut failed = Vec::new();
    let mut total_bytes = 0;
    for target in Target::ALL {
        let inputs = files(&fuzz_folder().join("corpus").join(target.name()));
        for path in &inputs {
            let input = fs::read(path).unwrap();
            total_bytes += input.len();
            if catch_unwind(AssertUnwindSafe(|| target.run(&input))).is_err() {
                failed.push(path.display().to_string());
            }
        }
        println!("{}: {} inputs", target.name(), inputs.len());
        assert!(inputs.len() > 5, "the corpus of {} is missing", target.name());
    }
    assert!(failed.is_empty(), "replay one with `cargo xtask fuzz --input FILE`:\n  {}", failed.join("\n  "));
    assert!(
        total_bytes < 2 << 20,
        "a corpus of {total_bytes} bytes is a burden: keep what is short and leads somewhere new"
    );
}

/// Replays one file, or a folder of them, named in the environment; without that, nothing.
#[test]
fn named_inputs() {
    let Ok(path) = std::env::var("SPINNEY_FUZZ_INPUT") else { return };
    let path = Path::new(&path);
    let of = |target: &&Target| path.components().any(|part| part.as_os_str() == target.name());
    let target = Target::ALL.iter().find(of).expect("a folder in the path is called like a target");
    for path in if path.is_dir() { files(path) } else { vec![path.to_owned()] } {
        println!("{}", path.display());
        target.run(&fs::read(path).unwrap());
    }
}

/// Makes the bases, and the first inputs of each target, anew. Only a new version of the file format asks for this: an input means
/// what it means by the bases.
#[test]
#[ignore = "it writes to the repository"]
fn make_bases_and_seeds() {
    let folder = fuzz_folder();
    for name in Base::names() {
        let mut file = make(name).unwrap();
        spinney_fuzz_cases::anonymise(&mut file);
        let packed = pack(&file);
        assert!(unpack(&packed) == file, "{name} is not unpacked as it was");
        println!("{name}: {} bytes, packed {}", file.len(), packed.len());
        fs::write(folder.join("bases").join(name).with_extension("packed"), &packed).unwrap();
        {
            let how = u8::from(name == "crashed");
            let seed = folder.join("corpus/open_bytes").join(name);
            fs::write(seed, [&[how][..], &packed].concat()).unwrap();
        }
    }
}
