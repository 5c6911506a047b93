//! Types as bytes: order-preserving encodings for keys, plain ones for values.
//!
//! A typed table stores what an untyped one would: the bytes below, so both views of a table agree.
//!
//! | type            | bytes                                                                        |
//! |-----------------|------------------------------------------------------------------------------|
//! | `u8`..`u128`    | big-endian                                                                   |
//! | `i8`..`i128`    | big-endian with the sign bit flipped, so that negative sorts before positive |
//! | `bool`          | 0 or 1                                                                       |
//! | `String`        | UTF-8                                                                        |
//! | `Vec<u8>`       | as it is                                                                     |
//! | `[u8; N]`       | as it is                                                                     |
//! | tuples          | each element *nested*, the last one as if it stood alone                     |
//! | `f32`, `f64`    | bits, little-endian; values only                                             |
//! | `()`            | nothing; values only                                                         |
//!
//! Nested strings and byte vectors write each 0x00 as 0x00 0xFF and end with 0x00 0x00, so that no
//! element is a prefix of another and ("a", _) sorts before ("a\0", _). Everything else has a fixed width.

use std::borrow::Borrow;

/// Why stored bytes are not a value of the type that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a {type_name}: {why}")]
pub struct DecodeError {
    /// What was expected.
    pub type_name: &'static str,
    /// What does not fit.
    pub why: &'static str,
}

impl DecodeError {
    /// For implementations of [`KeyType`] and [`ValueType`].
    pub const fn new(type_name: &'static str, why: &'static str) -> Self {
        Self { type_name, why }
    }
}

/// A type that can be the key of a [`TypedTable`](crate::TypedTable).
///
/// The encoding must keep the order: `a < b` exactly when `encode(a) < encode(b)` as byte strings.
/// The name is stored when a table is created and compared when it is opened, so it must change when
/// the encoding does.
pub trait KeyType: Sized + Borrow<Self::Ref> {
    /// What callers may pass instead of the type itself: `str` for `String`, for instance.
    type Ref: ?Sized;

    /// The name of the encoding, as stored in the file.
    fn type_name() -> String;

    /// Appends the encoding of a key that stands alone.
    fn encode(key: &Self::Ref, into: &mut Vec<u8>);

    /// Reads a key that stands alone.
    ///
    /// # Errors
    /// When the bytes are not such a key.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;

    /// Appends the encoding of a key that other elements follow. The same as [`encode`](Self::encode)
    /// unless the width varies: then the end must be recognisable.
    fn encode_nested(key: &Self::Ref, into: &mut Vec<u8>);

    /// Reads a key written by [`encode_nested`](Self::encode_nested) and moves `bytes` behind it.
    ///
    /// # Errors
    /// When the bytes do not begin with such a key.
    fn decode_nested(bytes: &mut &[u8]) -> Result<Self, DecodeError>;
}

/// A type that can be the value of a [`TypedTable`](crate::TypedTable).
pub trait ValueType: Sized + Borrow<Self::Ref> {
    /// What callers may pass instead of the type itself: `str` for `String`, for instance.
    type Ref: ?Sized;

    /// The name of the encoding, as stored in the file.
    fn type_name() -> String;

    /// Appends the encoding.
    fn encode(value: &Self::Ref, into: &mut Vec<u8>);

    /// Reads a value.
    ///
    /// # Errors
    /// When the bytes are not such a value.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// Takes the first `N` bytes.
fn take<const N: usize>(bytes: &mut &[u8], type_name: &'static str) -> Result<[u8; N], DecodeError> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(DecodeError::new(type_name, "too few bytes"))?;
    *bytes = rest;
    Ok(*head)
}

/// Refuses what is left over.
fn all_of<T>(
    bytes: &[u8],
    name: &'static str,
    read: impl Fn(&mut &[u8]) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut rest = bytes;
    let value = read(&mut rest)?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::new(name, "too many bytes")) }
}

/// Every key type is a value type with the same bytes.
macro_rules! value_like_key {
    ($(@[$($generic:tt)*])? $type:ty) => {
        impl $(<$($generic)*>)? ValueType for $type {
            type Ref = <Self as KeyType>::Ref;

            fn type_name() -> String {
                <Self as KeyType>::type_name()
            }

            fn encode(value: &Self::Ref, into: &mut Vec<u8>) {
                <Self as KeyType>::encode(value, into);
            }

            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                <Self as KeyType>::decode(bytes)
            }
        }
    };
}

