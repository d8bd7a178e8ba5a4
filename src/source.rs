//! IO in: turns the outside into changes and observations.

pub mod als;
pub mod istiod;
pub mod prometheus;
pub mod seen;
pub mod watch;
