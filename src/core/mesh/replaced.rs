//! What an object was, and what it is now.

/// An object that was added, replaced or removed.
#[derive(Debug)]
pub struct Replaced<T> {
    /// What was there.
    pub old: Option<T>,
    /// What is there now.
    pub new: Option<T>,
}

impl<T: PartialEq> Replaced<T> {
    /// Whether that makes a difference.
    pub fn is_news(&self) -> bool {
        self.old != self.new
    }

    /// Whether something of it makes a difference.
    pub fn differs<P: PartialEq>(&self, of: impl Fn(&T) -> P) -> bool {
        self.old.as_ref().map(&of) != self.new.as_ref().map(of)
    }

    /// What was there and what is.
    pub fn either(&self) -> impl Iterator<Item = &T> {
        self.old.iter().chain(&self.new)
    }
}
