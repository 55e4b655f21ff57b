//! Credentials: who acts, and what that allows (credentials(7), capabilities(7)).
//!
//! [`Credentials`] are a value: what changes them makes another one, or leaves them alone with an error. [`Ids`] has
//! the rules that user and group ids share, [`Credentials::allows`] those of a file's permission bits, and
//! [`Credentials::for_program`] what execve(2) makes of them.

use alloc::sync::Arc;
use core::ops::{BitAnd, BitOr, Not};

use abi::{Errno, Result, linux};

/// Read, in the three bits that access(2) and a class of permission bits have.
pub const READ: u32 = 4;
/// Write.
pub const WRITE: u32 = 2;
/// Execute, or search in a directory.
pub const EXECUTE: u32 = 1;

/// SECBIT_NOROOT: user 0 gets no capabilities at execve(2). The header that has these is not in `abi`.
const SECBIT_NOROOT: u32 = 1 << 0;
/// SECBIT_NO_SETUID_FIXUP: changes of user ids leave capabilities alone.
const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
/// SECBIT_KEEP_CAPS: permitted capabilities stay when the last user id 0 goes.
const SECBIT_KEEP_CAPS: u32 = 1 << 4;
/// SECBIT_KEEP_CAPS_LOCKED.
const SECBIT_KEEP_CAPS_LOCKED: u32 = 1 << 5;
/// SECBIT_NO_CAP_AMBIENT_RAISE: nothing can be added to the ambient set.
const SECBIT_NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
/// All flags; each one's lock is the bit above it.
const SECURE_ALL_BITS: u32 = 0x55;
const SECURE_ALL_LOCKS: u32 = SECURE_ALL_BITS << 1;

/// "Leave as it is" in the setre and setres calls, and no id at all elsewhere.
const KEEP: u32 = u32::MAX;
const ROOT: u32 = 0;

/// A set of capabilities; capability n is bit n.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Capabilities(u64);

impl Capabilities {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// All there are.
    pub const ALL: Self = Self((1 << (linux::CAP_LAST_CAP + 1)) - 1);
    /// Those that the file-system user id stands for (setfsuid(2)).
    const OF_FILES: Self = Self(
        1 << linux::CAP_CHOWN
            | 1 << linux::CAP_MKNOD
            | 1 << linux::CAP_DAC_OVERRIDE
            | 1 << linux::CAP_DAC_READ_SEARCH
            | 1 << linux::CAP_FOWNER
            | 1 << linux::CAP_FSETID
            | 1 << linux::CAP_LINUX_IMMUTABLE
            | 1 << linux::CAP_MAC_OVERRIDE,
    );

    /// From a program's bits; what does not exist is left out.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }
    /// To a program's bits.
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// The set of one; EINVAL where there is no such capability.
    pub const fn of(capability: u32) -> Result<Self> {
        if capability <= linux::CAP_LAST_CAP { Ok(Self(1 << capability)) } else { Err(Errno::EINVAL) }
    }
    /// Whether the set has a capability.
    pub const fn contains(self, capability: u32) -> bool {
        capability <= linux::CAP_LAST_CAP && self.0 & (1 << capability) != 0
    }
    /// Whether all of this set are in `other`.
    pub const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

impl BitAnd for Capabilities {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
impl BitOr for Capabilities {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
impl Not for Capabilities {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0 & Self::ALL.0)
    }
}

/// The ids of one kind, of users or of groups.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ids {
    /// Who started the program.
    pub real: u32,
    /// Who it acts for.
    pub effective: u32,
    /// What the effective id can go back to.
    pub saved: u32,
    /// Who it is to file systems.
    pub file: u32,
}

