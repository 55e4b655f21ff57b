//! Namespaces (namespaces(7)): whose names and numbers a thread sees.
//!
//! There can be many UTS namespaces, each with a host name and an NIS domain name of its own; every thread is in one,
//! its `uts`, and what it makes is in the same. Of every other kind there is one, which everybody is in: it can be
//! named and entered, and another cannot be made.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result, linux};

use crate::sync::{IrqLock, Lazy};

/// The most bytes of a name.
pub const NAME_MAX: usize = 64;

/// A name of the machine that can be changed.
pub struct MachineName(IrqLock<([u8; NAME_MAX], usize)>);

impl MachineName {
    fn new(name: &[u8]) -> Self {
        let mut bytes = [0; NAME_MAX];
        let len = name.len().min(NAME_MAX);
        bytes[..len].copy_from_slice(&name[..len]);
        Self(IrqLock::new((bytes, len)))
    }

    /// The name now.
    pub fn get(&self) -> Vec<u8> {
        let name = self.0.lock();
        name.0[..name.1].to_vec()
    }

    /// Sets it. EINVAL where it is too long.
    pub fn set(&self, name: &[u8]) -> Result<()> {
        let mut bytes = [0; NAME_MAX];
        bytes.get_mut(..name.len()).ok_or(Errno::EINVAL)?.copy_from_slice(name);
        *self.0.lock() = (bytes, name.len());
        Ok(())
    }
}

/// A UTS namespace (uts_namespaces(7)).
pub struct UtsNamespace {
    number: u32,
    /// The host's name.
    pub host: MachineName,
    /// The NIS domain's name.
    pub domain: MachineName,
}

static FIRST_UTS: Lazy<Arc<UtsNamespace>> = Lazy::new(|| {
    let (host, domain) = (MachineName::new(b"piton"), MachineName::new(b"(none)"));
    Arc::new(UtsNamespace { number: Kind::Uts.first_number(), host, domain })
});

impl UtsNamespace {
    /// The one that process 1 begins in.
    pub fn first() -> Arc<Self> {
        FIRST_UTS.clone()
    }

    /// Another one, with the same names.
    pub fn copy(&self) -> Arc<Self> {
        // Linux numbers the namespaces that are made from here on.
        static NEXT: AtomicU32 = AtomicU32::new(4_026_532_000);
        let (host, domain) = (MachineName::new(&self.host.get()), MachineName::new(&self.domain.get()));
        Arc::new(Self { number: NEXT.fetch_add(1, Ordering::Relaxed), host, domain })
    }
}

/// The kinds of namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// What control groups are called.
    Cgroup,
    /// System V and POSIX message queues.
    Ipc,
    /// Mounts.
    Mount,
    /// Network interfaces and ports.
    Network,
    /// Process numbers.
    Pid,
    /// Offsets of the monotonic clock and the time since boot.
    Time,
    /// User ids and capabilities.
    User,
    /// Host and domain name.
    Uts,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Cgroup, Self::Ipc, Self::Mount, Self::Network, Self::Pid, Self::Time, Self::User, Self::Uts];

    /// What /proc and its links call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Ipc => "ipc",
            Self::Mount => "mnt",
            Self::Network => "net",
            Self::Pid => "pid",
            Self::Time => "time",
            Self::User => "user",
            Self::Uts => "uts",
        }
    }

    /// Its CLONE_NEW* flag.
    pub const fn flag(self) -> u32 {
        match self {
            Self::Cgroup => linux::CLONE_NEWCGROUP,
            Self::Ipc => linux::CLONE_NEWIPC,
            Self::Mount => linux::CLONE_NEWNS,
            Self::Network => linux::CLONE_NEWNET,
            Self::Pid => linux::CLONE_NEWPID,
            Self::Time => linux::CLONE_NEWTIME,
            Self::User => linux::CLONE_NEWUSER,
            Self::Uts => linux::CLONE_NEWUTS,
        }
    }

    /// The number of the first one, as Linux has them.
    const fn first_number(self) -> u32 {
        match self {
            Self::Network => 4_026_531_833,
            Self::Time => 4_026_531_834,
            Self::Cgroup => 4_026_531_835,
            Self::Pid => 4_026_531_836,
            Self::User => 4_026_531_837,
            Self::Uts => 4_026_531_838,
            Self::Ipc => 4_026_531_839,
            Self::Mount => 4_026_531_841,
        }
    }
}

/// The flags of all kinds.
pub const ALL_FLAGS: u32 = {
    let mut flags = 0;
    let mut index = 0;
    while index < Kind::ALL.len() {
        flags |= Kind::ALL[index].flag();
        index += 1;
    }
    flags
};

/// A namespace.
#[derive(Clone)]
pub enum Namespace {
    /// A UTS namespace.
    Uts(Arc<UtsNamespace>),
    /// The only one of its kind.
    Only(Kind),
}

impl Namespace {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Uts(_) => Kind::Uts,
            Self::Only(kind) => *kind,
        }
    }

    /// Its number, unique among all namespaces.
    pub fn number(&self) -> u32 {
        match self {
            Self::Uts(uts) => uts.number,
            Self::Only(kind) => kind.first_number(),
        }
    }
}