/// Types whose encoding has a fixed width: alone and nested are the same.
macro_rules! fixed_width_key {
    ($(@[$($generic:tt)*])? $type:ty, $name:expr, $static_name:expr, $encode:expr, $decode:expr) => {
        impl $(<$($generic)*>)? KeyType for $type {
            type Ref = Self;

            fn type_name() -> String {
                $name
            }

            fn encode(key: &Self, into: &mut Vec<u8>) {
                into.extend_from_slice(&$encode(key));
            }

            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                all_of(bytes, $static_name, Self::decode_nested)
            }

            fn encode_nested(key: &Self, into: &mut Vec<u8>) {
                <Self as KeyType>::encode(key, into);
            }

            fn decode_nested(bytes: &mut &[u8]) -> Result<Self, DecodeError> {
                take(bytes, $static_name).and_then($decode)
            }
        }
        value_like_key!($(@[$($generic)*])? $type);
    };
}

macro_rules! integers {
    ($($unsigned:ident $signed:ident),*) => { $(
        fixed_width_key!(
            $unsigned,
            stringify!($unsigned).to_owned(),
            stringify!($unsigned),
            |key: &$unsigned| key.to_be_bytes(),
            |bytes| Ok($unsigned::from_be_bytes(bytes))
        );
        fixed_width_key!(
            $signed,
            stringify!($signed).to_owned(),
            stringify!($signed),
            |key: &$signed| (key.cast_unsigned() ^ $signed::MIN.cast_unsigned()).to_be_bytes(),
            |bytes| Ok(($unsigned::from_be_bytes(bytes) ^ $signed::MIN.cast_unsigned()).cast_signed())
        );
    )* };
}
integers!(u8 i8, u16 i16, u32 i32, u64 i64, u128 i128);

fixed_width_key!(bool, "bool".to_owned(), "bool", |key: &bool| [u8::from(*key)], |[byte]: [u8; 1]| match byte {
    0 => Ok(false),
    1 => Ok(true),
    _ => Err(DecodeError::new("bool", "neither 0 nor 1")),
});

fixed_width_key!(@[const N: usize] [u8; N], format!("bytes[{N}]"), "byte array", |key: &[u8; N]| *key, Ok);

/// Appends `bytes` so that their end is recognisable and the order stays.
fn encode_delimited(bytes: &[u8], into: &mut Vec<u8>) {
    for (i, piece) in bytes.split(|&byte| byte == 0).enumerate() {
        if i > 0 {
            into.extend_from_slice(&[0x00, 0xFF]);
        }
        into.extend_from_slice(piece);
    }
    into.extend_from_slice(&[0x00, 0x00]);
}

/// Reads what [`encode_delimited`] wrote.
fn decode_delimited(bytes: &mut &[u8], name: &'static str) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    loop {
        let zero = bytes.iter().position(|&byte| byte == 0).ok_or(DecodeError::new(name, "its end is missing"))?;
        out.extend_from_slice(&bytes[..zero]);
        let escape = bytes.get(zero + 1);
        *bytes = bytes.get(zero + 2..).unwrap_or_default();
        match escape {
            Some(0xFF) => out.push(0),
            Some(0x00) => return Ok(out),
            _ => return Err(DecodeError::new(name, "a zero byte is followed by neither 0x00 nor 0xFF")),
        }
    }
}

impl KeyType for String {
    type Ref = str;

    fn type_name() -> String {
        "string".to_owned()
    }

    fn encode(key: &str, into: &mut Vec<u8>) {
        into.extend_from_slice(key.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::new("string", "not UTF-8"))
    }

    fn encode_nested(key: &str, into: &mut Vec<u8>) {
        encode_delimited(key.as_bytes(), into);
    }

    fn decode_nested(bytes: &mut &[u8]) -> Result<Self, DecodeError> {
        Self::from_utf8(decode_delimited(bytes, "string")?).map_err(|_| DecodeError::new("string", "not UTF-8"))
    }
}
value_like_key!(String);

impl KeyType for Vec<u8> {
    type Ref = [u8];

    fn type_name() -> String {
        "bytes".to_owned()
    }

    fn encode(key: &[u8], into: &mut Vec<u8>) {
        into.extend_from_slice(key);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(bytes.to_vec())
    }

    fn encode_nested(key: &[u8], into: &mut Vec<u8>) {
        encode_delimited(key, into);
    }

    fn decode_nested(bytes: &mut &[u8]) -> Result<Self, DecodeError> {
        decode_delimited(bytes, "bytes")
    }
}
value_like_key!(Vec<u8>);

