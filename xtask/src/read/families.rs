//! Owner table, names and roots: which trees there are. Tables of bytes: `spinney-file/src/owners.rs`, `spinney-btree/src/root.rs`,
//! `spinney/src/names.rs`.

use crate::{
    dump::{
        bytes::Bytes,
        image::{HEADER_BYTES, Image},
        superblock::Superblock,
    },
    read::{Content, Listed, Visit, tree},
};
use anyhow::{Context, anyhow, bail, ensure};
use std::collections::BTreeMap;

/// A root descriptor and a stamp.
const ENTRY_BYTES: usize = 72;
/// Owners whose roots are never divided between pages.
const OWNERS_PER_LEAF: usize = 8;
/// First home, and which of the two is current.
const TWIN_BYTES: usize = 16;
/// The tree of names.
const NAMES: u32 = 0;
/// The directory of a family's tables.
const DIRECTORY: u32 = u32::MAX;

/// Where a tree begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub(super) page: u64,
    pub(super) stamp: u64,
    pub(super) entries: u64,
    pub(super) height: u8,
}

impl Root {
    /// `None` for an empty tree.
    fn decode(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        let table = Bytes(bytes);
        let field = |at| table.u64(at).context("a root is 32 bytes long");
        let root = Self { page: field(0)?, stamp: field(8)?, entries: field(16)?, height: bytes[24] };
        ensure!(
            bytes.len() == 32 && bytes[26..].iter().all(|&byte| byte == 0),
            "reserved bytes of a root are not zero"
        );
        ensure!(root.height <= 24, "a tree of {} levels", root.height);
        Ok((root.page != 0).then_some(root))
    }
}

/// A closed file.
pub(super) struct Reader {
    image: Image,
    /// Default table and directory of every owner that ever committed.
    owners: BTreeMap<u32, (Option<Root>, Option<Root>)>,
}

impl Reader {
    pub(super) fn new(mut image: Image, superblock: &Superblock) -> anyhow::Result<Self> {
        let mut owners = BTreeMap::new();
        let tables_per_directory = ((image.page_bytes - HEADER_BYTES) / TWIN_BYTES) as u64;
        let per_table = (image.page_bytes - HEADER_BYTES) / (ENTRY_BYTES * OWNERS_PER_LEAF) * OWNERS_PER_LEAF;
        for (directory, &entry) in (0..).zip(&superblock.owners) {
            let Some(page) = current(&mut image, entry, 4)? else { continue };
            for (table, line) in (directory * tables_per_directory..).zip(page[HEADER_BYTES..].chunks_exact(TWIN_BYTES))
            {
                let twin = Bytes(line).pairs(0, 1).context("a line of 16 bytes")?[0];
                let Some(page) = current(&mut image, twin, 3)? else { continue };
                let entries = page[HEADER_BYTES..].chunks_exact(ENTRY_BYTES).take(per_table);
                for (owner, entry) in (table * per_table as u64..).zip(entries) {
                    if Bytes(entry).u64(64) != Some(0) {
                        let owner = u32::try_from(owner).context("an owner beyond 32 bits")?;
                        owners.insert(owner, (Root::decode(&entry[..32])?, Root::decode(&entry[32..64])?));
                    }
                }
            }
        }
        Ok(Self { image, owners })
    }

    /// Every table, by family and table.
    pub(super) fn list(mut self, visit: &mut Visit<'_>) -> anyhow::Result<Vec<Listed>> {
        let names = self.names()?;
        let mut listed = Vec::new();
        for (family, owner) in &names.families {
            let (default, directory) = self.owners.get(owner).copied().unwrap_or_default();
            listed.push(self.table((family, *owner), ("", 0), default, visit)?);
            let roots = self.directory(*owner, directory)?;
            let tables = names.tables.iter().filter(|((of, name), _)| of == owner && !name.is_empty());
            for ((_, name), table) in tables {
                let root = roots.get(table).with_context(|| format!("table `{name}` of `{family}` has no tree"))?;
                listed.push(self.table((family, *owner), (name, *table), *root, visit)?);
            }
        }
        Ok(listed)
    }

    fn table(
        &mut self,
        (family, owner): (&str, u32),
        (name, table): (&str, u32),
        root: Option<Root>,
        visit: &mut Visit<'_>,
    ) -> anyhow::Result<Listed> {
        let mut content = Content::new();
        tree::walk(&mut self.image, owner, table, root, &mut |key, value| {
            content.add(key, value);
            visit(family, name, key, value)
        })
        .with_context(|| format!("family `{family}`, table `{name}`"))?;
        Ok(content.finish(family, name))
    }

    /// The roots of a family's tables, by number.
    fn directory(&mut self, owner: u32, root: Option<Root>) -> anyhow::Result<BTreeMap<u32, Option<Root>>> {
        let mut roots = BTreeMap::new();
        tree::walk(&mut self.image, owner, DIRECTORY, root, &mut |key, value| {
            match <[u8; 4]>::try_from(key) {
                Ok(table) => drop(roots.insert(u32::from_be_bytes(table), Root::decode(value)?)),
                // Pages that wait to be freed.
                Err(_) => ensure!(key.len() == 12 && key[..4] == [0xff; 4], "a strange entry of a directory"),
            }
            Ok(())
        })?;
        Ok(roots)
    }

    fn names(&mut self) -> anyhow::Result<Names> {
        let mut names = Names::default();
        let root = self.owners.get(&NAMES).and_then(|(default, _)| *default);
        tree::walk(&mut self.image, NAMES, 0, root, &mut |key, value| names.add(key, value)).context("names")?;
        Ok(names)
    }
}

/// The current one of two homes.
fn current(image: &mut Image, (home, saved): (u64, u64), kind: u8) -> anyhow::Result<Option<Vec<u8>>> {
    if home == 0 || saved == 0 {
        return Ok(None);
    }
    let page = image.page_of_stamp(home.saturating_add(saved & 1), saved >> 1).map_err(|why| anyhow!(why))?;
    ensure!(page[28] == kind, "page {} is of kind {}, not {kind}", home + (saved & 1), page[28]);
    Ok(Some(page))
}

#[derive(Default)]
struct Names {
    families: BTreeMap<String, u32>,
    /// Owner and name -> number.
    tables: BTreeMap<(u32, String), u32>,
}

impl Names {
    fn add(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        ensure!(value.first() == Some(&1), "a record of names of an unknown version");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).context("a name is not UTF-8");
        let number = |at| Bytes(value).u32(at).context("a record of names is too short");
        match key {
            [b'f', name @ ..] => {
                self.families.insert(text(name)?, number(4)?);
            }
            [b't', a, b, c, d, name @ ..] => {
                self.tables.insert((u32::from_be_bytes([*a, *b, *c, *d]), text(name)?), number(4)?);
            }
            // Counters, dropped families, families by number, numbers to be used again.
            [b'c' | b'd' | b'o' | b'x', ..] => {}
            _ => bail!("a record of names of an unknown sort"),
        }
        Ok(())
    }
}
