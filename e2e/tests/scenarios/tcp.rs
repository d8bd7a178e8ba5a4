//! x
crate::scenarios![];