macro_rules! tuples {
    ($( ($($head:ident $at:tt),* ; $last:ident $last_at:tt) )*) => { $(
        impl<$($head: KeyType,)* $last: KeyType> KeyType for ($($head,)* $last,) {
            type Ref = Self;

            fn type_name() -> String {
                let names = [$($head::type_name(),)* $last::type_name()];
                format!("({})", names.join(","))
            }

            fn encode(key: &Self, into: &mut Vec<u8>) {
                $( $head::encode_nested(key.$at.borrow(), into); )*
                $last::encode(key.$last_at.borrow(), into);
            }

            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                #[allow(unused_mut, reason = "a tuple of one has no head")]
                let mut rest = bytes;
                Ok(($($head::decode_nested(&mut rest)?,)* $last::decode(rest)?,))
            }

            fn encode_nested(key: &Self, into: &mut Vec<u8>) {
                $( $head::encode_nested(key.$at.borrow(), into); )*
                $last::encode_nested(key.$last_at.borrow(), into);
            }

            fn decode_nested(bytes: &mut &[u8]) -> Result<Self, DecodeError> {
                Ok(($($head::decode_nested(bytes)?,)* $last::decode_nested(bytes)?,))
            }
        }
        value_like_key!(@[$($head: KeyType,)* $last: KeyType] ($($head,)* $last,));
    )* };
}
tuples! {
    (; A 0)
    (A 0; B 1)
    (A 0, B 1; C 2)
    (A 0, B 1, C 2; D 3)
}

macro_rules! floats {
    ($($float:ident),*) => { $(
        impl ValueType for $float {
            type Ref = Self;

            fn type_name() -> String {
                stringify!($float).to_owned()
            }

            fn encode(value: &Self, into: &mut Vec<u8>) {
                into.extend_from_slice(&value.to_le_bytes());
            }

            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                all_of(bytes, stringify!($float), |rest| take(rest, stringify!($float)).map($float::from_le_bytes))
            }
        }
    )* };
}
floats!(f32, f64);

impl ValueType for () {
    type Ref = Self;

    fn type_name() -> String {
        "()".to_owned()
    }

    fn encode((): &Self, _into: &mut Vec<u8>) {}

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.is_empty() { Ok(()) } else { Err(DecodeError::new("()", "too many bytes")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{cmp::Ordering, fmt::Debug};

    fn bytes_of<K: KeyType>(key: &K) -> Vec<u8> {
        let mut into = Vec::new();
        K::encode(key.borrow(), &mut into);
        into
    }

    fn keeps_order_and_returns<K: KeyType + Ord + Debug>(a: &K, b: &K) {
        assert_eq!(bytes_of(a).cmp(&bytes_of(b)), a.cmp(b), "{a:?} {b:?}");
        assert_eq!(K::decode(&bytes_of(a)).unwrap().cmp(a), Ordering::Equal, "{a:?}");
        let mut nested = Vec::new();
        K::encode_nested(a.borrow(), &mut nested);
        nested.push(7);
        let mut rest = &nested[..];
        assert_eq!(K::decode_nested(&mut rest).unwrap().cmp(a), Ordering::Equal, "{a:?}");
        assert_eq!(rest, [7]);
    }

    /// Zeros and their neighbours often: they are what the escape is for.
    fn tricky_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xFE), Just(0xFF)], 0..5)
    }

    proptest! {
        #[test]
        fn integers_keep_their_order(a: (u8, i8, u16, i16), b: (u8, i8, u16, i16), c: (u32, i32, u64, i64), d: (u32, i32, u64, i64)) {
            keeps_order_and_returns(&a, &b);
            keeps_order_and_returns(&c, &d);
            keeps_order_and_returns(&a.1, &b.1);
            keeps_order_and_returns(&c.3, &d.3);
        }

        #[test]
        fn wide_integers_keep_their_order(a: (u128, i128, bool), b: (u128, i128, bool)) {
            keeps_order_and_returns(&a, &b);
        }

        #[test]
        fn byte_strings_keep_their_order(a in (tricky_bytes(), tricky_bytes(), any::<u8>()), b in (tricky_bytes(), tricky_bytes(), any::<u8>())) {
            keeps_order_and_returns(&a.0, &b.0);
            keeps_order_and_returns(&a, &b);
            keeps_order_and_returns(&((a.0.clone(), a.1.clone()), a.2), &((b.0.clone(), b.1.clone()), b.2));
        }

        #[test]
        fn strings_keep_their_order(a in ("[\\x00ab\u{e9}]{0,4}", any::<i32>()), b in ("[\\x00ab\u{e9}]{0,4}", any::<i32>())) {
            keeps_order_and_returns(&a, &b);
            keeps_order_and_returns(&a.0, &b.0);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in tricky_bytes()) {
            let _ = <(Vec<u8>, String) as KeyType>::decode(&bytes);
            let _ = <(bool, u16) as KeyType>::decode(&bytes);
            let _ = <((String,), [u8; 2]) as KeyType>::decode(&bytes);
            let _ = <f64 as ValueType>::decode(&bytes);
        }
    }

    #[test]
    fn names_tell_types_apart() {
        assert_eq!(<(u64, String) as KeyType>::type_name(), "(u64,string)");
        assert_eq!(<[u8; 16] as KeyType>::type_name(), "bytes[16]");
        assert_ne!(<u64 as KeyType>::type_name(), <i64 as KeyType>::type_name());
    }
}
