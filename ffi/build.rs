//! Names the shared library: hosts link against `libforeturn.so.N`, where N grows when the ABI breaks.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libforeturn.so.0");
    }
}
