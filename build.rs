//! Compiles the vendored ONNX schema with a pure-Rust protobuf compiler; no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = "src/onnx/onnx.proto";
    println!("cargo:rerun-if-changed={schema}");
    let descriptors = protox::compile([schema], ["src/onnx"])?;
    prost_build::Config::new()
        // Weights can be hundreds of megabytes: keep them as reference-counted bytes instead of copying.
        .bytes(["TensorProto.raw_data"])
        .compile_fds(descriptors)?;
    Ok(())
}
