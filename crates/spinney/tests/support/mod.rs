//! What crash and fault tests share: a model, a run that survives failures, operations to script it with, and six workloads.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code; each test binary uses some of it"
)]

pub mod canonical; // six workloads, and what each is there for
pub mod model; // what a database should hold, and what it does hold
pub mod op; // single operations
pub mod runner; // a run, step by step

use std::{
    cell::Cell,
    panic::{set_hook, take_hook},
    sync::Once,
};

pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });

/// Does something that panics when all is well, without a word on this thread.
pub fn quietly<T>(f: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                hook(info);
            }
        }));
    });
    QUIET.set(true);
    let done = f();
    QUIET.set(false);
    done
}

/// What a panic had to say.
pub fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let literal = || panic.downcast_ref::<&str>().map(|&s| s.to_owned());
    panic.downcast_ref::<String>().cloned().or_else(literal).unwrap_or_else(|| "a panic".to_owned())
}
