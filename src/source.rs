//! IO in: turns the outside into changes and observations.

pub mod als;
pub mod convergence;
pub mod convert;
pub mod prometheus;
pub mod watch;
