//! What the C boundary costs: the same call through the shared library and through the Rust library, on the same model. A
//! prompt is rendered, for which no model has to run, and read; `make bench-boundary` builds the library first.

use std::ffi::c_char;
use std::hint::black_box;
use std::path::Path;
use std::ptr::{null, null_mut};

use criterion::{Criterion, criterion_group, criterion_main};
use foreturn::Engine;
use foreturn::chat::{Message, Role};
use foreturn::config::RuntimeConfig;
use foreturn::runtime::Places;
use libloading::{Library, Symbol};

#[repr(C)]
#[derive(Clone, Copy)]
struct Str {
    data: *const c_char,
    size: usize,
}

fn str(text: &str) -> Str {
    Str { data: text.as_ptr().cast(), size: text.len() }
}

#[repr(C)]
struct ModelOptions {
    size: usize,
    name: Str,
    path: Str,
}

type Init = unsafe extern "C" fn(*mut u8, usize) -> i32;
type New = unsafe extern "C" fn(*const u8, *mut *mut u8, *mut *mut u8) -> i32;
type Render = unsafe extern "C" fn(*const u8, Str, *const [Str; 2], usize, bool, *mut *mut u8, *mut *mut u8) -> i32;
type Read = unsafe extern "C" fn(*const u8, *mut Str, *mut *mut u8) -> i32;
type Free = unsafe extern "C" fn(*mut u8) -> i32;

/// foreturn_engine_options as the header has it, as far as it is needed.
#[repr(C)]
struct EngineOptions {
    size: usize,
    config_path: Str,
    config_toml: Str,
    base_folder: Str,
    models: *const ModelOptions,
    model_count: usize,
    metrics: *const u8,
    metric_count: usize,
    chat_models: *const u8,
    chat_model_count: usize,
    runtime_library: Str,
    threads: u32,
    use_loaded_runtime: bool,
    ignore_environment: bool,
}

fn boundary(c: &mut Criterion) {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let model = target.join("models/smollm2-135m-instruct");
    let (role, content) = ("user", "How are you?");

    let engine = Engine::with_model(&model, RuntimeConfig::default(), Places::default()).expect("an engine");
    let mut group = c.benchmark_group("boundary");
    group.bench_function("rust", |b| {
        b.iter(|| {
            let messages = vec![Message::new(Role::User, content)];
            black_box(engine.model("model").expect("a model").render(messages).expect("a prompt").len())
        });
    });

    // SAFETY: our own library, whose functions have these types (include/foreturn.h).
    unsafe {
        let library = Library::new(target.join("release/libforeturn.so")).expect("libforeturn.so");
        let new: Symbol<'_, New> = library.get(b"foreturn_engine_new").expect("a symbol");
        let init: Symbol<'_, Init> = library.get(b"foreturn_engine_options_init").expect("a symbol");
        let render: Symbol<'_, Render> = library.get(b"foreturn_render").expect("a symbol");
        let read: Symbol<'_, Read> = library.get(b"foreturn_string_read").expect("a symbol");
        let free_string: Symbol<'_, Free> = library.get(b"foreturn_string_free").expect("a symbol");
        let free: Symbol<'_, Free> = library.get(b"foreturn_engine_free").expect("a symbol");

        let path = model.to_str().expect("UTF-8");
        let models = ModelOptions { size: size_of::<ModelOptions>(), name: str("model"), path: str(path) };
        let mut options = std::mem::zeroed::<EngineOptions>();
        assert_eq!(init((&raw mut options).cast(), size_of::<EngineOptions>()), 0);
        (options.models, options.model_count) = (&raw const models, 1);
        let mut engine = null_mut();
        assert_eq!(new((&raw const options).cast(), &raw mut engine, null_mut()), 0);
        group.bench_function("c", |b| {
            b.iter(|| {
                let messages = [str(role), str(content)];
                let (mut string, mut text) = (null_mut(), Str { data: null(), size: 0 });
                assert_eq!(render(engine, str("model"), &raw const messages, 1, true, &raw mut string, null_mut()), 0);
                assert_eq!(read(string, &raw mut text, null_mut()), 0);
                assert_eq!(free_string(string), 0);
                black_box(text.size)
            });
        });
        assert_eq!(free(engine), 0);
    }
    group.finish();
}

criterion_group!(benches, boundary);
criterion_main!(benches);
