//! Progress on a terminal; silence elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A progress bar on standard error. Hidden where that is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar of bytes.
    pub(crate) fn of_bytes(total: u64) -> Self {
        Self::new(
            total,
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        )
    }

    /// A bar of anything else.
    pub(crate) fn of_units(total: u64) -> Self {
        Self::new(total, "{msg:20} {wide_bar} {pos}/{len}")
    }

    /// No bar, terminal or not.
    pub(crate) fn hidden() -> Self {
        Self {
            bar: ProgressBar::hidden(),
        }
    }

    fn new(total: u64, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// `count` more are done.
    pub(crate) fn add(&self, count: u64) {
        self.bar.inc(count);
    }

    /// What is being done, and how far.
    pub(crate) fn set(&self, what: &'static str, done: u64, total: u64) {
        self.bar.set_message(what);
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Prints a message on standard error without tearing the bar.
    pub(crate) fn tell(&self, message: &str) {
        self.bar.suspend(|| crate::failure::tell(message));
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl udax_check::Progress for Progress {
    fn step(&self, phase: &'static str, done: u64, total: u64) {
        self.set(phase, done, total);
    }
}
