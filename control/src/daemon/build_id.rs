//! What tells one build from another: a digest of the program file itself, so that an installer that keeps the printed
//! text sees every change of the binary and none where there is none.

use blake2::{Blake2s256, Digest};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

/// Prints 64 hexadecimal digits.
pub(super) fn print() -> ExitCode {
    match std::env::current_exe().and_then(|program| of_file(&program)) {
        Ok(id) => {
            println!("{id}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the program file cannot be read: {error}");
            ExitCode::FAILURE
        }
    }
}

fn of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Blake2s256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => digest.update(&piece[..read]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;

    #[test]
    fn the_digest_is_that_of_the_content() {
        let dir = TempDir::new();
        let path = dir.join("program");
        std::fs::write(&path, "abc").unwrap();
        // RFC 7693, appendix B.
        assert_eq!(of_file(&path).unwrap(), "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
    }
}
