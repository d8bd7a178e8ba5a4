//! What the metadata of every object says.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::core::ObjectMeta;

use crate::facts::labels::Labels;

/// The value of a label.
pub fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// When an object was created; the epoch where it does not say so.
pub fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// Labels as a list of the size that it needs.
pub fn label_list(map: Option<BTreeMap<String, String>>) -> Labels {
    let map = map.unwrap_or_default();
    let mut labels = Labels::with_capacity(map.len());
    labels.extend(map);
    labels
}
