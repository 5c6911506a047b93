//! The records of the name tree (owner 0): which families and tables exist, and what they are called.
//!
//! The name tree is an ordinary tree, changed by ordinary commits. Its keys begin with one byte that
//! says what they are about; owners are big-endian there, so that a family's records are neighbours.
//!
//! | key                         | value           | meaning                                            |
//! |-----------------------------|-----------------|----------------------------------------------------|
//! | `c`                         | [`Counters`]    | the next numbers to give away                      |
//! | `d` owner u32               | [`OwnerRecord`] | dropped: its pages are not all free yet            |
//! | `f` name                    | [`FamilyRecord`]| a family, by name                                  |
//! | `o` owner u32               | [`OwnerRecord`] | a family, by owner                                 |
//! | `t` owner u32, table name   | [`TableRecord`] | a table; the empty name is the default table       |
//! | `x` owner u32               | [`FreeRecord`]  | an owner without family and pages, to be used again|
//!
//! Every value begins with a version byte. A record that does not read is reported as damage.

use crate::error::{Error, Result};
use spinney_btree::Owner;

/// Family and table names: 1 to this many bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 255;

/// The default table's number; its name is empty, which no user can choose.
pub(crate) const DEFAULT_TABLE: u32 = 0;

/// Version of every record below.
const VERSION: u8 = 1;

/// Refuses names that are empty or too long.
pub(crate) fn checked(name: &str) -> Result<&str> {
    match name.len() {
        0 => Err(Error::NameEmpty),
        1..=NAME_BYTES_MAX => Ok(name),
        bytes => Err(Error::NameTooLong { bytes, bytes_max: NAME_BYTES_MAX }),
    }
}

/// Key of the counters.
pub(crate) fn counters_key() -> Vec<u8> {
    vec![b'c']
}

/// Key of a family, by name.
pub(crate) fn family_key(name: &str) -> Vec<u8> {
    [b"f", name.as_bytes()].concat()
}

/// Key of a family, by owner.
pub(crate) fn owner_key(owner: Owner) -> Vec<u8> {
    [&b"o"[..], &owner.0.to_be_bytes()].concat()
}

/// Key of a dropped family whose pages are not all free yet.
pub(crate) fn dropped_key(owner: Owner) -> Vec<u8> {
    [&b"d"[..], &owner.0.to_be_bytes()].concat()
}

/// Key of an owner that can be used again.
pub(crate) fn free_key(owner: Owner) -> Vec<u8> {
    [&b"x"[..], &owner.0.to_be_bytes()].concat()
}

/// Key of a table; the default table's name is empty.
pub(crate) fn table_key(owner: Owner, name: &str) -> Vec<u8> {
    [&b"t"[..], &owner.0.to_be_bytes(), name.as_bytes()].concat()
}

/// What all keys of families by name begin with.
pub(crate) const FAMILY_PREFIX: &[u8] = b"f";

/// What all keys of dropped families begin with.
pub(crate) const DROPPED_PREFIX: &[u8] = b"d";

/// What all keys of free owners begin with.
pub(crate) const FREE_PREFIX: &[u8] = b"x";

/// What the keys of a family's tables begin with.
pub(crate) fn table_prefix(owner: Owner) -> Vec<u8> {
    table_key(owner, "")
}

/// The name in the key of a family or, with the owner's five bytes as `prefix`, of a table.
pub(crate) fn name_in_key(key: &[u8], prefix: usize) -> Result<&str> {
    key.get(prefix..).and_then(|name| str::from_utf8(name).ok()).ok_or(damaged("a name is not UTF-8"))
}

/// The owner in a key that is one byte and an owner.
pub(crate) fn owner_in_key(key: &[u8]) -> Result<Owner> {
    Fields::new(key).skip(1)?.u32_be().map(Owner)
}

/// The next numbers to give away. An aborted transaction gives its numbers back by leaving this record as it was.
///
/// | at | size | field       | meaning                                |
/// |---:|-----:|-------------|----------------------------------------|
/// |  0 |    1 | version     | 1                                      |
/// |  1 |    3 | reserved    | zero when written, checked when read   |
/// |  4 |    4 | next_owner  | owner of the next family, little-endian|
/// |  8 |    4 | next_table  | number of the next table               |
/// | 12 |    4 | families    | how many exist                         |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) next_owner: u32,
    pub(crate) next_table: u32,
    pub(crate) families: u32,
}

impl Counters {
    /// Of a database without families: owner 0 is the name tree, table 0 every family's default table.
    pub(crate) const FIRST: Self = Self { next_owner: 1, next_table: 1, families: 0 };

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = vec![VERSION, 0, 0, 0];
        for field in [self.next_owner, self.next_table, self.families] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(bytes).version()?.zeros(3)?;
        let counters = Self { next_owner: fields.u32()?, next_table: fields.u32()?, families: fields.u32()? };
        fields.end()?;
        Ok(counters)
    }
}

