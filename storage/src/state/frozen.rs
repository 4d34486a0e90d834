//! The right to commit a frozen layer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;

use super::layer::Layer;

/// A layer that takes no more changes, with the applied position it belongs to.
#[derive(Debug)]
pub(super) struct FrozenLayer {
    pub(super) layer: Layer,
    pub(super) applied: Option<Bytes>,
    /// Whether a [`Frozen`] for this layer is out.
    pub(super) claimed: AtomicBool,
}

/// The right to commit a frozen layer, from `GroupWrite::freeze`. Dropped without a commit, the
/// layer stays readable and the next freeze hands it out again.
#[derive(Debug)]
pub struct Frozen {
    pub(super) layer: Arc<FrozenLayer>,
}

impl Frozen {
    /// Claims the layer, unless it is claimed.
    pub(super) fn claim(layer: &Arc<FrozenLayer>) -> Option<Self> {
        let was_claimed = layer.claimed.swap(true, Ordering::AcqRel);
        (!was_claimed).then(|| Self { layer: layer.clone() })
    }

    /// The applied position the layer belongs to.
    pub fn applied(&self) -> Option<Bytes> {
        self.layer.applied.clone()
    }

    /// How many rows it changes.
    pub fn rows(&self) -> usize {
        self.layer.layer.changes().len()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.layer.claimed.store(false, Ordering::Release);
    }
}
