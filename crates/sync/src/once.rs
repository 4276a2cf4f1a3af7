//! A cell that is filled once: std's, but for shuttle.

#[cfg(not(all(shuttle, not(loom))))]
pub use std::sync::OnceLock;

#[cfg(all(shuttle, not(loom)))]
pub use checked::OnceLock;

#[cfg(all(shuttle, not(loom)))]
mod checked {
    /// As std's, but two may make the value at once, and one of both is dropped: shuttle's threads share one of the
    /// system's, which would wait for itself in std's lock if another of them took over in the middle.
    #[derive(Debug)]
    pub struct OnceLock<T>(std::sync::OnceLock<T>);

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            Self::new()
        }
    }

    impl<T> OnceLock<T> {
        /// An empty cell.
        pub const fn new() -> Self {
            Self(std::sync::OnceLock::new())
        }

        /// The value, if there is one.
        pub fn get(&self) -> Option<&T> {
            self.0.get()
        }

        /// Fills the cell.
        ///
        /// # Errors
        /// The value, when there is one already.
        pub fn set(&self, value: T) -> Result<(), T> {
            self.0.set(value)
        }

        /// The value, made now if there is none.
        pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
            if let Some(value) = self.0.get() {
                return value;
            }
            let value = make();
            // Nothing in there gives way to another thread.
            self.0.get_or_init(|| value)
        }
    }
}
