//! For tests: a disk whose power can be cut, and every image that a crash may leave on it. With the feature `testing`.
//!
//! What Spinney promises of one commit, applications build on: that two families agree, that an order has its items, that a counter
//! never goes back. Whether they do is seen by running the application on a [`SimDisk`], recording what it does, and asking the same
//! question of everything that a power cut or a killed process could have left behind, at every moment:
//!
//! ```
//! # fn main() -> spinney::Result<()> {
//! use spinney::{Database, Options, testing::{Exploration, SimDisk}};
//! use std::sync::Arc;
//!
//! fn open(disk: &SimDisk) -> spinney::Result<Database> {
//!     // No threads of its own: then the same run is the same every time.
//!     Options::new().memory_budget(1 << 20).background(false).open_storage(Arc::new(disk.clone()))
//! }
//!
//! let disk = SimDisk::new();
//! let db = open(&disk)?;
//! let (checking, savings) = (db.family("checking")?, db.family("savings")?);
//! let mut txn = db.begin([&checking, &savings])?;
//! txn.family(&checking)?.insert("ada", 100u64.to_le_bytes())?;
//! txn.family(&savings)?.insert("ada", 0u64.to_le_bytes())?;
//! txn.commit()?;
//!
//! disk.record();
//! for transfer in 1..=4u64 {
//!     // With two transactions instead of one, the first assertion below fails.
//!     let mut txn = db.begin([&checking, &savings])?;
//!     txn.family(&checking)?.insert("ada", (100 - 10 * transfer).to_le_bytes())?;
//!     txn.family(&savings)?.insert("ada", (10 * transfer).to_le_bytes())?;
//!     txn.commit()?;
//!     disk.mark(transfer); // from here on Ada has been told
//!     if transfer == 2 {
//!         db.checkpoint()?;
//!     }
//! }
//!
//! let explored = Exploration::new("transfers").run(&disk.recording(), |crash| -> spinney::Result<u64> {
//!     let db = open(&crash.disk())?;
//!     let snapshot = db.snapshot();
//!     let balance = |name| -> spinney::Result<u64> {
//!         let family = db.family(name)?;
//!         let value = snapshot.get(&family, "ada")?.expect("she has an account");
//!         Ok(u64::from_le_bytes(value[..].try_into().expect("eight bytes")))
//!     };
//!     let (checking, savings) = (balance("checking")?, balance("savings")?);
//!     assert_eq!(checking + savings, 100, "money came or went");
//!     assert!(savings >= 10 * crash.marks().last().unwrap_or(0), "a transfer that she was told of is gone");
//!     Ok(savings)
//! });
//! assert!(explored.images > 50, "{explored}");
//! # Ok(()) }
//! ```
//!
//! A check that fails panics with a line that makes the same image again, see [`Exploration`].
//!
//! Calls that fail are [injected](SimDisk::inject) by their number, and a sweep is through when
//! [none has struck](SimDisk::faults_fired); disks can be [full](SimDisk::set_capacity) or [stuck](SimDisk::stall); what was written can
//! be [lost](FaultKind::Lost), [misplaced](FaultKind::Misdirected), [turned](SimDisk::flip_on_read) or [changed](SimDisk::corrupt).
//! Nothing in a database depends on a clock, so there is none to be set.

#[doc(inline)]
pub use spinney_btree::{
    CallCounts, CallSet, Crash, CrashUnit, Cut, EnumerationLimits, Exploration, Explored, Fault, FaultKind, Image,
    ImageCount, Images, MemStorage, PowerCut, Recording, SimDisk, Stall, Storage, WriteObserver,
};
