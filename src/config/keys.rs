//! Structs that share one table of the file.
//!
//! A model's table has keys that all models have, and keys of one kind of model. Which kind it is shows only when the
//! whole table is read. So each key is read into whichever struct has it, and the parser can say where a wrong value
//! stands.

/// Gives a struct the keys that it is read from: `KEYS`, and `read`, which takes the value of one key.
///
/// Each key is a field of its name. A field whose value is written in another way than its type has `as` and the type
/// that is read. Fields that are not keys stand in brackets. The compiler refuses a list that leaves a field out.
macro_rules! keys {
    (@read $map:ident) => { $map.next_value()? };
    (@read $map:ident $reader:ty) => { $map.next_value::<$reader>()?.0 };
    ($name:ident [$($other:ident),*] $($key:ident $(as $reader:ty)?),* $(,)?) => {
        impl $name {
            /// The keys, in the order of the fields.
            pub(super) const KEYS: &[&str] = &[$(stringify!($key)),*];

            /// Reads the value of `key`. Returns false, and leaves the value unread, where it is not a key of this
            /// struct.
            pub(super) fn read<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                map: &mut A,
            ) -> Result<bool, A::Error> {
                let $name { $($other: _,)* $($key),* } = self;
                match key {
                    $(stringify!($key) => *$key = $crate::config::keys::keys!(@read map $($reader)?),)*
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }
    };
}

pub(super) use keys;
