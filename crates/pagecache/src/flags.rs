//! What a caller asks of one read or write.

bitflags::bitflags! {
    /// Of one read.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ReadFlags: u8 {
        /// Pages that this read brings into the cache leave it as soon as they are copied; those that were there stay.
        const DONTCACHE = 1;
        /// What is not in the cache, or would wait, is `WouldBlock`.
        const NOWAIT = 2;
    }
}

bitflags::bitflags! {
    /// Of one write.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct WriteFlags: u8 {
        /// Pages that this write brings into the cache leave it when they are written back, which begins at once. That
        /// promises nothing about durability, and errors are told by the next sync.
        const DONTCACHE = 1;
        /// What would wait is `WouldBlock`.
        const NOWAIT = 2;
    }
}