/// Which family: its owner, and how many families had that owner before. Only both together are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FamilyId {
    pub(crate) owner: Owner,
    pub(crate) generation: u32,
}

/// A family, found by its name.
///
/// | at | size | field      | meaning                                           |
/// |---:|-----:|------------|---------------------------------------------------|
/// |  0 |    1 | version    | 1                                                 |
/// |  1 |    3 | reserved   | zero when written, checked when read              |
/// |  4 |    4 | owner      | what the family is called below, little-endian    |
/// |  8 |    4 | generation | how many families had this owner before           |
/// | 12 |    4 | options    | of the family: none is defined, zero              |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FamilyRecord {
    pub(crate) id: FamilyId,
}

impl FamilyRecord {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = vec![VERSION, 0, 0, 0];
        for field in [self.id.owner.0, self.id.generation, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(bytes).version()?.zeros(3)?;
        let id = FamilyId { owner: Owner(fields.u32()?), generation: fields.u32()? };
        fields.zeros(4)?.end()?;
        Ok(Self { id })
    }
}

/// A family's name, found by its owner; of a dropped family the last name.
///
/// | at | size | field      | meaning                                 |
/// |---:|-----:|------------|-----------------------------------------|
/// |  0 |    1 | version    | 1                                       |
/// |  1 |    3 | reserved   | zero when written, checked when read    |
/// |  4 |    4 | generation | how many families had this owner before |
/// |  8 | rest | name       | UTF-8                                   |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnerRecord {
    pub(crate) generation: u32,
    pub(crate) name: String,
}

impl OwnerRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&[VERSION, 0, 0, 0], &self.generation.to_le_bytes()[..], self.name.as_bytes()].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(bytes).version()?.zeros(3)?;
        let generation = fields.u32()?;
        let name = str::from_utf8(fields.0).map_err(|_| damaged("a name is not UTF-8"))?;
        Ok(Self { generation, name: name.to_owned() })
    }
}

/// An owner that no family has any more.
///
/// | at | size | field      | meaning                                  |
/// |---:|-----:|------------|------------------------------------------|
/// |  0 |    1 | version    | 1                                        |
/// |  1 |    3 | reserved   | zero when written, checked when read     |
/// |  4 |    4 | generation | of the next family, at least 1           |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeRecord {
    pub(crate) generation: u32,
}

impl FreeRecord {
    pub(crate) fn encode(self) -> Vec<u8> {
        [&[VERSION, 0, 0, 0], &self.generation.to_le_bytes()[..]].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(bytes).version()?.zeros(3)?;
        let generation = fields.u32()?;
        fields.end()?;
        if generation == 0 { Err(damaged("an owner is free that no family had")) } else { Ok(Self { generation }) }
    }
}

/// A table of a family.
///
/// | at | size | field       | meaning                                                     |
/// |---:|-----:|-------------|-------------------------------------------------------------|
/// |  0 |    1 | version     | 1                                                           |
/// |  1 |    1 | typed       | 1 when the type names are given, else 0                     |
/// |  2 |    2 | reserved    | zero when written, checked when read                        |
/// |  4 |    4 | table       | number of the tree inside its family, little-endian         |
/// |  8 |    2 | key_bytes   | length of the key type's name                               |
/// | 10 |    2 | value_bytes | length of the value type's name                             |
/// | 12 |      | names       | the key type's name, then the value type's, UTF-8           |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableRecord {
    pub(crate) table: u32,
    pub(crate) types: Option<TypeIdentity>,
}

/// What a typed table's keys and values are, by the names of their encodings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeIdentity {
    /// The encoding of keys, `u64` for instance.
    pub key: String,
    /// The encoding of values.
    pub value: String,
}

impl TableRecord {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let (key, value) = self.types.as_ref().map_or(("", ""), |types| (&types.key, &types.value));
        let mut out = vec![VERSION, u8::from(self.types.is_some()), 0, 0];
        out.extend_from_slice(&self.table.to_le_bytes());
        for name in [key, value] {
            let bytes = u16::try_from(name.len()).ok().filter(|&bytes| usize::from(bytes) <= NAME_BYTES_MAX);
            let bytes = bytes.ok_or(Error::NameTooLong { bytes: name.len(), bytes_max: NAME_BYTES_MAX })?;
            out.extend_from_slice(&bytes.to_le_bytes());
        }
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(value.as_bytes());
        Ok(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(bytes).version()?;
        let typed = match fields.array::<1>()? {
            [0] => false,
            [1] => true,
            _ => return Err(damaged("a table is neither typed nor untyped")),
        };
        let mut fields = fields.zeros(2)?;
        let table = fields.u32()?;
        let (key_bytes, value_bytes) = (fields.u16()?, fields.u16()?);
        let (key, value) = (fields.text(key_bytes)?, fields.text(value_bytes)?);
        fields.end()?;
        Ok(Self { table, types: typed.then_some(TypeIdentity { key, value }) })
    }
}

