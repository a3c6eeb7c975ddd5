//! The published vectors; agreement with ring over lengths, counters, padding and chance; Poly1305 at its extremes against
//! arithmetic bit by bit.

use super::*;
use ginnel_engine::noise::Ring;
use proptest::prelude::*;

const KEY: [u8; 32] = {
    let mut key = [0; 32];
    let mut i = 0;
    while i < 32 {
        key[i] = i as u8;
        i += 1;
    }
    key
};

/// Whether to run; says so where not.
fn supported() -> bool {
    if !Avx512::supported() {
        println!("skipped: AVX-512 with 52-bit multiplication: not in this CPU");
    }
    Avx512::supported()
}

fn seal<A: Aead>(key: &[u8; 32], counter: u64, plain: &[u8], text_bytes: usize) -> Vec<u8> {
    let mut sealed = vec![0xa5; text_bytes + TAG_BYTES];
    A::new(key).seal(counter, plain, &mut sealed);
    sealed
}

fn open<A: Aead>(key: &[u8; 32], counter: u64, sealed: &[u8]) -> Option<Vec<u8>> {
    let mut plain = vec![0x5a; sealed.len() - TAG_BYTES];
    A::new(key).open(counter, sealed, &mut plain).then_some(plain)
}

/// Bytes without a pattern that a mistake could keep.
fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

/// As ring, both ways, `plain` padded with zeros to `text_bytes`.
fn assert_as_ring(key: &[u8; 32], counter: u64, plain: &[u8], text_bytes: usize) {
    let sealed = seal::<Avx512>(key, counter, plain, text_bytes);
    let expected = seal::<Ring>(key, counter, plain, text_bytes);
    let what = format!("{} bytes in {text_bytes}, counter {counter:#x}", plain.len());
    assert!(sealed[..text_bytes] == expected[..text_bytes], "ciphertext of {what}");
    assert_eq!(sealed[text_bytes..], expected[text_bytes..], "tag of {what}");
    let opened = open::<Avx512>(key, counter, &expected).unwrap_or_else(|| panic!("{what} does not open"));
    assert!(opened[..plain.len()] == *plain && opened[plain.len()..].iter().all(|&byte| byte == 0), "text of {what}");
}

/// RFC 8439 §2.4.2: its block counter starts where a message's text does.
#[test]
fn ciphertext_of_the_rfc() {
    if !supported() {
        return;
    }
    let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
    let expected = "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b\
                    f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8\
                    07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736\
                    5af90bbf74a35be6b40b8eedf2785e42874d";
    let sealed = seal::<Avx512>(&KEY, 0x4a00_0000, plain, plain.len());
    let hex: String = sealed[..plain.len()].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected);
}

#[test]
fn every_length_as_ring() {
    if !supported() {
        return;
    }
    let long = [2_816, 4_096, 8_999, 9_000, 16_384, 16_385, 40_001, 65_519, 65_520, 65_535];
    for length in (0..=2_100).chain(long) {
        assert_as_ring(&KEY, length as u64, &bytes(length, length as u64), length);
    }
}

#[test]
fn every_counter_as_ring() {
    if !supported() {
        return;
    }
    let plain = bytes(1_500, 1);
    for near in [0, 1 << 31, 1 << 32, 1 << 63, u64::MAX] {
        for counter in [near.wrapping_sub(1), near, near.wrapping_add(1)] {
            for length in [0, 64, 600, 1_420, 1_500] {
                assert_as_ring(&KEY, counter, &plain[..length], length);
            }
        }
    }
}

#[test]
fn zeros_behind_the_plain_text() {
    if !supported() {
        return;
    }
    let plain = bytes(1_600, 2);
    for text_bytes in [0, 16, 64, 80, 448, 512, 960, 1_024, 1_424, 1_472, 1_600, 4_000] {
        for behind in [1, 15, 16, 63, 64, 65, 130, 600, 1_030, 3_000] {
            let length = plain.len().min(usize::saturating_sub(text_bytes, behind));
            assert_as_ring(&KEY, 7, &plain[..length], text_bytes);
        }
    }
}

#[test]
fn changed_messages_do_not_open() {
    if !supported() {
        return;
    }
    for length in [0, 1, 64, 448, 576, 1_024, 1_424, 1_500] {
        let mut sealed = seal::<Avx512>(&KEY, 9, &bytes(length, 3), length);
        let tag = length..length + TAG_BYTES;
        for at in tag.chain((0..length).step_by(37)) {
            for bit in [0x01, 0x80] {
                sealed[at] ^= bit;
                assert_eq!(open::<Avx512>(&KEY, 9, &sealed), None, "byte {at} of {length}");
                sealed[at] ^= bit;
            }
        }
        assert_eq!(open::<Avx512>(&KEY, 10, &sealed), None, "another counter");
        assert_eq!(open::<Avx512>(&[1; 32], 9, &sealed), None, "another key");
        assert!(open::<Avx512>(&KEY, 9, &sealed).is_some());
    }
}

