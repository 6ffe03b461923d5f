//! Writes the seeds of every target to `fuzz/corpus`. What is there besides, such as findings, stays.

use std::io::Write;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for target in moretta_fuzz::TARGETS {
        let folder = corpus.join(target.name);
        std::fs::create_dir_all(&folder)?;
        let seeds = (target.seeds)();
        for seed in &seeds {
            std::fs::write(folder.join(&seed.name), &seed.bytes)?;
        }
        writeln!(std::io::stdout(), "{}: {} seeds", target.name, seeds.len())?;
    }
    Ok(())
}
