//! Compiles the .proto file; protox reads it, so no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=headscale");
    let files = protox::compile(["headscale/v1/headscale.proto"], ["."])?;
    tonic_prost_build::configure()
        .build_transport(false)
        // A message may hold a key: nothing prints one by accident.
        .skip_debug(["."])
        .compile_fds(files)?;
    Ok(())
}