#[test]
fn too_short_to_open() {
    if !supported() {
        return;
    }
    let cipher = Avx512::new(&KEY);
    let sealed = seal::<Avx512>(&KEY, 1, &[1; 32], 32);
    assert!(cipher.open(1, &sealed, &mut [0; 32]));
    assert!(!cipher.open(1, &sealed, &mut [0; 31]), "no room");
    for length in 0..TAG_BYTES {
        assert!(!cipher.open(1, &sealed[..length], &mut [0; 64]), "{length} bytes are no tag");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_as_ring(
        key: [u8; 32], counter: u64, length in 0..3_500_usize, behind in 0..100_usize, seed: u64,
    ) {
        if Avx512::supported() {
            assert_as_ring(&key, counter, &bytes(length, seed), length + behind);
        }
    }
}

/// A block of key stream with these halves of Poly1305's key.
fn one_time_key(r: u128, s: u128) -> [u8; 64] {
    let mut key = [0xff; 64];
    key[..16].copy_from_slice(&r.to_le_bytes());
    key[16..32].copy_from_slice(&s.to_le_bytes());
    key
}

/// RFC 8439 appendix A.3, vectors 7 to 11: carries, and sums near p and 2¹²⁸.
#[test]
fn poly1305_of_the_rfc() {
    const ONES: u128 = u128::MAX;
    const TENTH: [u128; 4] = [0xb943_5e50_d794_35e3, 0xcd79_435e_50d7_9433 | 1 << 64, 0, 1];
    let vectors: [(u128, u128, &[u128], u128); 7] = [
        (2, 0, &[ONES], 3),
        (2, ONES, &[2], 3),
        (1, 0, &[ONES, ONES - 0x0f, 0x11], 5),
        (1, 0, &[ONES, u128::from_le_bytes([0xfe; 16]) - 3, u128::from_le_bytes([1; 16])], 0),
        (2, 0, &[ONES - 2], ONES - 5),
        (1 | 4 << 64, 0, &TENTH, 0x14 | 0x55 << 64),
        (1 | 4 << 64, 0, &TENTH[..3], 0x13),
    ];
    for (r, s, blocks, tag) in vectors {
        let mut mac = poly::Poly1305::new(&one_time_key(r, s));
        for block in blocks {
            mac.add(&block.to_le_bytes());
        }
        assert_eq!(u128::from_le_bytes(mac.end()), tag, "r {r:#x}, {blocks:x?}");
    }
}

#[test]
fn poly1305_at_its_extremes() {
    if !supported() {
        return;
    }
    let ones = u128::MAX;
    let p_low = ones - 4;
    let rs = [0, 1, 2, 4 << 64, 0x0fff_fffc << 96, 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff, ones, ones / 3];
    let fillings = [0, 1, ones, ones - 1, p_low, p_low - 1, 1 << 127, ones / 3, (1 << 44) - 1, ones << 88, ones << 44];
    for r in rs {
        for filling in fillings {
            for blocks in (0..=48).chain([63, 64, 89, 90, 200]) {
                let mut text: Vec<u8> = std::iter::repeat_n(filling.to_le_bytes(), blocks).flatten().collect();
                for short in [0, 5] {
                    text.truncate(text.len().saturating_sub(short));
                    for s in [0, ones] {
                        assert_eq!(tag(r, s, &text), naive_tag(r, s, &text), "r {r:#x}, {blocks} of {filling:#x}");
                    }
                }
            }
        }
    }
}

/// As [`short`] computes it.
fn tag(r: u128, s: u128, text: &[u8]) -> [u8; TAG_BYTES] {
    let mac = poly::Poly1305::new(&one_time_key(r, s));
    if !poly::lanes_pay(text.len()) {
        return mac.tag(text);
    }
    let mut powers = lanes::Powers::new();
    mac.fill(&mut powers);
    // SAFETY: who calls has seen that the processor has the features.
    unsafe { mac.tag_by_lanes(&powers, text) }
}

/// The same, multiplied a bit at a time.
fn naive_tag(r: u128, s: u128, text: &[u8]) -> [u8; TAG_BYTES] {
    let r = r & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
    let lengths = (u128::from(text.len() as u64) << 64).to_le_bytes();
    let mut sum = Residue(0, 0);
    for block in text.chunks(16).chain([&lengths[..]]) {
        let mut padded = [0; 16];
        padded[..block.len()].copy_from_slice(block);
        let with_block = sum.plus(Residue(1, u128::from_le_bytes(padded)));
        sum = Residue(0, 0);
        for bit in (0..128).rev() {
            sum = sum.plus(sum);
            if r >> bit & 1 == 1 {
                sum = sum.plus(with_block);
            }
        }
    }
    sum.1.wrapping_add(s).to_le_bytes()
}

/// A number below p: what is at 2¹²⁸, and the rest.
#[derive(Clone, Copy)]
struct Residue(u8, u128);

impl Residue {
    fn plus(self, other: Self) -> Self {
        let (low, carry) = self.1.overflowing_add(other.1);
        let high = self.0 + other.0 + u8::from(carry);
        let p = (3, u128::MAX - 4);
        if (high, low) >= p {
            let (low, borrow) = low.overflowing_sub(p.1);
            return Self(high - p.0 - u8::from(borrow), low);
        }
        Self(high, low)
    }
}