impl Ids {
    /// The same id throughout.
    pub const fn all(id: u32) -> Self {
        Self { real: id, effective: id, saved: id, file: id }
    }

    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// setuid(2), setgid(2); `capable` says whether any id may be taken. EINVAL for no id, EPERM.
    pub fn set(self, id: u32, capable: bool) -> Result<Self> {
        if id == KEEP {
            return Err(Errno::EINVAL);
        }
        if capable {
            return Ok(Self::all(id));
        }
        if id != self.real && id != self.saved {
            return Err(Errno::EPERM);
        }
        Ok(Self { effective: id, file: id, ..self })
    }

    /// setreuid(2), setregid(2). EPERM.
    pub fn set_real_effective(self, real: u32, effective: u32, capable: bool) -> Result<Self> {
        let mut new = self;
        if real != KEEP {
            if !capable && real != self.real && real != self.effective {
                return Err(Errno::EPERM);
            }
            new.real = real;
        }
        if effective != KEEP {
            if !capable && !self.has(effective) {
                return Err(Errno::EPERM);
            }
            new.effective = effective;
        }
        if real != KEEP || effective != KEEP && effective != self.real {
            new.saved = new.effective;
        }
        new.file = new.effective;
        Ok(new)
    }

    /// setresuid(2), setresgid(2). EPERM.
    pub fn set_all(self, real: u32, effective: u32, saved: u32, capable: bool) -> Result<Self> {
        let mut new = self;
        for (id, slot) in [(real, &mut new.real), (effective, &mut new.effective), (saved, &mut new.saved)] {
            if id == KEEP {
                continue;
            }
            if !capable && !self.has(id) {
                return Err(Errno::EPERM);
            }
            *slot = id;
        }
        new.file = new.effective;
        Ok(new)
    }

    /// setfsuid(2), setfsgid(2): changes the id for file systems where that is allowed.
    pub fn set_file(self, id: u32, capable: bool) -> Self {
        if id != KEEP && (capable || self.has(id) || id == self.file) { Self { file: id, ..self } } else { self }
    }
}

/// Who a thread is and what it may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// User ids.
    pub user: Ids,
    /// Group ids.
    pub group: Ids,
    /// Supplementary groups, ascending.
    pub groups: Arc<[u32]>,
    /// What may be made effective.
    pub permitted: Capabilities,
    /// What counts.
    pub effective: Capabilities,
    /// What goes through execve(2) to programs with capabilities of their own.
    pub inheritable: Capabilities,
    /// What execve(2) can give at most.
    pub bounding: Capabilities,
    /// What goes through execve(2) to any program.
    pub ambient: Capabilities,
    /// SECBIT_ flags.
    pub securebits: u32,
    /// PR_SET_NO_NEW_PRIVS: execve(2) gives nothing that was not there.
    pub no_new_privileges: bool,
}

/// What the owner, the group and the permission bits of a file are.
#[derive(Clone, Copy, Debug)]
pub struct FileRights {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits (07777).
    pub permissions: u32,
    /// Whether it is a directory.
    pub is_directory: bool,
}

impl Credentials {
    /// User 0 with all capabilities.
    pub fn root() -> Self {
        Self {
            user: Ids::default(),
            group: Ids::default(),
            groups: Arc::new([]),
            permitted: Capabilities::ALL,
            effective: Capabilities::ALL,
            inheritable: Capabilities::EMPTY,
            bounding: Capabilities::ALL,
            ambient: Capabilities::EMPTY,
            securebits: 0,
            no_new_privileges: false,
        }
    }

    /// Whether a capability counts.
    pub fn has(&self, capability: u32) -> bool {
        self.effective.contains(capability)
    }

    /// Whether no permission bits stand in the way of reading, writing and searching, and set-id bits of files may be
    /// left as they are.
    pub fn reaches_all_files(&self) -> bool {
        [linux::CAP_DAC_OVERRIDE, linux::CAP_DAC_READ_SEARCH, linux::CAP_FSETID].iter().all(|one| self.has(*one))
    }

    /// Whether it is a member of `gid` towards file systems.
    pub fn is_in_group(&self, gid: u32) -> bool {
        gid == self.group.file || self.groups.binary_search(&gid).is_ok()
    }