/// What is left of a record while it is read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn version(mut self) -> Result<Self> {
        match self.array::<1>()? {
            [VERSION] => Ok(self),
            _ => Err(damaged("a record has an unknown version")),
        }
    }

    fn skip(self, bytes: usize) -> Result<Self> {
        self.0.get(bytes..).map(Self).ok_or(TOO_SHORT)
    }

    fn zeros(self, bytes: usize) -> Result<Self> {
        match self.0.split_at_checked(bytes) {
            Some((head, rest)) if head.iter().all(|&byte| byte == 0) => Ok(Self(rest)),
            Some(_) => Err(damaged("a reserved byte is not zero")),
            None => Err(TOO_SHORT),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(TOO_SHORT)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u32_be(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn text(&mut self, bytes: u16) -> Result<String> {
        let (head, rest) = self.0.split_at_checked(usize::from(bytes)).ok_or(TOO_SHORT)?;
        self.0 = rest;
        str::from_utf8(head).map(str::to_owned).map_err(|_| damaged("a name is not UTF-8"))
    }

    fn end(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(damaged("a record is too long")) }
    }
}

const TOO_SHORT: Error = damaged("a record is too short");

const fn damaged(why: &'static str) -> Error {
    Error::NamesDamaged { why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_have_these_bytes() {
        let counters = Counters { next_owner: 3, next_table: 0x0102, families: 2 };
        assert_eq!(counters.encode(), [1, 0, 0, 0, 3, 0, 0, 0, 2, 1, 0, 0, 2, 0, 0, 0]);
        let id = FamilyId { owner: Owner(7), generation: 2 };
        assert_eq!(FamilyRecord { id }.encode(), [1, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(OwnerRecord { generation: 2, name: "ab".into() }.encode(), [1, 0, 0, 0, 2, 0, 0, 0, b'a', b'b']);
        assert_eq!(FreeRecord { generation: 3 }.encode(), [1, 0, 0, 0, 3, 0, 0, 0]);
        let types = Some(TypeIdentity { key: "u64".into(), value: "()".into() });
        let table = TableRecord { table: 5, types };
        assert_eq!(table.encode().unwrap(), [&[1, 1, 0, 0, 5, 0, 0, 0, 3, 0, 2, 0][..], b"u64()"].concat());
        assert_eq!(table_key(Owner(1), "x"), *b"t\0\0\0\x01x");
        assert_eq!(owner_in_key(&dropped_key(Owner(9))).unwrap(), Owner(9));
    }

    #[test]
    fn names_have_limits() {
        assert!(matches!(checked(""), Err(Error::NameEmpty)));
        assert!(checked(&"n".repeat(255)).is_ok());
        assert!(matches!(checked(&"n".repeat(256)), Err(Error::NameTooLong { bytes: 256, .. })));
    }

    proptest! {
        #[test]
        fn records_come_back(next_owner: u32, next_table: u32, families: u32, name in ".{0,20}", typed: bool) {
            let counters = Counters { next_owner, next_table, families };
            prop_assert_eq!(Counters::decode(&counters.encode()).unwrap(), counters);
            let family = FamilyRecord { id: FamilyId { owner: Owner(next_owner), generation: next_table } };
            prop_assert_eq!(FamilyRecord::decode(&family.encode()).unwrap(), family);
            let owner = OwnerRecord { generation: families, name: name.clone() };
            prop_assert_eq!(OwnerRecord::decode(&owner.encode()).unwrap(), owner);
            let free = FreeRecord { generation: families.max(1) };
            prop_assert_eq!(FreeRecord::decode(&free.encode()).unwrap(), free);
            let types = typed.then(|| TypeIdentity { key: name.clone(), value: "bytes".into() });
            let table = TableRecord { table: next_table, types };
            prop_assert_eq!(TableRecord::decode(&table.encode().unwrap()).unwrap(), table);
        }

        #[test]
        fn foreign_bytes_are_an_error_and_never_panic(bytes in prop::collection::vec(0u8..3, 0..24)) {
            let _ = Counters::decode(&bytes);
            let _ = FamilyRecord::decode(&bytes);
            let _ = OwnerRecord::decode(&bytes);
            let _ = FreeRecord::decode(&bytes);
            let _ = TableRecord::decode(&bytes);
            let _ = owner_in_key(&bytes);
        }
    }
}
