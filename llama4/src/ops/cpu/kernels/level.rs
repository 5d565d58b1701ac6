//! Which instructions the kernels use.

use std::fmt;
use std::sync::OnceLock;

/// Environment variable that forces a level, for tests and comparisons.
pub(in crate::ops) const VARIABLE: &str = "LLAMA4_CPU";

/// A set of instructions that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::ops) enum Level {
    /// What every processor of the target has.
    Portable,
    /// AArch64 with the dot product of bytes.
    #[cfg(target_arch = "aarch64")]
    Dotprod,
    /// x86-64 with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 (F, BW, DQ, VL) and its dot product of bytes (VNNI).
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The levels that this processor has, the widest last.
    pub(in crate::ops) fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "not every target has more than one")]
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            levels.push(Self::Dotprod);
        }
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 {
                levels.push(Self::Avx2);
            }
            if avx2 && avx512 {
                levels.push(Self::Avx512);
            }
        }
        levels
    }

    /// The level of this process: the widest, or the one that [`VARIABLE`] names if the processor has it.
    pub(in crate::ops) fn current() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            let levels = Self::available();
            let widest = *levels.last().unwrap_or(&Self::Portable);
            let Ok(wanted) = std::env::var(VARIABLE) else { return widest };
            let named = levels.iter().find(|level| level.to_string() == wanted.to_ascii_lowercase());
            named.copied().unwrap_or_else(|| {
                tracing::warn!("{VARIABLE}={wanted}: this processor has {levels:?}; {widest} is used");
                widest
            })
        })
    }
}

impl Level {
    /// Name of the kernels of this process.
    pub(in crate::ops) fn name() -> &'static str {
        match Self::current() {
            Self::Portable => "CPU kernels, portable",
            #[cfg(target_arch = "aarch64")]
            Self::Dotprod => "CPU kernels, NEON with dot products",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "CPU kernels, AVX2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "CPU kernels, AVX-512 with VNNI",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "aarch64")]
            Self::Dotprod => "dotprod",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
        })
    }
}

/// Compile one function for every level and choose among the copies at run time.
///
/// The body is plain Rust without `unsafe`, which the compiler turns into vectors of the level's width.
macro_rules! at_levels {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($level:ident: Level $(, $argument:ident: $type:ty)* $(,)?) $(-> $output:ty)? $body:block) => {
        $(#[$meta])*
        $visibility fn $name($level: Level $(, $argument: $type)*) $(-> $output)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($argument: $type),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($argument: $type),*) $(-> $output)? {
                body($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($argument: $type),*) $(-> $output)? {
                body($($argument),*)
            }

            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon,dotprod")]
            #[allow(clippy::too_many_arguments)]
            fn dotprod($($argument: $type),*) $(-> $output)? {
                body($($argument),*)
            }

            match $level {
                Level::Portable => body($($argument),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a level is only ever made where the processor has its instructions.
                Level::Avx2 => unsafe { avx2($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Level::Avx512 => unsafe { avx512($($argument),*) },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: as above.
                Level::Dotprod => unsafe { dotprod($($argument),*) },
            }
        }
    };
}

pub(super) use at_levels;
