//! What a store that seals owes the ring.

use crate::Error;

/// How far a store is with moving its bodies to later keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reseal {
    /// It moved so many bytes; there may be more.
    Moved(u64),
    /// It moves in its own time; ask again later.
    UnderWay,
    /// Nothing that lives is sealed with an earlier key, nor unsealed.
    Done,
}

/// A store that seals what it writes.
///
/// It takes a [`Sealer`](super::Sealer) for each write and drops it only when what it sealed counts
/// as living in the store's books: the ring asks nobody while a sealer of an old key is out.
pub(crate) trait KeyUser: Send + Sync {
    /// Moves a bounded part of what lives under keys before `number`, or unsealed, to the current
    /// key; durable where it answers [`Reseal::Done`]. Blocks for tens of milliseconds at most.
    ///
    /// # Errors
    /// When the store cannot tell, or takes no writes: no key may be destroyed then.
    fn reseal(&self, number: u32) -> Result<Reseal, Error>;
}
