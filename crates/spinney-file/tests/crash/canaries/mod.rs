//! One engine broken on purpose for each rule. Most are noticed by random runs; some break what random runs do not
//! reach, and have a scenario of their own, which the healthy engine must pass.

mod append; // rules 1 and 6: who comes first
mod log; // rules 7 to 9 and 16: what is acknowledged, what is shown
mod pages; // rules 11 to 13: who may have a page
mod random; // what random runs reach
mod superblock; // rules 14 and 15

use crate::support::small;
use spinney_file::{FileError, Interlude, PagedFile, Sabotage, SimDisk};
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::{Arc, Once},
};

/// The healthy engine passes, the broken one does not: it panics or gets an error.
fn tells_apart(rule: Sabotage, scenario: impl Fn(Option<Sabotage>) -> Result<(), FileError>) {
    scenario(None).unwrap_or_else(|e| panic!("the healthy engine: {e}"));
    match quietly(|| catch_unwind(AssertUnwindSafe(|| scenario(Some(rule))))) {
        Ok(Ok(())) => panic!("{rule:?} went unnoticed"),
        Ok(Err(error)) => println!("{rule:?}: {error}"),
        Err(panic) => println!("{rule:?}: {}", words(&*panic)),
    }
}

fn open(disk: &SimDisk, sabotage: Option<Sabotage>) -> Result<PagedFile, FileError> {
    PagedFile::open(Arc::new(disk.clone()), small(sabotage))
}

/// The same, with what somebody else does in the middle of its next operation still to be said.
fn open_to_interludes(disk: &SimDisk, sabotage: Option<Sabotage>) -> Result<(PagedFile, Interlude), FileError> {
    let options = small(sabotage);
    let interlude = options.tuning.interlude.clone();
    Ok((PagedFile::open(Arc::new(disk.clone()), options)?, interlude))
}

thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });

/// Does something that panics when all is well, without a word on this thread.
fn quietly<T>(f: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                hook(info)
            }
        }));
    });
    QUIET.set(true);
    let done = f();
    QUIET.set(false);
    done
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let literal = || panic.downcast_ref::<&str>().map(|&s| s.to_owned());
    panic.downcast_ref::<String>().cloned().or_else(literal).unwrap_or_else(|| "a panic".to_owned())
}
