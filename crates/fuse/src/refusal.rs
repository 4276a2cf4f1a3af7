//! How an operation's failure reaches the kernel: as an error number, and in the log when it is the pool's fault.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fuser::Errno;

use crate::acl::AclError;
use crate::meter::Timer;

/// What operations give.
pub(crate) type Result<T> = std::result::Result<T, Refusal>;

/// The error number of a request that failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal(pub(crate) Errno);

impl From<udax::Error> for Refusal {
    fn from(error: udax::Error) -> Self {
        let errno = io::Error::from(error.errno())
            .raw_os_error()
            .map_or(Errno::EIO, Errno::from_i32);
        let failures = [Errno::EIO.code(), rustix::io::Errno::UCLEAN.raw_os_error()];
        if failures.contains(&errno.code()) {
            tracing::error!(%error, "the pool failed");
        }
        Self(errno)
    }
}

impl From<AclError> for Refusal {
    fn from(error: AclError) -> Self {
        Self(match error {
            AclError::Malformed => Errno::EINVAL,
            AclError::Unknown => Errno::EOVERFLOW,
        })
    }
}

/// A reply that can say no.
pub(crate) trait Refuse {
    /// Sends `errno`.
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ident)*) => {$(
        impl Refuse for fuser::$reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

refuse! {
    ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyDirectoryPlus ReplyEmpty ReplyEntry ReplyIoctl ReplyLseek
    ReplyOpen ReplyStatfs ReplyWrite ReplyXattr
}

/// Does `work` and sends what it gives with `send`, or its error number; the timer ends after that. A panic is `EIO`
/// for this request: the thread that serves goes on, and so does the mount.
pub(crate) fn answer<R: Refuse, T>(
    mut timer: Timer<'_>,
    reply: R,
    work: impl FnOnce() -> Result<T>,
    send: impl FnOnce(R, T),
) {
    let operation = timer.operation();
    match caught(operation, work) {
        Ok(value) => send(reply, value),
        Err(Refusal(errno)) => {
            tracing::debug!(operation, errno = errno.code(), "refused");
            // That there is no such attribute is an answer: the kernel asks for those that few files have.
            if errno.code() != Errno::ENODATA.code() {
                timer.note_refusal();
            }
            reply.refuse(errno);
        }
    }
}

/// Does `work`; a panic is `EIO`.
pub(crate) fn caught<T>(operation: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let work = || {
        tracing::trace!(operation, "request");
        work()
    };
    // The library lets go of its locks when a thread panics, and stops the journal where it must: what is left is
    // sound, or refuses to go on.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        tracing::error!(operation, "a request ended in a panic");
        Err(Refusal(Errno::EIO))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_input_output_error() {
        let result: Result<()> = caught("test", || panic!("on purpose"));
        assert_eq!(result.expect_err("caught").0.code(), Errno::EIO.code());
    }

    #[test]
    fn errors_of_the_library_have_their_numbers() {
        for (error, errno) in [
            (udax::Error::NotFound, Errno::ENOENT),
            (udax::Error::NotSupported("test"), Errno::EOPNOTSUPP),
            (udax::Error::ReadOnly, Errno::EROFS),
            (
                udax::Error::NoSpace {
                    needed: 1,
                    free: 0,
                    on_device: false,
                },
                Errno::ENOSPC,
            ),
        ] {
            assert_eq!(Refusal::from(error).0.code(), errno.code());
        }
    }
}
