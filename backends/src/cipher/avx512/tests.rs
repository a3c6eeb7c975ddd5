//! Agreement with ring.
use super::*;
use ring::aead::{LessSafeKey, UnboundKey, CHACHA20_POLY1305, Aad, Nonce};
fn twin(key:&[u8;32], counter:u64, plain:&[u8], len: usize)->Vec<u8>{
    let k=LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305,key).unwrap());
    let mut v=plain.to_vec(); v.resize(len,0);
    let mut n=[0;12]; n[4..].copy_from_slice(&counter.to_le_bytes());
    k.seal_in_place_append_tag(Nonce::assume_unique_for_key(n),Aad::empty(),&mut v).unwrap(); v
}
#[test]
fn lengths(){
    let key: [u8;32]=std::array::from_fn(|i| (i*7+3) as u8);
    let c=ChaCha20Poly1305::new(&key);
    for len in 0..=2100usize {
        let plain: Vec<u8>=(0..len).map(|i| (i*31+len) as u8).collect();
        let want=twin(&key,len as u64,&plain,len);
        let mut got=vec![0xaa;len+16];
        c.seal(len as u64,&plain,&mut got);
        assert!(got[..len]==want[..len],"text {len}");
        assert!(got==want,"tag {len}");
        let mut back=vec![0x55;len];
        assert!(c.open(len as u64,&got,&mut back));
        assert!(back==plain);
    }
}
