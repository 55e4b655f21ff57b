//! Target architectures of a root image, as data.
//!
//! [`Arch`] says how Debian, the dynamic loader and QEMU name one architecture. Everything else in this crate
//! takes these names from here, so that a further architecture is one more row of [`ARCHES`].

use crate::error::Error;

/// One architecture and its names.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// Debian's name, also that of the build directory: `arm64`.
    pub debian: &'static str,
    /// Multiarch directory under /usr/lib.
    pub multiarch: &'static str,
    /// The C compiler that makes its programs.
    pub compiler: &'static str,
    /// File name of the ELF interpreter in the multiarch directory.
    pub loader: &'static str,
    /// `e_machine` of its ELF files (ELF gABI, "Machine Information").
    pub elf_machine: u16,
    /// Flags of an entry of ld.so.cache (glibc, sysdeps/generic/ldconfig.h: FLAG_ELF_LIBC6 with the ABI's own).
    pub cache_flags: u32,
    /// QEMU user-mode emulator that runs its programs.
    pub qemu_user: &'static str,
}

/// All architectures an image can be built for.
pub const ARCHES: &[Arch] = &[
    Arch {
        debian: "arm64",
        multiarch: "aarch64-linux-gnu",
        compiler: "aarch64-linux-gnu-gcc",
        loader: "ld-linux-aarch64.so.1",
        elf_machine: 183,
        cache_flags: 0x0a03,
        qemu_user: "qemu-aarch64",
    },
    Arch {
        debian: "amd64",
        multiarch: "x86_64-linux-gnu",
        compiler: "x86_64-linux-gnu-gcc",
        loader: "ld-linux-x86-64.so.2",
        elf_machine: 62,
        cache_flags: 0x0303,
        qemu_user: "qemu-x86_64",
    },
];

impl Arch {
    /// The architecture of that Debian name.
    pub fn by_name(name: &str) -> Result<&'static Arch, Error> {
        ARCHES.iter().find(|arch| arch.debian == name).ok_or_else(|| {
            let known: Vec<&str> = ARCHES.iter().map(|arch| arch.debian).collect();
            Error::Usage(format!("unknown architecture `{name}` (known: {})", known.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_architecture_names_the_known_ones() {
        let text = Arch::by_name("vax").unwrap_err().to_string();
        assert!(text.contains("vax") && text.contains("arm64"), "{text}");
    }

    #[test]
    fn arm64_is_found_by_its_debian_name() {
        assert_eq!(Arch::by_name("arm64").unwrap().multiarch, "aarch64-linux-gnu");
    }
}
