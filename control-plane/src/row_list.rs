//! A list that a control plane answers, complete or not. Pure.

use super::{At, Error};

/// Rows of a list.
#[derive(Clone, Debug)]
pub struct RowList<T> {
    /// The rows; if there are too many, the last of them.
    pub rows: Vec<T>,
    /// The call, if there are too many: then a missing row may exist all the same.
    pub beyond: Option<At>,
}

impl<T> RowList<T> {
    /// Returns a complete list.
    #[must_use]
    pub fn all(rows: Vec<T>) -> Self {
        Self { rows, beyond: None }
    }

    /// Returns the rows, if they are complete.
    ///
    /// # Errors
    /// [`Error::TooManyRows`] if they are not.
    pub fn whole(self) -> Result<Vec<T>, Error> {
        match self.beyond {
            Some(at) => Err(Error::TooManyRows { at }),
            None => Ok(self.rows),
        }
    }
}