    /// Whether `wanted` ([`READ`], [`WRITE`], [`EXECUTE`]) may be done with a file (path_resolution(7), "Permissions").
    pub fn allows(&self, file: FileRights, wanted: u32) -> bool {
        let class = if self.user.file == file.uid {
            file.permissions >> 6
        } else if self.is_in_group(file.gid) {
            file.permissions >> 3
        } else {
            file.permissions
        };
        if wanted & !class & 7 == 0 {
            return true;
        }
        let only_looks = if file.is_directory { wanted & WRITE == 0 } else { wanted == READ };
        if only_looks && self.has(linux::CAP_DAC_READ_SEARCH) {
            return true;
        }
        let can_run = file.is_directory || wanted & EXECUTE == 0 || file.permissions & 0o111 != 0;
        can_run && self.has(linux::CAP_DAC_OVERRIDE)
    }

    /// Whether it owns what belongs to `uid`, or may do as if.
    pub fn owns(&self, uid: u32) -> bool {
        self.user.file == uid || self.has(linux::CAP_FOWNER)
    }

    /// Takes user ids, with what that does to capabilities (capabilities(7), "Effect of user ID changes").
    pub fn with_user(&self, user: Ids) -> Self {
        let mut new = Self { user, ..self.clone() };
        if self.securebits & SECBIT_NO_SETUID_FIXUP != 0 {
            return new;
        }
        let old = self.user;
        if old.has(ROOT) && !user.has(ROOT) {
            if self.securebits & SECBIT_KEEP_CAPS == 0 {
                new.permitted = Capabilities::EMPTY;
                new.effective = Capabilities::EMPTY;
            }
            new.ambient = Capabilities::EMPTY;
        }
        if old.effective == ROOT && user.effective != ROOT {
            new.effective = Capabilities::EMPTY;
        }
        if old.effective != ROOT && user.effective == ROOT {
            new.effective = new.permitted;
        }
        new
    }

