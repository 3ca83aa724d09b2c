//! Names the shared library: hosts link against `libforeturn.so.N`, where N grows when the ABI breaks. Exported is only
//! what this crate exports: `llguidance` has a C interface of its own (`llg_…`), which is nobody's business here.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libforeturn.so.0");
        println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
    }
}
