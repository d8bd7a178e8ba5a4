//! A rule of a VirtualService.

use serde_json::{Map, Value};

/// A rule, or another object, as written.
pub type Rule = Map<String, Value>;