    /// setfsuid(2).
    pub fn with_file_user(&self, id: u32) -> Self {
        let user = self.user.set_file(id, self.has(linux::CAP_SETUID));
        let mut new = Self { user, ..self.clone() };
        if self.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
            if self.user.file == ROOT && user.file != ROOT {
                new.effective = self.effective & !Capabilities::OF_FILES;
            }
            if self.user.file != ROOT && user.file == ROOT {
                new.effective = self.effective | self.permitted & Capabilities::OF_FILES;
            }
        }
        new
    }

    /// What access(2) asks with: the real ids, and the capabilities that go with them.
    pub fn as_real(&self) -> Self {
        let mut new = self.clone();
        new.user.file = self.user.real;
        new.group.file = self.group.real;
        if self.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
            new.effective = if self.user.real == ROOT { self.permitted } else { Capabilities::EMPTY };
        }
        new
    }

    /// Whether access(2) asks with something else than what counts otherwise.
    pub fn differs_as_real(&self) -> bool {
        let root = self.user.real == ROOT;
        self.user.file != self.user.real
            || self.group.file != self.group.real
            || self.effective != if root { self.permitted } else { Capabilities::EMPTY }
    }

    /// capset(2). EPERM.
    pub fn with_capabilities(
        &self,
        effective: Capabilities,
        permitted: Capabilities,
        inheritable: Capabilities,
    ) -> Result<Self> {
        let may_inherit = self.inheritable | self.permitted;
        if !self.has(linux::CAP_SETPCAP) && !inheritable.is_within(may_inherit)
            || !inheritable.is_within(self.inheritable | self.bounding)
            || !permitted.is_within(self.permitted)
            || !effective.is_within(permitted)
        {
            return Err(Errno::EPERM);
        }
        let ambient = self.ambient & permitted & inheritable;
        Ok(Self { effective, permitted, inheritable, ambient, ..self.clone() })
    }

    /// PR_CAPBSET_DROP. EPERM without CAP_SETPCAP, EINVAL for no capability.
    pub fn without_bounding(&self, capability: u32) -> Result<Self> {
        if !self.has(linux::CAP_SETPCAP) {
            return Err(Errno::EPERM);
        }
        let bounding = self.bounding & !Capabilities::of(capability)?;
        Ok(Self { bounding, ..self.clone() })
    }

    /// PR_CAP_AMBIENT_RAISE and _LOWER. EINVAL for no capability; EPERM for one that is not permitted and inheritable.
    pub fn with_ambient(&self, capability: u32, raised: bool) -> Result<Self> {
        let one = Capabilities::of(capability)?;
        if !raised {
            return Ok(Self { ambient: self.ambient & !one, ..self.clone() });
        }
        if !one.is_within(self.permitted & self.inheritable) || self.securebits & SECBIT_NO_CAP_AMBIENT_RAISE != 0 {
            return Err(Errno::EPERM);
        }
        Ok(Self { ambient: self.ambient | one, ..self.clone() })
    }

    /// PR_SET_SECUREBITS. EPERM for a locked or unknown flag, or without CAP_SETPCAP.
    pub fn with_securebits(&self, bits: u32) -> Result<Self> {
        let locked = (self.securebits & SECURE_ALL_LOCKS) >> 1;
        if locked & (self.securebits ^ bits) != 0
            || self.securebits & SECURE_ALL_LOCKS & !bits != 0
            || bits & !(SECURE_ALL_BITS | SECURE_ALL_LOCKS) != 0
            || !self.has(linux::CAP_SETPCAP)
        {
            return Err(Errno::EPERM);
        }
        Ok(Self { securebits: bits, ..self.clone() })
    }

    /// Whether permitted capabilities outlast user id 0 (PR_GET_KEEPCAPS).
    pub fn keeps_capabilities(&self) -> bool {
        self.securebits & SECBIT_KEEP_CAPS != 0
    }

    /// PR_SET_KEEPCAPS. EPERM where that is locked.
    pub fn with_kept_capabilities(&self, keep: bool) -> Result<Self> {
        if self.securebits & SECBIT_KEEP_CAPS_LOCKED != 0 {
            return Err(Errno::EPERM);
        }
        let others = self.securebits & !SECBIT_KEEP_CAPS;
        Ok(Self { securebits: if keep { others | SECBIT_KEEP_CAPS } else { others }, ..self.clone() })
    }

    /// execve(2) of a program whose file sets these ids (`None`: it sets none). The second value: whether the program
    /// must not trust its environment (AT_SECURE).
    pub fn for_program(&self, set_user: Option<u32>, set_group: Option<u32>) -> (Self, bool) {
        let mut new = self.clone();
        if !self.no_new_privileges {
            new.user.effective = set_user.unwrap_or(self.user.effective);
            new.group.effective = set_group.unwrap_or(self.group.effective);
        }
        let mut all_effective = false;
        new.permitted = Capabilities::EMPTY;
        if self.securebits & SECBIT_NOROOT == 0 {
            if new.user.effective == ROOT || new.user.real == ROOT {
                new.permitted = self.bounding | self.inheritable;
            }
            all_effective = new.user.effective == ROOT;
        }
        let changes_ids = new.user.effective != self.user.real || new.group.effective != self.group.real;
        let gains = !new.permitted.is_within(self.permitted);
        if (changes_ids || gains) && self.no_new_privileges {
            new.user.effective = self.user.real;
            new.group.effective = self.group.real;
            new.permitted = new.permitted & self.permitted;
        }
        new.user.saved = new.user.effective;
        new.user.file = new.user.effective;
        new.group.saved = new.group.effective;
        new.group.file = new.group.effective;
        if changes_ids {
            new.ambient = Capabilities::EMPTY;
        }
        new.permitted = new.permitted | new.ambient;
        new.effective = if all_effective { new.permitted } else { new.ambient };
        new.securebits &= !SECBIT_KEEP_CAPS;
        let grew = new.permitted != new.ambient && !new.permitted.is_within(new.ambient);
        let secure = changes_ids || new.user.real != ROOT && (all_effective || grew);
        (new, secure)
    }

    /// Whether a change to `new` leaves a process that others of its user may not look into (PR_SET_DUMPABLE).
    pub fn must_hide(&self, new: &Self) -> bool {
        self.user.effective != new.user.effective
            || self.group.effective != new.group.effective
            || self.user.file != new.user.file
            || self.group.file != new.group.file
            || !new.permitted.is_within(self.permitted)
    }

    /// kill(2): whether a signal may be sent to a process of `target`.
    pub fn may_signal(&self, target: &Self) -> bool {
        let (from, to) = (&self.user, &target.user);
        [from.effective, from.real].iter().any(|id| *id == to.saved || *id == to.real) || self.has(linux::CAP_KILL)
    }

    /// Whether this one may say where `target` runs (sched_setaffinity(2)).
    pub fn may_schedule(&self, target: &Self) -> bool {
        let to = &target.user;
        [to.effective, to.real].contains(&self.user.effective) || self.has(linux::CAP_SYS_NICE)
    }

    /// Whether all ids of `target` are this one's real ids (prlimit(2)) or, with `file`, its ids for files
    /// (ptrace(2), "PTRACE_MODE_FSCREDS").
    pub fn is_same_user(&self, target: &Self, file: bool) -> bool {
        let (user, group) = if file { (self.user.file, self.group.file) } else { (self.user.real, self.group.real) };
        let same = |ids: &Ids, id| ids.real == id && ids.effective == id && ids.saved == id;
        same(&target.user, user) && same(&target.group, group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: u32) -> Credentials {
        let root = Credentials::root();
        let user = root.with_user(Ids::all(id));
        Credentials { group: Ids::all(id), ..user }
    }

    fn file(uid: u32, gid: u32, permissions: u32) -> FileRights {
        FileRights { uid, gid, permissions, is_directory: false }
    }

    #[test]
    fn one_class_of_bits_counts() {
        let own = user(7);
        assert!(own.allows(file(7, 0, 0o400), READ));
        assert!(!own.allows(file(7, 0, 0o044), READ), "the owner's bits count, though others' would allow");
        assert!(own.allows(file(1, 7, 0o020), WRITE));
        assert!(!own.allows(file(1, 7, 0o002), WRITE));
        assert!(own.allows(file(1, 1, 0o005), READ | EXECUTE));
        assert!(!own.allows(file(1, 1, 0o005), READ | WRITE));
    }

    #[test]
    fn supplementary_groups_count() {
        let member = Credentials { groups: Arc::new([3, 9]), ..user(7) };
        assert!(member.allows(file(1, 9, 0o040), READ));
        assert!(!member.allows(file(1, 8, 0o040), READ));
    }

    #[test]
    fn root_cannot_run_what_nobody_can() {
        let root = Credentials::root();
        assert!(root.allows(file(5, 5, 0), READ | WRITE));
        assert!(!root.allows(file(5, 5, 0o666), EXECUTE));
        assert!(root.allows(file(5, 5, 0o001), EXECUTE));
        assert!(root.allows(FileRights { is_directory: true, ..file(5, 5, 0) }, EXECUTE));
    }

    #[test]
    fn leaving_root_drops_capabilities() {
        let left = user(5);
        assert_eq!((left.permitted, left.effective), (Capabilities::EMPTY, Capabilities::EMPTY));
        assert_eq!(left.user.set(0, left.has(linux::CAP_SETUID)), Err(Errno::EPERM));
    }

    #[test]
    fn a_saved_root_can_come_back() {
        let root = Credentials::root();
        let away = root.with_user(root.user.set_real_effective(KEEP, 5, true).unwrap());
        assert_eq!(away.user, Ids { real: 0, effective: 5, saved: 5, file: 5 });
        assert_eq!((away.permitted, away.effective), (Capabilities::ALL, Capabilities::EMPTY));
        let back = away.with_user(away.user.set_real_effective(KEEP, 0, false).unwrap());
        assert_eq!(back.effective, Capabilities::ALL);
    }

    #[test]
    fn kept_capabilities_are_permitted_only() {
        let keeping = Credentials::root().with_kept_capabilities(true).unwrap();
        let left = keeping.with_user(Ids::all(5));
        assert_eq!((left.permitted, left.effective), (Capabilities::ALL, Capabilities::EMPTY));
        let (run, secure) = left.for_program(None, None);
        assert_eq!((run.permitted, run.keeps_capabilities(), secure), (Capabilities::EMPTY, false, false));
    }

    #[test]
    fn ids_change_within_what_one_has() {
        let ids = Ids { real: 1, effective: 2, saved: 3, file: 2 };
        assert_eq!(ids.set(2, false), Err(Errno::EPERM));
        assert_eq!(ids.set(3, false), Ok(Ids { effective: 3, file: 3, ..ids }));
        assert_eq!(ids.set(KEEP, true), Err(Errno::EINVAL));
        assert_eq!(ids.set_all(3, 1, KEEP, false), Ok(Ids { real: 3, effective: 1, saved: 3, file: 1 }));
        assert_eq!(ids.set_all(4, KEEP, KEEP, false), Err(Errno::EPERM));
        assert_eq!(ids.set_real_effective(3, KEEP, false), Err(Errno::EPERM));
        assert_eq!(ids.set_real_effective(2, KEEP, false), Ok(Ids { real: 2, effective: 2, saved: 2, file: 2 }));
        assert_eq!(ids.set_file(3, false).file, 3);
        assert_eq!(ids.set_file(9, false).file, 2);
    }

    #[test]
    fn set_user_id_programs_gain_and_are_secure() {
        let (run, secure) = user(5).for_program(Some(0), None);
        assert_eq!(run.user, Ids { real: 5, effective: 0, saved: 0, file: 0 });
        assert_eq!((run.effective, secure), (Capabilities::ALL, true));
        let bound = Credentials { no_new_privileges: true, ..user(5) };
        let (run, secure) = bound.for_program(Some(0), Some(0));
        assert_eq!((run.user, run.effective, secure), (Ids::all(5), Capabilities::EMPTY, false));
    }

    #[test]
    fn placing_a_thread_needs_its_user_or_a_capability() {
        let other = Credentials { user: Ids { real: 5, effective: 6, saved: 7, file: 6 }, ..user(5) };
        assert!(user(5).may_schedule(&other) && user(6).may_schedule(&other));
        assert!(!user(7).may_schedule(&other));
        assert!(Credentials::root().may_schedule(&other));
    }

    #[test]
    fn securebits_lock() {
        let root = Credentials::root().with_securebits(SECBIT_NOROOT | SECBIT_NOROOT << 1).unwrap();
        assert!(root.with_securebits(0).is_err());
        let (run, _) = root.for_program(None, None);
        assert_eq!(run.effective, Capabilities::EMPTY);
        assert!(Credentials::root().with_securebits(1 << 20).is_err());
    }

    #[test]
    fn ambient_needs_permitted_and_inheritable() {
        let root = Credentials::root();
        assert!(root.with_ambient(linux::CAP_CHOWN, true).is_err());
        let all = Capabilities::ALL;
        let inheriting = root.with_capabilities(all, all, all).unwrap();
        let ambient = inheriting.with_ambient(linux::CAP_CHOWN, true).unwrap().with_kept_capabilities(true).unwrap();
        assert!(ambient.ambient.contains(linux::CAP_CHOWN));
        assert_eq!(root.with_ambient(99, true).unwrap_err(), Errno::EINVAL);
    }
}
