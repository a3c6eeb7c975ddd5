//! Which cipher a device uses: the fastest one that the processor can run, chosen once when the device is opened, so that
//! nothing is asked per packet.

#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;

use ginnel_engine::noise::{Aead, Ring};

/// What is to be made with a cipher, whichever it is.
pub trait WithCipher {
    /// What is made.
    type Made;

    /// Makes it.
    fn with<A: Aead>(self) -> Self::Made;
}

/// Makes something with the fastest cipher of this processor.
pub fn with_fastest<W: WithCipher>(make: W) -> W::Made {
    #[cfg(target_arch = "x86_64")]
    if Avx512::supported() {
        return make.with::<Avx512>();
    }
    make.with::<Ring>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_processor_has_decides() {
        struct Name;
        impl WithCipher for Name {
            type Made = &'static str;
            fn with<A: Aead>(self) -> &'static str {
                A::NAME
            }
        }
        #[cfg(target_arch = "x86_64")]
        let expected = if Avx512::supported() { Avx512::NAME } else { Ring::NAME };
        #[cfg(not(target_arch = "x86_64"))]
        let expected = Ring::NAME;
        assert_eq!(with_fastest(Name), expected);
    }
}
