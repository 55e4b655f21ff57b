//! errno(3) as a type.

use core::fmt;

use linux_raw_sys::errno as raw;

/// An error number of errno(3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident)*) => {
        #[allow(missing_docs, reason = "errno(3) documents them")]
        impl Errno {
            $(pub const $name: Self = Self(raw::$name as u16);)*
        }
        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(stringify!($name)),)*
                    Self(number) => write!(f, "errno {number}"),
                }
            }
        }
    };
}

errnos! {
    E2BIG EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF EBUSY ECANCELED ECHILD ECONNABORTED ECONNREFUSED
    ECONNRESET EDEADLK EDESTADDRREQ EDOM EEXIST EFAULT EFBIG EHOSTUNREACH EIDRM EILSEQ EINPROGRESS EINTR EINVAL EIO
    EISCONN EISDIR ELOOP EMFILE EMLINK EMSGSIZE ENAMETOOLONG ENETUNREACH ENFILE ENOBUFS ENODATA ENODEV ENOENT ENOEXEC
    ENOLCK ENOMEM ENOPROTOOPT ENOSPC ENOSYS ENOTBLK ENOTCONN ENOTDIR ENOTEMPTY ENOTSOCK ENOTTY ENXIO EOPNOTSUPP
    EOVERFLOW EOWNERDEAD EPERM EPIPE EPROTO EPROTONOSUPPORT EPROTOTYPE ERANGE EROFS ESHUTDOWN ESOCKTNOSUPPORT ESPIPE
    ESRCH ESTALE ETIMEDOUT ETOOMANYREFS ETXTBSY EUSERS EXDEV
}

impl Errno {
    /// Interrupted; restarted where the signal's action says SA_RESTART, EINTR otherwise. Never reaches a program.
    pub const RESTART: Self = Self(512);
    /// Interrupted; restarted whatever the signal's action says. Never reaches a program.
    pub const RESTART_ALWAYS: Self = Self(513);

    /// The number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// What a system call puts into its return register.
    pub const fn as_return(self) -> u64 {
        (-(self.0 as i64)) as u64
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn errors_return_as_small_negative_numbers() {
        assert_eq!(Errno::EPERM.as_return(), u64::MAX);
        assert_eq!(Errno::EFAULT.as_return() as i64, -14);
    }

    #[test]
    fn errors_print_their_names() {
        assert_eq!(std::format!("{}", Errno::ENOENT), "ENOENT");
        assert_eq!(std::format!("{}", Errno::RESTART), "errno 512");
    }

    #[test]
    fn restart_is_no_number_of_linux() {
        assert!(Errno::RESTART.number() > 133);
    }
}
