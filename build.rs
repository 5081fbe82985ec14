//! Compiles `proto/` into Rust and a descriptor set, with a pure-Rust compiler: no `protoc` needed.

use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 9] = [
    "goperation/v1/agent.proto",
    "goperation/v1/bridge.proto",
    "goperation/v1/cache.proto",
    "goperation/v1/endpoint.proto",
    "goperation/v1/entity.proto",
    "goperation/v1/port.proto",
    "goperation/v1/process.proto",
    "goperation/v1/request.proto",
    // So that reflection can tell clients what is in the details of an error.
    "google/rpc/error_details.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    // The encoded set keeps the google.api.http options; the prost-typed one drops them.
    fs::write(out.join("descriptor.bin"), compiler.encode_file_descriptor_set())?;

    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}
